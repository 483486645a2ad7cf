"""The sessions of one application: its own, and further ones with names."""

import re
from collections.abc import Mapping
from dataclasses import replace

from pyramid.exceptions import ConfigurationError

from .converters import PREFIX
from .server_url import credential_faults
from .sources import from_ini, read_settings, read_with_places
from .table import Settings, SyncSettings

_NAMED = re.compile(rf"\b{re.escape(PREFIX)}(?=redis|session|sync|config|[a-z_]+:)")


def read_sessions(given: Mapping[str, object]) -> dict[str, Settings]:
    """Settings of every session of an application; that of ``request.altsession`` has the name "".

    ``altsession.sessions`` names the further ones. The settings of ``admin`` begin with
    ``altsession_admin.``; it has the server of the first session unless they name another.
    Raises ConfigurationError with what is wrong with one of them.
    """
    first = read_settings(from_ini(given))
    found = {"": first}
    for name in first.sessions:
        own = from_ini(given, prefix_of(name))
        try:
            settings = _further(name, own, first)
        except ConfigurationError as error:
            raise ConfigurationError(_NAMED.sub(prefix_of(name), str(error))) from None
        for other, known in found.items():
            _tell_apart(prefix_of(name), settings, prefix_of(other), known)
        found[name] = settings
    return found


def attribute_of(name: str) -> str:
    """The attribute of the request for the session with this name."""
    return prefix_of(name)[:-1]


def prefix_of(name: str) -> str:
    """The prefix of the settings for the session with this name."""
    return f"{PREFIX[:-1]}_{name}." if name else PREFIX


def _further(name: str, own: Mapping[str, object], first: Settings) -> Settings:
    settings, given, _ = read_with_places(own)
    if settings.sync != SyncSettings() or settings.transactional:
        raise _fault(f"{PREFIX}sync", f"request.session is that of {PREFIX[:-1]}; remove it")
    for setting in ("sessions", "admin_permission"):
        if setting in given:
            raise _fault(PREFIX + setting, "is a setting of the application; remove it")
    if "session.cookie_name" not in given:
        settings = replace(settings, session=replace(settings.session, cookie_name=f"sid_{name}"))
    if "session.prefix" not in given:
        settings = replace(settings, session=replace(settings.session, prefix=f"sess_{name}"))
    if not settings.redis.configured:  # the first session's server, with what is said otherwise
        names = [title.removeprefix("redis.") for title in given if title.startswith("redis.")]
        said = {name: getattr(settings.redis, name) for name in names}
        faults = credential_faults(first.redis.scheme, said, given.__getitem__)
        if faults:
            raise ConfigurationError("altsession settings:\n  " + "\n  ".join(faults))
        if "password" in said:  # a file would take precedence
            said.setdefault("password_file", None)
        settings = replace(settings, redis=replace(first.redis, **said))
    return settings


def _tell_apart(where: str, settings: Settings, other: str, known: Settings) -> None:
    """Two sessions must have cookies and keys of their own."""
    if settings.session.cookie_name == known.session.cookie_name:
        raise _fault(
            f"{where}session.cookie_name",
            f"must be another than that of {other[:-1]}, {known.session.cookie_name!r}",
        )
    mine, theirs = f"{settings.session.prefix}:", f"{known.session.prefix}:"
    within = mine.startswith(theirs) or theirs.startswith(mine)
    places = {(each.redis.place, each.redis.db) for each in (settings, known)}
    if within and len(places) == 1 and settings.redis.scheme != "memory":
        raise _fault(
            f"{where}session.prefix",
            f"its keys must stand apart from those of {other[:-1]}; {mine[:-1]!r} and"
            f" {theirs[:-1]!r} do not",
        )


def _fault(title: str, text: str) -> ConfigurationError:
    return ConfigurationError(f"altsession settings:\n  {title}: {text}")
