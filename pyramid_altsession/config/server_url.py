"""The server's URL, and which settings contradict it."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from .converters import PREFIX, UnfitHost, as_host, as_nodes, as_sentinels
from .table import RedisSettings

_SERVERS = {"redis": False, "valkey": False, "rediss": True, "valkeys": True}
"""The schemes, and whether they mean TLS. +sentinel or +cluster may follow each of them."""
_TOPOLOGIES = ("redis+sentinel", "redis+cluster")
_PLACES = ("host", "port", "socket", "sentinels", "master", "cluster")


def redis_faults(given: Mapping[str, Any], title: Callable[[str], str]) -> list[str]:
    faults = []
    name, url = title("redis.url"), given.get("url")
    if url:
        both = {*_PLACES, "username", "password", "db"} & set(given)
        if both:
            faults.append(f"{name}: says where the server is; remove {_titles(both, title)}")
        wish = _url_fault(url)
        if wish:
            # The message does not show the URL, which may hold a password.
            faults.append(f"{name}: must be {wish}")
            return faults
        if not faults:
            faults += _place_faults(from_url(given), title)
        return faults + _tls_faults(given, title)
    both = {"host", "port", "ssl"} & set(given) if "socket" in given else set()
    if both:
        name = title("redis.socket")
        faults.append(f"{name}: says where the server is; remove {_titles(both, title)}")
        return faults
    return faults + _place_faults(given, title) + _tls_faults(given, title)


def _titles(names: Iterable[str], title: Callable[[str], str]) -> str:
    return ", ".join(title(f"redis.{name}") for name in sorted(names))


def _place_faults(given: Mapping[str, Any], title: Callable[[str], str]) -> list[str]:
    """Sentinels or clusters beside settings that name another server, or do not apply to them."""
    faults = []
    for name in ("sentinels", "cluster"):
        others = {*_PLACES, "master"} - {name, "master" if name == "sentinels" else ""}
        both = {n for n in others & set(given) if given[n] is not None and given.get(name)}
        if both:
            named = _titles(both, title)
            faults.append(f"{title(f'redis.{name}')}: says where the servers are; remove {named}")
    if bool(given.get("sentinels")) != bool(given.get("master")) and not faults:
        wanted = "redis.master, what they call the primary" if given.get("sentinels") else ""
        name = "sentinels" if wanted else "master"
        faults.append(f"{title(f'redis.{name}')}: needs {PREFIX}{wanted or 'redis.sentinels'}")
    if given.get("cluster") and given.get("db"):
        faults.append(f"{title('redis.db')}: a cluster has database 0 only")
    for name in ("sentinel_username", "sentinel_password"):
        if name in given and not given.get("sentinels"):
            faults.append(f"{title(f'redis.{name}')}: is for sentinels, and there are none")
    if given.get("password") and given.get("password_file"):
        faults.append(f"{title('redis.password_file')}: and the password is given too; keep one")
    return faults + credential_faults(urlsplit(given.get("url", "")).scheme, given, title)


def credential_faults(
    scheme: str, given: Mapping[str, Any], title: Callable[[str], str]
) -> list[str]:
    """A user or password where the package itself keeps the sessions or starts the server."""
    if scheme not in ("embedded", "memory"):
        return []
    return [
        f"{title(f'redis.{name}')}: {scheme}:// has no users and no passwords; remove it"
        for name in ("username", "password", "password_file")
        if given.get(name) is not None
    ]


def _tls_faults(given: Mapping[str, Any], title: Callable[[str], str]) -> list[str]:
    """A setting about TLS for a connection without TLS, which would silently be plaintext."""
    wanted = given.get("ssl")
    base = urlsplit(given.get("url", "")).scheme.partition("+")[0]
    tls = _SERVERS.get(base, False) if "url" in given else bool(wanted)
    if tls:
        no = f"{title('redis.ssl')}: false, and {PREFIX}redis.url has TLS"
        return [no] if wanted is False else []
    cure = f"set {PREFIX}redis.ssl = true"
    if "url" in given:
        cure = f"begin {PREFIX}redis.url with rediss://"
    elif "socket" in given:
        cure = "remove it"
    names = (
        *("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname"),
        "ssl_min_version",
    )
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


_SCHEMES = "a URL that begins with " + ", ".join(
    f"{scheme}://" for scheme in (*_SERVERS, *_TOPOLOGIES, "unix", "embedded", "memory")
)


def _url_fault(url: str) -> str | None:
    """A description of a well-formed URL, or None if this one is well-formed."""
    special = re.search(r"[][#/?]", url.partition("://")[2].rpartition("@")[0])
    if special and not url.startswith(("unix:///", "embedded:", "memory:")):
        return _ENCODED
    try:
        parts = urlsplit(url)
        if "+" in parts.scheme:
            return _topology_fault(parts)
        if parts.scheme in _SERVERS and "," in parts.netloc.rpartition("@")[2]:
            return "a URL with one host; redis+sentinel:// and redis+cluster:// take several"
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
        return _SCHEMES
    wish = f"{parts.scheme}://user:password@host:port/db"
    try:
        as_host(parts.hostname)
    except UnfitHost as wanted:
        return f"a URL with {wanted}"
    except ValueError:
        return wish
    return wish if port == 0 or _db_of(parts) is None or parts.fragment else None


def _topology_fault(parts: Any) -> str | None:
    """The same for a URL of sentinels or of a cluster."""
    base, _, kind = parts.scheme.partition("+")
    if base not in _SERVERS or kind not in ("sentinel", "cluster"):
        return _SCHEMES
    form = "host:port,host:port/master/db" if kind == "sentinel" else "host:port,host:port"
    wish = f"{parts.scheme}://user:password@{form}"
    try:
        values = _topology(parts)
    except UnfitHost as wanted:
        return f"a URL with {wanted}"
    except ValueError:
        return wish
    plain = not (parts.query or parts.fragment) and (
        kind == "sentinel" or not parts.path.strip("/")
    )
    return None if plain and (kind == "cluster" or values["master"]) else wish


def _topology(parts: Any) -> dict[str, Any]:
    """The settings in such a URL. ValueError if it is malformed."""
    hosts = parts.netloc.rpartition("@")[2]
    if parts.scheme.endswith("+cluster"):
        return {"cluster": as_nodes(hosts), "db": 0}
    master, _, db = parts.path.strip("/").partition("/")
    if not re.fullmatch(r"[0-9]{0,6}", db):
        raise ValueError(db)
    return {"sentinels": as_sentinels(hosts), "master": unquote(master), "db": int(db or 0)}


def _db_of(parts: Any) -> int | None:
    """Number of the database in a URL, None when it is malformed."""
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    text = query.pop("db", None if parts.scheme == "unix" else parts.path.strip("/")) or "0"
    return int(text) if not query and re.fullmatch(r"[0-9]{1,6}", text) else None


def from_url(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with the URL taken apart, so that all other code reads host, port, socket and
    db.
    """
    parts = urlsplit(given.get("url", ""))
    values = dict(given)
    values["configured"] = not {"url", *_PLACES}.isdisjoint(given)
    base, _, topology = parts.scheme.partition("+")
    if base not in _SERVERS and base != "unix":
        return values
    if topology:
        values |= _topology(parts)
    elif base == "unix":
        values |= {"socket": unquote(parts.path), "db": _db_of(parts)}
    else:
        values |= {"host": parts.hostname, "port": parts.port or 6379, "db": _db_of(parts)}
    if base in _SERVERS:
        values["ssl"] = _SERVERS[base]
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    values["username"] = unquote(user) or None
    values["password"] = unquote(password) or None
    return values
