"""Read settings from an .ini file's mapping, from a YAML file or from a dict."""

import difflib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from pyramid.exceptions import ConfigurationError
from pyramid.path import AssetResolver

from .converters import PREFIX
from .server_url import from_url, redis_faults
from .table import RedisSettings, SessionSettings, Settings, SyncSettings, table
from .yamlfile import Source, read_yaml, variable_in

DEEPEST = 8
"""How deep sections may be nested at most, because a mapping may contain itself."""


SECTIONS = {
    "": "redis.url", "redis": "redis.url", "session": "session.tti", "sync": "sync.enabled"
}  # fmt: skip
"""The sections, and one of the settings in each, for messages."""


OTHER_NAMES = {"session.timeout": "session.tti", "timeout": "session.tti"}
"""Names of settings in other session packages, if a similar name here means something else."""


ANCESTOR_NAMES = {"redis.auth_pass": "redis.password", "session.dbIndex": "redis.db"}
"""The spellings of npm ``alt-session``, and those of this package."""


def from_ini(mapping: Mapping[str, object], prefix: str = PREFIX) -> dict[str, object]:
    """The settings of this package among those of an application, without the prefix."""
    if not isinstance(mapping, Mapping):
        raise TypeError(f"the settings must be a mapping, not {type(mapping).__name__}")
    found: dict[str, object] = {}
    for name, value in mapping.items():
        if name.startswith(prefix):
            found[name.removeprefix(prefix)] = value
        elif name == prefix[:-1]:
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

    ``config`` names a YAML file with more settings, by a path or an asset specification; the
    mapping's own settings take precedence over the file. An empty text counts as not given. Raises
    ConfigurationError with all mistakes in one message.
    """
    return read_with_places(mapping).settings


class Placed(NamedTuple):
    """Settings; for each setting that was given, how a message names it: with file and line, if it
    came from a file; and so the secrets that were given as an empty text, and by no other source.
    """

    settings: Settings
    titles: Mapping[str, str]
    empty: tuple[str, ...]


def read_with_places(mapping: Mapping[str, object]) -> Placed:
    """The same, with the places that the settings came from."""
    own = dict(_flat("", mapping))
    unreplaced = _unreplaced(own)
    config = own.pop("config", None)
    sources = [Source(own, faults=unreplaced)]
    if isinstance(config, str) and config.strip():
        sources.append(_file(config.strip()))
    found = _Found(sources)
    redis, session = (found.section(name) for name in ("redis", "session"))
    faults = found.faults + redis_faults(redis, found.title) + _session_faults(session, found.title)
    if config is not None and not isinstance(config, str):
        faults.append(f"{PREFIX}config: must be the path of a YAML file{_shown(config)}")
    if faults:
        raise ConfigurationError("altsession settings:\n  " + "\n  ".join(faults))
    settings = Settings(
        redis=RedisSettings(**from_url(redis)),
        session=SessionSettings(**session),
        sync=SyncSettings(**found.section("sync")),
        **found.section(""),
    )
    empty = tuple([title for name, title in found.empty.items() if name not in found.titles])
    return Placed(settings, found.titles, empty)


def _unreplaced(own: dict[str, object]) -> tuple[str, ...]:
    """Remove and report settings with a variable that was not replaced: ``${SECRET}`` would be a
    secret that everybody knows.
    """
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
    """The value that was found, for a message; left out if it may be a URL, which may hold a
    password.
    """
    text = repr(value)
    return "" if "@" in text else f", not {text}"


class _Found:
    """The converted values of several sources, in the order of precedence, and all mistakes."""

    def __init__(self, sources: list[Source]) -> None:
        self.known = dict(table())
        self.values: dict[str, Any] = {}
        self.titles: dict[str, str] = {}
        self.empty: dict[str, str] = {}
        self.faults: list[str] = []
        for source in sources:
            self.faults += source.faults
            self.take(source)

    def take(self, source: Source) -> None:
        spelled: dict[str, str] = {}
        for given, value in source.values.items():
            name = ANCESTOR_NAMES.get(given, given)
            title = f"{source.places.get(given, '')}{PREFIX}{given}".rstrip(".")
            if given in SECTIONS:
                if value is not None:  # otherwise all its settings are commented out
                    fault = f"must be a section of settings, such as {PREFIX}{SECTIONS[given]}"
                    blank = "; YAML wants a blank after each colon" if source.places else ""
                    self.faults.append(f"{title}: {fault}{blank}")
            elif name not in self.known:
                self.faults.append(self.unknown(given, source.places.get(given, "")))
            elif name in spelled:
                self.faults.append(f"{title}: also given as {PREFIX}{spelled[name]}; keep one")
            elif not (value is None or value == ""):
                spelled[name] = given
                self.convert(name, title, value)
            elif value == "" and self.known[name].metadata["secret"]:
                self.empty.setdefault(name, title)

    def unknown(self, given: str, place: str) -> str:
        for name in self.known:
            # The rest is not shown, because it may be a part of a secret.
            if given.startswith(name + "."):
                return f"{place}{PREFIX}{name}: must be one value, without settings below it"
        if "@" in given:  # a URL in place of a name
            return f"{place}{PREFIX}…: there is no such setting"
        last = given.rpartition(".")[2]
        near = [OTHER_NAMES[given]] if given in OTHER_NAMES else []
        near = near or [name for name in self.known if name.rpartition(".")[2] == last]
        near = near or [name for name in self.known if sorted(name) == sorted(given)]
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
        """The values of one section; for "", those outside of any section."""
        named = [(name.rpartition("."), value) for name, value in self.values.items()]
        return {name: value for (start, _, name), value in named if start == section}

    def title(self, name: str) -> str:
        """How to name a setting in a message: with file and line, if it came from a file."""
        return self.titles.get(name, PREFIX + name)


def _session_faults(given: Mapping[str, Any], title: Callable[[str], str]) -> list[str]:
    session = SessionSettings(**given)
    faults = []

    def fault(name: str, text: str) -> None:
        faults.append(f"{title(f'session.{name}')}: {text}")

    if session.first_tti is not None and session.first_tti > session.tti:
        fault("first_tti", f"{session.first_tti:.12g} is longer than tti {session.tti:.12g}")
    interval = session.touch_interval
    if interval is not None and interval > session.tti:
        fault("touch_interval", f"{interval:.12g} is longer than tti {session.tti:.12g}")
    if 0 < session.lifetime < session.tti:
        lifetime = f"{session.lifetime:.12g}, where 0 means no end"
        fault("tti", f"{session.tti:.12g} is longer than session.lifetime {lifetime}")
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
    if session.codec_enums and session.codec is None:
        fault("codec_enums", "is for session.codec = pyramid_altsession.codecs.rich")
    if session.partitioned and not session.secure:
        fault("partitioned", "needs secure = true, or browsers drop the cookie")
    return faults
