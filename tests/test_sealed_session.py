"""What a session promises holds over a sealed store: the very tests of test_session, where what
a test puts on the server, or looks at there, is sealed by the other's hand."""

from collections.abc import Iterator

import pytest
from apps import Behind
from conftest import settings_for
from servers import Server
from test_session import *  # noqa: F403

from pyramid_altsession.codecs import EncryptedCodec
from pyramid_altsession.stores import open_store
from pyramid_altsession.stores.sealed import SealedStore

CODEC = EncryptedCodec(("a secret of sixteen",))


@pytest.fixture(params=["memory", "valkey-unix"])
def store(request: pytest.FixtureRequest) -> Iterator[SealedStore]:
    url = "memory://"
    if request.param != "memory":
        server: Server = request.getfixturevalue("server")
        url = server.url
    sealed = SealedStore(open_store(settings_for(url)), CODEC)
    yield sealed
    sealed.close()


class SealedBehind(Behind):
    """Sealed values behind the store's back, as plain ones."""

    def fields(self, id: str) -> dict[str, bytes]:
        held = super().fields(id)
        return {n: raw if n[0] == "@" else CODEC.unseal(id, n, raw) for n, raw in held.items()}

    def put(self, id: str, name: str, raw: bytes) -> None:
        super().put(id, name, raw if name[0] == "@" else CODEC.seal(id, name, raw))


@pytest.fixture
def behind(store: SealedStore, request: pytest.FixtureRequest) -> Behind:
    memory = request.node.callspec.params["store"] == "memory"
    return SealedBehind(
        store._store, None if memory else request.getfixturevalue("server").client
    )
