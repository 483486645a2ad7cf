"""Steps of a session's life. A write has at most one of them."""

from typing import ClassVar

from msgspec import Struct

from .fields import CSRF_TOKEN, USER, FieldCache
from .token import proof_of


class LifeStep(Struct, frozen=True):
    """A step has the same methods as a verb."""

    creates: ClassVar[bool] = False
    repeatable: ClassVar[bool] = True

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"  # a ``repr`` must not show a verifier

    def absent(self) -> int:
        return 0

    def note(self, cache: FieldCache, result: int) -> None:
        pass


class Touch(LifeStep, frozen=True):
    """Result 1. Every Write restarts the tti; this step does nothing else."""

    def wire(self) -> tuple[bytes, ...]:
        return (b"touch",)


class Renew(LifeStep, frozen=True):
    """Result 1. The session answers only to a new verifier; the old one is remembered as dead."""

    verifier: str

    @property
    def proof(self) -> bytes:
        return proof_of(self.verifier)

    def wire(self) -> tuple[bytes, ...]:
        return b"renew", self.proof


class Invalidate(LifeStep, frozen=True):
    """Result 1. Forgets the data and leaves a tombstone, by whose nonce a repeated script
    recognises its own.

    ``told``: this request's answer tells the browser. Otherwise the browser goes on sending the
    dead cookie, and the tombstone allows it one new session.
    """

    nonce: bytes
    user: str = ""
    told: bool = True

    def wire(self) -> tuple[bytes, ...]:
        return b"invalidate", self.nonce, self.user.encode(), b"1" if self.told else b"0"

    def note(self, cache: FieldCache, result: int) -> None:
        cache.clear()


class Rotate(LifeStep, frozen=True):
    """Periodic renewal. Result 1, or 0 when the verifier is not ``after`` ms old yet. The old
    verifier stays good until the grace after the new one's first use."""

    verifier: str
    after: int

    @property
    def proof(self) -> bytes:
        return proof_of(self.verifier)

    def wire(self) -> tuple[bytes, ...]:
        return b"rotate", self.proof, b"%d" % self.after


class Login(LifeStep, frozen=True):
    """Result: how many entries the user's index has. Binds the session to a user under a new
    verifier, with a new lifetime.

    ``tti``: the session's own (None: the setting's). ``limit``: sessions that a user may have, 0
    for any number; if the user has so many, the state is SESSION_LIMIT. ``ended``: ids of sessions
    that are over for good, which do not count if the user's index still lists them.
    """

    verifier: str
    user: str
    tti: int | None
    lifetime: int
    limit: int = 0
    info: bytes = b""
    ended: tuple[str, ...] = ()
    creates: ClassVar[bool] = True

    @property
    def proof(self) -> bytes:
        return proof_of(self.verifier)

    def wire(self) -> tuple[bytes, ...]:
        tti = b"" if self.tti is None else b"%d" % self.tti
        return (
            *(b"login", self.proof, self.user.encode(), tti),
            *(b"%d" % self.lifetime, b"%d" % self.limit, self.info, " ".join(self.ended).encode()),
        )

    def note(self, cache: FieldCache, result: int) -> None:
        cache.fields[USER] = self.user.encode()
        cache.fields[CSRF_TOKEN] = None


Life = Touch | Renew | Rotate | Login | Invalidate
"""One step of a session's life."""
