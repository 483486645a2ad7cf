"""The cookie: ``selector.verifier``, its proof, its signature, its attributes.

The selector (session id) names the hash and may be logged. The verifier is the secret half: the
server holds its SHA-256 only, so a stolen dump holds no usable cookie.
"""

import base64
import hmac
import re
import secrets
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, NamedTuple

from pyramid.response import Response
from webob.cookies import make_cookie

from .settings import SessionSettings

MAX_CANDIDATES = 3

_TOKEN = re.compile(r"([A-Za-z0-9_-]{22})\.([A-Za-z0-9_-]{43})(?:\.([A-Za-z0-9_-]{43}))?")


def new_verifier() -> str:
    return secrets.token_urlsafe(32)


def proof_of(verifier: str) -> bytes:
    return sha256(verifier.encode()).digest()


class Claim(NamedTuple):
    """Names a session on the server and proves the right to it."""

    id: str
    proof: bytes


class Token:
    """Selector and verifier of one session; its ``repr`` shows the selector alone."""

    __slots__ = ("claim", "id", "verifier")

    def __init__(self, id: str, verifier: str) -> None:
        self.id = id
        self.verifier = verifier
        self.claim = Claim(id, proof_of(verifier))

    def __repr__(self) -> str:
        return f"<Token {self.id}>"

    @classmethod
    def new(cls) -> "Token":
        return cls(secrets.token_urlsafe(16), new_verifier())


class SessionCookie:
    """Reads tokens from requests and writes them to responses, as the settings say."""

    def __init__(self, settings: SessionSettings) -> None:
        self._name = settings.cookie_name
        # Blanks as browsers trim them: with other white space it is another cookie, one that a
        # neighbouring host may set in spite of __Host-. One way to match: the time is linear.
        name = re.escape(settings.cookie_name)
        self._values = re.compile(rf"(?:^|;)[ \t]*{name}[ \t]*=[ \t]*([^;]*)").findall
        # The signature covers where the cookie is valid, so that it is worth nothing elsewhere.
        context = f"{settings.cookie_name}\0{settings.prefix}\0".encode()
        self._signers = [hmac.new(s.encode(), context, sha256) for s in settings.secret]
        self._attributes: dict[str, Any] = {
            "path": settings.path,
            "domain": settings.domain,
            "secure": settings.secure,
            "httponly": True,
            "samesite": settings.same_site,
        }
        self._max_age = settings.max_age
        self._partitioned = "; Partitioned" if settings.partitioned else ""

    def candidates(self, environ: Mapping[str, Any]) -> tuple[Token, ...]:
        """Well-formed (and, with secrets, well-signed) tokens of a request in header order.

        A browser may send one name several times (another path or domain); at most three
        values are looked at, so that a hostile header costs no more than that.
        """
        header: str = environ.get("HTTP_COOKIE", "")
        if self._name not in header:
            return ()
        values = [value.rstrip(" \t") for value in self._values(header)[:MAX_CANDIDATES]]
        tokens = [token for value in dict.fromkeys(values) if (token := self.parse(value))]
        return tuple(tokens)

    def parse(self, value: str) -> Token | None:
        """The token in a cookie's value, or None when it is malformed or forged."""
        match = _TOKEN.fullmatch(value)
        if match is None:
            return None
        id, verifier, signature = match.groups()
        if bool(self._signers) != (signature is not None):
            return None
        if signature is not None:
            # No early end: the time taken does not tell which secret came how close.
            checks = [
                hmac.compare_digest(self._sign(signer, id, verifier), signature)
                for signer in self._signers
            ]
            if not any(checks):
                return None
        return Token(id, verifier)

    def value(self, token: Token) -> str:
        """What the cookie carries; the first secret signs."""
        value = f"{token.id}.{token.verifier}"
        if self._signers:
            value += "." + self._sign(self._signers[0], token.id, token.verifier)
        return value

    @staticmethod
    def _sign(signer: "hmac.HMAC", id: str, verifier: str) -> str:
        mac = signer.copy()
        mac.update(f"{id}.{verifier}".encode())
        return base64.urlsafe_b64encode(mac.digest()).rstrip(b"=").decode()

    def send(self, response: Response, token: Token | None) -> None:
        """Set the cookie, or drop it when ``token`` is None: same attributes either way.

        A shared cache must never keep an answer that carries somebody's cookie.
        """
        cookie = make_cookie(
            self._name,
            None if token is None else self.value(token),
            max_age=None if token is None else self._max_age,
            **self._attributes,
        )
        response.headers.add("Set-Cookie", cookie + self._partitioned)
        said = response.headers.get("Cache-Control", "").lower()
        if not re.search(r"\b(private|no-store|no-cache)\b", said):
            response.headers["Cache-Control"] = "no-store"
            response.headers.pop("Expires", None)
