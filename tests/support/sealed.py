"""What the tests over a sealed store share."""

from typing import Any

from apps import Behind
from inside import store_in

from pyramid_altsession.codecs import EncryptedCodec
from pyramid_altsession.interfaces import Store
from pyramid_altsession.protocol.frame import end_of, ending, split
from pyramid_altsession.stores.sealed import SealedStore

SECRET = "a-secret-of-sixteen"
CODEC = EncryptedCodec((SECRET,))


def opened(id: str, name: str, raw: bytes) -> bytes:
    """A field as the application sees it."""
    if name[:1] == "@":
        return raw
    plain = CODEC.unseal(id, name, split(raw)[1])
    assert plain is not None
    return ending(plain, end_of(raw))


def behind_of(store: Store, client: Any = None) -> Behind:
    """A look behind the store's back, with plain values where it is sealed."""
    return SealedBehind(store, client) if isinstance(store, SealedStore) else Behind(store, client)


class SealedBehind(Behind):
    """Behind a sealed store's back, with its codec in hand: plain values."""

    def __init__(self, store: SealedStore, client: Any = None) -> None:
        super().__init__(store_in(store), client)

    def fields(self, id: str) -> dict[str, bytes]:
        return {name: opened(id, name, raw) for name, raw in super().fields(id).items()}

    def put(self, id: str, name: str, raw: bytes) -> None:
        super().put(id, name, raw if name[:1] == "@" else CODEC.seal(id, name, raw))
