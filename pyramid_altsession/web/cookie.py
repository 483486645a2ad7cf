"""The cookie: ``selector.verifier``, its signature, its attributes."""

import base64
import hmac
import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any

from pyramid.response import Response
from webob.cookies import make_cookie

from ..config.table import SessionSettings
from ..protocol.token import Claim, Token

MAX_CANDIDATES = 3
_SHAPE = r"[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}"
_SIGNED_SHAPE = _SHAPE + r"\.[A-Za-z0-9_-]{43}"
_CHECKED_BY_BROWSERS = ("__host-", "__secure-", "__http-")


_QUOTED = re.compile(r'"(?:\\.?|[^"\\])*(?:"|$)')


class SessionCookie:
    """Reads tokens from requests and writes them to responses, as the settings say."""

    def __init__(self, settings: SessionSettings) -> None:
        self._name = settings.cookie_name
        shape = _SIGNED_SHAPE if settings.secret else _SHAPE
        self._shape = re.compile(shape)
        # Only the blanks that browsers trim: with other white space it is another cookie, which a
        # neighbouring host may set in spite of __Host-. There is only one way to match, so the time
        # is linear. Quotes around a value are no part of it (RFC 6265, 4.1.1). A comma ends a
        # value: servers join several Cookie lines with it.
        name = re.escape(settings.cookie_name)
        cookie = rf'[ \t]*{name}[ \t]*=[ \t]*("?)({shape})\1[ \t]*(?=[;,]|\Z)'
        self._by_semicolon = re.compile(rf"(?:\A|;){cookie}")
        # A neighbouring host can put a comma into its own cookie, and behind it a name that
        # browsers would not let it set.
        checked = settings.cookie_name.lower().startswith(_CHECKED_BY_BROWSERS)
        self._by_comma = None if checked else re.compile(rf",{cookie}")
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
        """Well-formed (and, with secrets, well-signed) tokens of a request in header order, each
        session's once.

        A browser may send one name several times (another path or domain); at most three
        well-formed values are looked at, so that a hostile header costs no more than that. Those
        behind a comma come last: an application may have put a visitor's text into a cookie.
        """
        header: str = environ.get("HTTP_COOKIE", "")
        if self._name not in header:
            return ()
        found = self._by_semicolon.findall(header)
        if self._by_comma is not None and "," in header:
            found += self._by_comma.findall(header)
        if found and not found[1:] and not self._signers:  # true for nearly every visitor
            id, verifier = found[0][1].split(".")
            return (Token(id, verifier),)
        values = list(dict.fromkeys([value for _, value in found]))[:MAX_CANDIDATES]
        tokens: dict[Claim, Token] = {}
        for value in values:
            token = self.parse(value)
            if token is not None:  # the same token, signed with two secrets
                tokens.setdefault(token.claim, token)
        return tuple(tokens.values())

    def parse(self, value: str) -> Token | None:
        """The token in a cookie's value, or None when it is malformed or forged."""
        if self._shape.fullmatch(value) is None:
            return None
        id, verifier, *signature = value.split(".")
        if signature:
            # All secrets are compared, so that the time does not show which one matched.
            checks = [
                hmac.compare_digest(self._sign(signer, id, verifier), signature[0])
                for signer in self._signers
            ]
            if not any(checks):
                return None
        return Token(id, verifier)

    def value(self, token: Token) -> str:
        """The cookie's value, signed with the first secret."""
        value = f"{token.id}.{token.verifier}"
        if self._signers:
            value += "." + self._sign(self._signers[0], token.id, token.verifier)
        return value

    @staticmethod
    def _sign(signer: "hmac.HMAC", id: str, verifier: str) -> str:
        mac = signer.copy()
        mac.update(f"{id}.{verifier}".encode())
        return base64.urlsafe_b64encode(mac.digest()).rstrip(b"=").decode()

    def send(self, response: Response, token: Token | None, age: int | None = None) -> None:
        """Set the cookie, or drop it if ``token`` is None, with the same attributes.

        ``age``: milliseconds that a remembered session has, instead of the setting. A shared
        cache must never keep an answer that carries somebody's cookie.
        """
        cookie = make_cookie(
            self._name,
            None if token is None else self.value(token),
            max_age=None if token is None else self._max_age if age is None else age // 1000,
            **self._attributes,
        )
        response.headers.add("Set-Cookie", cookie + self._partitioned)
        keep_from_caches(response)


_PRIVATE = frozenset({"private", "no-store"})


def keep_from_caches(response: Response) -> None:
    """Say no-store, unless the answer says that it is for one visitor only."""
    if not _PRIVATE & directives(response.headers.getall("Cache-Control")):
        response.headers["Cache-Control"] = "no-store"
        response.headers.pop("Expires", None)


def directives(lines: Iterable[str]) -> set[str]:
    """The directives of Cache-Control that stand without an argument: ``private="x-name"`` is
    about only that header (RFC 9111, 5.2.2.7)."""
    said = ",".join([_QUOTED.sub('""', line) for line in lines])
    return {directive.strip(" \t").lower() for directive in said.split(",")}
