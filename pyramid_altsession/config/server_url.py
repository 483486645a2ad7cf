"""The server's URL, and which settings contradict it."""

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from .converters import PREFIX
from .table import RedisSettings

_SERVERS = {"redis": False, "valkey": False, "rediss": True, "valkeys": True}


def redis_faults(given: Mapping[str, Any], title: Callable[[str], str]) -> list[str]:
    faults = []
    name, url = title("redis.url"), given.get("url")
    if url:
        both = {"host", "port", "socket", "username", "password", "db"} & set(given)
        if both:
            named = ", ".join(title(f"redis.{n}") for n in sorted(both))
            faults.append(f"{name}: says where the server is; remove {named}")
        wish = _url_fault(url)
        if wish:
            # The found text stays out: a URL may hold a password.
            faults.append(f"{name}: must be {wish}")
            return faults
    elif "socket" in given and {"host", "port", "ssl"} & set(given):
        faults.append(f"{title('redis.socket')}: excludes redis.host, redis.port and redis.ssl")
        return faults
    return faults + _tls_faults(given, title)


def _tls_faults(given: Mapping[str, Any], title: Callable[[str], str]) -> list[str]:
    """A setting about TLS beside a connection that has none: it would be plaintext, silently."""
    wanted = given.get("ssl")
    tls = _SERVERS.get(urlsplit(given["url"]).scheme, False) if "url" in given else bool(wanted)
    if tls:
        no = f"{title('redis.ssl')}: false, and {PREFIX}redis.url has TLS"
        return [no] if wanted is False else []
    cure = f"set {PREFIX}redis.ssl = true"
    if "url" in given:
        cure = f"begin {PREFIX}redis.url with rediss://"
    elif "socket" in given:
        cure = "remove it"
    names = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname")
    plain = RedisSettings()
    idle = [name for name in names if given.get(name, getattr(plain, name)) != getattr(plain, name)]
    if wanted and "url" in given:
        idle.insert(0, "ssl")
    return [
        f"{title(f'redis.{n}')}: is for TLS, and this connection has none; {cure}" for n in idle
    ]


_ENCODED = (
    "a URL whose password is percent-encoded: # is %23, / is %2F, ? is %3F (in an .ini file % is"
    " doubled: %%23)"
)


def _url_fault(url: str) -> str | None:
    """What a well-formed url would be, or None when this one is."""
    special = re.search(r"[][#/?]", url.partition("://")[2].rpartition("@")[0])
    if special and not url.startswith(("unix:///", "embedded:", "memory:")):
        return _ENCODED
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "a URL whose port is a whole number from 1 to 65535"
    if parts.scheme in ("embedded", "memory"):
        plain = not (parts.netloc or parts.query or parts.fragment)
        path_allowed = parts.scheme == "embedded" or not parts.path
        return (
            None
            if plain and path_allowed
            else f"{parts.scheme}:// alone"
            + (" or with a path: embedded:///path" if parts.scheme == "embedded" else "")
        )
    if parts.scheme == "unix":
        relative = parts.hostname or not parts.path or parts.fragment
        return "unix:///path?db=0" if relative or _db_of(parts) is None else None
    if parts.scheme not in _SERVERS:
        return "a URL that begins with " + ", ".join(
            f"{scheme}://" for scheme in (*_SERVERS, "unix", "embedded", "memory")
        )
    if port == 0 or not parts.hostname or _db_of(parts) is None or parts.fragment:
        return f"{parts.scheme}://user:password@host:port/db"
    return None


def _db_of(parts: Any) -> int | None:
    """Number of the database in a URL, None when it is malformed."""
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    text = query.pop("db", None if parts.scheme == "unix" else parts.path.strip("/")) or "0"
    return int(text) if not query and re.fullmatch(r"[0-9]{1,6}", text) else None


def from_url(given: Mapping[str, Any]) -> dict[str, Any]:
    """The url taken apart, so that everybody else reads host, port, socket, db."""
    parts = urlsplit(given.get("url", ""))
    values = dict(given)
    values["configured"] = not {"url", "host", "port", "socket"}.isdisjoint(given)
    if parts.scheme not in _SERVERS and parts.scheme != "unix":
        return values
    if parts.scheme == "unix":
        values["socket"] = unquote(parts.path)
    else:
        values |= {"host": parts.hostname, "port": parts.port or 6379}
        values["ssl"] = _SERVERS[parts.scheme]
    values["db"] = _db_of(parts)
    values["username"] = unquote(parts.username) if parts.username else None
    values["password"] = unquote(parts.password) if parts.password else None
    return values
