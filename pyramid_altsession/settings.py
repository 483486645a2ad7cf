"""Settings: one table (the dataclasses' fields), one reader from any mapping.

``read_settings`` takes what ``.ini`` files give (``altsession.session.tti = 1200``), nested
mappings, or both, and returns frozen, validated :class:`Settings`. Every fault is reported at
once, and no secret is printed.
"""

import dataclasses
import difflib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from pyramid.exceptions import ConfigurationError
from pyramid.path import AssetResolver, DottedNameResolver

from .yamlfile import Source, read_yaml, variable_in

PREFIX = "altsession."

Converter = Callable[[object], Any]
"""Takes what was found, returns the value, or raises ValueError naming what was wanted."""


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("a non-empty text")
    if not _encodable(value):
        raise ValueError("a text that can be encoded as UTF-8")
    return value.strip()


def _encodable(text: str) -> bool:
    """A lone surrogate stands for a byte of the environment that was no UTF-8."""
    return not re.search(r"[\ud800-\udfff]", text)


def _host(value: object) -> str:
    text = _text(value)
    if re.search(r"[/@\s]", text):
        raise ValueError(f"a host name or address; a URL goes into {PREFIX}redis.url")
    return text


def _path(value: object) -> str:
    text = _text(value)
    if "://" in text:
        raise ValueError(f"a path; a URL goes into {PREFIX}redis.url")
    return text


