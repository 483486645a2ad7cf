"""A session's id and the secret that opens it.

The selector (session id) names the hash and may be logged. The verifier is the secret half: the
server holds its SHA-256 only, so a stolen dump holds no usable cookie.
"""

import secrets
from hashlib import sha256

from msgspec import Struct

ID_LENGTH = 22


def new_csrf_token() -> str:
    """160 random bits, in hex."""
    return secrets.token_hex(20)


def new_verifier() -> str:
    return secrets.token_urlsafe(32)


def proof_of(verifier: str) -> bytes:
    return sha256(verifier.encode()).digest()


class Claim(Struct, frozen=True):
    """Names a session on the server and proves the right to it."""

    id: str
    proof: bytes


class Token:
    """Selector and verifier of one session; its ``repr`` shows only the selector."""

    __slots__ = ("claim", "id", "verifier")

    def __init__(self, id: str, verifier: str) -> None:
        self.id = id
        self.verifier = verifier
        self.claim = Claim(id, sha256(verifier.encode()).digest())

    def __repr__(self) -> str:
        return f"<Token {self.id}>"

    @classmethod
    def new(cls) -> "Token":
        return cls(secrets.token_urlsafe(16), new_verifier())