def _number(minimum: float, unit: str, *, above: bool = False) -> Converter:
    wanted = f"a number of {unit} {'above' if above else 'not below'} {minimum:g}"

    def convert(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError(wanted)
        try:
            number = float(value)
        except (ValueError, OverflowError):
            raise ValueError(wanted) from None
        if not minimum <= number < 1e10 or (above and number == minimum):
            raise ValueError(wanted)
        return number

    return convert


def _whole(minimum: int, maximum: int) -> Converter:
    wanted = f"a whole number from {minimum} to {maximum}"

    def convert(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError(wanted)
        try:
            number = int(value)
        except ValueError:
            raise ValueError(wanted) from None
        if not minimum <= number <= maximum:
            raise ValueError(wanted)
        return number

    return convert


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in ("true", "yes", "on", "1"):
        return True
    if isinstance(value, str) and value.strip().lower() in ("false", "no", "off", "0"):
        return False
    raise ValueError("true or false")


def _texts(value: object) -> tuple[str, ...]:
    """A list, or one text with its items set apart by white space or commas."""
    items = re.split(r"[\s,]+", value.strip()) if isinstance(value, str) else value
    if not isinstance(items, list | tuple) or not all(isinstance(i, str) and i for i in items):
        raise ValueError("a list of texts")
    return tuple(items)


def _secrets(value: object) -> tuple[str, ...]:
    wanted = "one or several secrets of at least 16 characters"
    try:
        found = _texts(value)
    except ValueError:
        raise ValueError(wanted) from None
    if any(len(secret) < 16 or not _encodable(secret) for secret in found):
        raise ValueError(wanted)
    return found


def _matching(pattern: str, wanted: str) -> Converter:
    compiled = re.compile(pattern)

    def convert(value: object) -> str:
        if not isinstance(value, str) or not compiled.fullmatch(value.strip()):
            raise ValueError(wanted)
        return value.strip()

    return convert


def _choice(*choices: str) -> Converter:
    def convert(value: object) -> str:
        for choice in choices:
            if isinstance(value, str) and value.strip().lower() == choice.lower():
                return choice
        raise ValueError("one of " + ", ".join(choices))

    return convert


def _callable(value: object) -> Callable[..., Any]:
    wanted = "the dotted name of something that can be called"
    try:
        found = DottedNameResolver(None).maybe_resolve(value)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{wanted} ({error})") from None
    if not callable(found):
        raise ValueError(wanted)
    return found


def _prefix(value: object) -> str:
    wanted = (
        "1 to 64 letters, digits or any of . : _ - / (no braces: they would choose the cluster's"
        " slot), not ending in ':user'"
    )
    text = _matching(r"[A-Za-z0-9.:_/-]{1,64}", wanted)(value)
    if f":{text}".endswith(":user"):
        raise ValueError(wanted)
    return str(text)


def setting(default: Any, convert: Converter, doc: str, *, secret: bool = False) -> Any:
    """One line of the table: default, converter, and the comment for people."""
    return field(
        default=default,
        metadata={"convert": convert, "doc": doc, "secret": secret},
        repr=not secret,
    )


_port = _whole(1, 65535)
_above_zero = _number(0, "seconds", above=True)
_seconds = _number(0, "seconds")
_TOKEN_CHARACTERS = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"


@dataclass(frozen=True, kw_only=True)
class RedisSettings:
    """Where the server is. ``url`` and the single names exclude each other."""

    url: str | None = setting(
        None,
        _text,
        "redis://, rediss://, valkey://, valkeys://, unix://, embedded:// or memory://",
        secret=True,
    )
    host: str = setting("localhost", _host, "host name or address")
    port: int = setting(6379, _port, "TCP port")
    socket: str | None = setting(None, _path, "path of a unix socket, instead of host and port")
    username: str | None = setting(None, _text, "user of the server's access list")
    password: str | None = setting(None, _text, "password of the server", secret=True)
    db: int = setting(0, _whole(0, 10**6), "number of the database")
    ssl: bool = setting(False, _flag, "speak TLS")
    ssl_ca_certs: str | None = setting(None, _text, "file of the authorities to trust")
    ssl_certfile: str | None = setting(None, _text, "file of our own certificate")
    ssl_keyfile: str | None = setting(None, _text, "file of our own key")
    ssl_check_hostname: bool = setting(True, _flag, "the certificate must name the host")
    timeout: float = setting(1.0, _above_zero, "seconds: bound on one round trip")
    connect_timeout: float = setting(1.0, _above_zero, "seconds: bound on connecting")
    max_connections: int = setting(64, _whole(1, 10**5), "connections of one process at most")

    @property
    def scheme(self) -> str:
        """The url's scheme; empty without a url."""
        return urlsplit(self.url or "").scheme

    @property
    def place(self) -> str:
        """Where the server is, for messages: without user and password."""
        if self.scheme in ("embedded", "memory"):
            return self.url or ""
        return self.socket or f"{self.host}:{self.port}"

    configured: bool = field(default=True, repr=False, compare=False)
    """Whether anybody said where the server is; else it is taken to be on this host."""


@dataclass(frozen=True, kw_only=True)
class SessionSettings:
    """What a session is: its times, its names, its cookie."""

    tti: float = setting(1200.0, _above_zero, "seconds without use until a session is forgotten")
    touch_interval: float | None = setting(
        None, _seconds, "seconds between two restarts of the tti by reads; default tti / 10"
    )
    lifetime: float = setting(86400.0, _seconds, "seconds until the absolute end; 0 = none")
    gone_window: float = setting(
        10.0, _seconds, "seconds in which a cookie that was just replaced starts no new session"
    )
    renew_after: float = setting(
        0.0, _seconds, "seconds until a signed-in session gets a new cookie; 0 = never"
    )
    renew_grace: float = setting(
        10.0, _seconds, "seconds that the old cookie stays good after the new one's first use"
    )
    on_reuse: str = setting(
        "ignore",
        _choice("ignore", "invalidate"),
        "what an old cookie does that comes back later than that",
    )
    first_tti: float | None = setting(
        None, _above_zero, "seconds until a session ends whose cookie never came back; default tti"
    )
    max_sessions_per_user: int = setting(0, _whole(0, 10**6), "sessions of one user; 0 = any")
    on_max_sessions: str = setting(
        "end_oldest", _choice("end_oldest", "deny"), "what one sign-in more does"
    )
    prefix: str = setting("sess", _prefix, "what the keys on the server begin with")
    secret: tuple[str, ...] = setting(
        (), _secrets, "signs the cookie; the first signs, all verify", secret=True
    )
    cookie_name: str = setting(
        "sid", _matching(_TOKEN_CHARACTERS, "a cookie name"), "name of the cookie"
    )
    domain: str | None = setting(
        None,
        _matching(r"\.?[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*", "a domain name"),
        "domain of the cookie; none = this host alone",
    )
    path: str = setting(
        "/", _matching(r"/[!-:<-~]*", "a path that begins with /"), "path of the cookie"
    )
    secure: bool = setting(True, _flag, "the browser sends the cookie over https only")
    same_site: str = setting("Lax", _choice("Lax", "Strict", "None"), "SameSite of the cookie")
    partitioned: bool = setting(False, _flag, "one cookie for each top-level site (CHIPS)")
    max_age: int | None = setting(
        None, _whole(1, 400 * 86400), "seconds the browser keeps the cookie; none = until closed"
    )
    prefetch: tuple[str, ...] = setting(
        (), _texts, "keys fetched together with the first read of a request"
    )
    codec: Converter | None = setting(
        None, _callable, "dotted name of what makes the codec of values; default JSON"
    )
    codec_secret: tuple[str, ...] = setting(
        (), _secrets, "for a codec that seals; the first seals, all open", secret=True
    )
    max_value_bytes: int = setting(
        65536, _whole(1, 512 * 1024 * 1024), "bytes of one encoded value at most"
    )


@dataclass(frozen=True, kw_only=True)
class SyncSettings:
    """The synchronous layer: ``request.session``."""

    enabled: bool = setting(False, _flag, "serve request.session from the same session")
    keys: tuple[str, ...] | None = setting(
        None, _texts, "keys that request.session may touch; default all"
    )
    on_gone: str = setting(
        "error", _choice("error", "drop"), "a write-back that finds the session gone: 409, or drop"
    )
    login_keys: tuple[str, ...] = setting(
        (), _texts, "keys that tell who is signed in, besides all that end in userid"
    )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings, validated. Numbers are seconds."""

    redis: RedisSettings = RedisSettings()
    session: SessionSettings = SessionSettings()
    sync: SyncSettings = SyncSettings()
    transactional: bool = setting(
        False, _flag, "changes of request.session are written when pyramid_tm commits"
    )
    log_events: bool = setting(False, _flag, "log every event: session id, user id, reason")


DEEPEST = 8
"""Sections within each other at most: a mapping may hold itself."""

_MAPPINGS = ("", "redis", "session", "sync")

OTHER_NAMES = {"session.timeout": "session.tti", "timeout": "session.tti"}
"""What other packages of sessions call it, where a similar name here means something else."""

ANCESTOR_NAMES = {"redis.auth_pass": "redis.password", "session.dbIndex": "redis.db"}
"""The spellings of npm ``alt-session``, and ours."""


def table() -> Iterator[tuple[str, "dataclasses.Field[Any]"]]:
    """Every setting as (dotted name, dataclass field)."""
    for section in dataclasses.fields(Settings):
        if section.metadata:
            yield section.name, section
        else:
            for entry in dataclasses.fields(section.default):  # type: ignore[arg-type]
                if entry.metadata:
                    yield f"{section.name}.{entry.name}", entry


def from_ini(mapping: Mapping[str, object]) -> dict[str, object]:
    """What belongs to this package in the settings of an application, without our prefix."""
    found: dict[str, object] = {}
    for name, value in mapping.items():
        if name.startswith(PREFIX):
            found[name.removeprefix(PREFIX)] = value
        elif name == PREFIX[:-1]:
            nested = _flat("", value) if isinstance(value, Mapping) else [("", value)]
            for inner, item in nested:
                found.setdefault(inner, item)
    return found


def _flat(prefix: str, mapping: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for name, value in mapping.items():
        if isinstance(value, Mapping) and prefix.count(".") < DEEPEST:
            yield from _flat(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", value


def read_settings(mapping: Mapping[str, object]) -> Settings:
    """Settings from ``{"session.tti": 300}`` or ``{"session": {"tti": 300}}``.

    ``config`` names a YAML file with further ones, a path or an asset specification; what the
    mapping says itself outweighs the file. An empty text counts as not given. Raises
    ConfigurationError with every fault in one message.
    """
    own = dict(_flat("", mapping))
    unreplaced = _unreplaced(own)
    config = own.pop("config", None)
    sources = [Source(own, faults=unreplaced)]
    if isinstance(config, str) and config.strip():
        sources.append(_file(config.strip()))
    found = _Found(sources)
    redis, session = (found.section(name) for name in ("redis", "session"))
    faults = (
        found.faults + _redis_faults(redis, found.title) + _session_faults(session, found.title)
    )
    if config is not None and not isinstance(config, str):
        faults.append(f"{PREFIX}config: must be the path of a YAML file{_shown(config)}")
    if faults:
        raise ConfigurationError("altsession settings:\n  " + "\n  ".join(faults))
    return Settings(
        redis=RedisSettings(**_from_url(redis)),
        session=SessionSettings(**session),
        sync=SyncSettings(**found.section("sync")),
        **found.section(""),
    )


def _unreplaced(own: dict[str, object]) -> tuple[str, ...]:
    """Take out and tell what holds a variable: nobody has replaced it before, and ``${SECRET}``
    would be a secret that everybody knows."""
    left = {name: found for name, value in own.items() if (found := variable_in(value))}
    for name in left:
        del own[name]
    return tuple(
        f"{PREFIX}{name}: {found} was not replaced; variables stand in YAML files, and the"
        " environment has to have them"
        for name, found in left.items()
    )


def _file(config: str) -> Source:
    """The YAML file at a path (from the working directory), or of an asset specification."""
    if ":" not in config:
        return read_yaml(os.path.abspath(config))
    try:
        if "://" in config:
            raise ValueError(config)
        return read_yaml(AssetResolver(None).resolve(config).abspath())
    except (ImportError, ValueError):
        fault = f"{PREFIX}config: must be a path or package:path{_shown(config)}"
        return Source({}, faults=(fault,))


def _shown(value: object) -> str:
    """What was found, for a message; not where it may be a URL, which may hold a password."""
    text = repr(value)
    return "" if "@" in text else f", not {text}"


class _Found:
    """The values of several sources, heaviest first, converted; and all that is wrong."""

    def __init__(self, sources: list[Source]) -> None:
        self.known = dict(table())
        self.values: dict[str, Any] = {}
        self.titles: dict[str, str] = {}
        self.faults: list[str] = []
        for source in sources:
            self.faults += source.faults
            self.take(source)

    def take(self, source: Source) -> None:
        spelled: dict[str, str] = {}
        for given, value in source.values.items():
            name = ANCESTOR_NAMES.get(given, given)
            title = f"{source.places.get(given, '')}{PREFIX}{given}".rstrip(".")
            if given in _MAPPINGS:
                if value is not None:  # else its settings are all commented out
                    self.faults.append(f"{title}: must be a mapping with settings in it")
            elif name not in self.known:
                self.faults.append(self.unknown(given, source.places.get(given, "")))
            elif name in spelled:
                self.faults.append(f"{title}: also given as {PREFIX}{spelled[name]}; keep one")
            elif not (value is None or value == ""):
                spelled[name] = given
                self.convert(name, title, value)

    def unknown(self, given: str, place: str) -> str:
        for name in self.known:
            if given.startswith(name + "."):  # what looks like a name may be a part of a secret
                return f"{place}{PREFIX}{name}: must be one value, without settings below it"
        if "@" in given:  # a URL in the place of a name
            return f"{place}{PREFIX}…: there is no such setting"
        last = given.rpartition(".")[2]
        near = [OTHER_NAMES[given]] if given in OTHER_NAMES else []
        near = near or [name for name in self.known if name.rpartition(".")[2] == last]
        near = near or difflib.get_close_matches(given, [*self.known, *ANCESTOR_NAMES], 1, 0.5)
        hint = "; did you mean " + " or ".join([PREFIX + name for name in near]) + "?"
        return f"{place}{PREFIX}{given}: there is no such setting{hint if near else ''}"

    def convert(self, name: str, title: str, value: object) -> None:
        metadata = self.known[name].metadata
        try:
            converted = metadata["convert"](value)
        except ValueError as wanted:
            got = "" if metadata["secret"] else _shown(value)
            self.faults.append(f"{title}: must be {wanted}{got}")
        else:
            self.values.setdefault(name, converted)
            self.titles.setdefault(name, title)

    def section(self, section: str) -> dict[str, Any]:
        """The values of one section; of "", those that stand in none."""
        named = [(name.rpartition("."), value) for name, value in self.values.items()]
        return {name: value for (start, _, name), value in named if start == section}

    def title(self, name: str) -> str:
        """How to name a setting in a message: with the file's line where it came from one."""
        return self.titles.get(name, PREFIX + name)


# -- where the server is

_SERVERS = {"redis": False, "valkey": False, "rediss": True, "valkeys": True}


def _redis_faults(given: Mapping[str, Any], title: Callable[[str], str]) -> list[str]:
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


def _from_url(given: Mapping[str, Any]) -> dict[str, Any]:
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


# -- what contradicts what


def _session_faults(given: Mapping[str, Any], title: Callable[[str], str]) -> list[str]:
    session = SessionSettings(**given)
    faults = []

    def fault(name: str, text: str) -> None:
        faults.append(f"{title(f'session.{name}')}: {text}")

    if session.first_tti is not None and session.first_tti > session.tti:
        fault("first_tti", f"{session.first_tti:g} is longer than tti {session.tti:g}")
    if session.touch_interval is not None and session.touch_interval > session.tti:
        fault("touch_interval", f"{session.touch_interval:g} is longer than tti {session.tti:g}")
    if 0 < session.lifetime < session.tti:
        fault("tti", f"{session.tti:g} is longer than session.lifetime {session.lifetime:g}")
    cookie_name = session.cookie_name.lower()  # browsers take __HOST- for __Host-
    if cookie_name.startswith("__host-"):
        if not session.secure or session.path != "/" or session.domain is not None:
            fault("cookie_name", "__Host- needs secure = true, path = / and no domain")
    elif cookie_name.startswith("__secure-") and not session.secure:
        fault("cookie_name", "__Secure- needs secure = true")
    if session.same_site == "None" and not session.secure:
        fault("same_site", "None needs secure = true, or browsers drop the cookie")
    if session.codec_secret and session.codec is None:
        fault("codec_secret", "seals nothing without session.codec: values are plain JSON")
    if session.partitioned and not session.secure:
        fault("partitioned", "needs secure = true, or browsers drop the cookie")
    return faults
