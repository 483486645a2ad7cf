"""The settings that an application would run with, as its config URI gives them."""

import configparser
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import plaster
from pyramid.paster import get_appsettings

from ..api import SessionAPI
from ..config.converters import PREFIX
from ..config.sources import SECTIONS, from_ini, read_with_places
from ..config.table import Settings, table
from ..config.yamlfile import read_yaml
from ..interfaces import Store
from ..stores import open_store
from .errors import CommandError

COMMAND_LINE = "command line"
URL_PARTS = (
    *("host", "port", "socket", "sentinels", "master", "cluster"),
    *("username", "password", "db", "ssl"),
)
"""Settings that ``redis.url`` sets."""


class Configured(NamedTuple):
    """``sources``: where each setting comes from. ``application``: everything in the config URI's
    file, because the doctor also checks settings of other packages. ``server``: the WSGI server's
    settings, if they are in that file. ``empty``: the secrets that are given and empty, as a
    message names them. ``variables``: those of the file that the command line sets.
    """

    settings: Settings
    sources: Mapping[str, str]
    application: Mapping[str, Any]
    server: Mapping[str, Any]
    empty: tuple[str, ...]
    variables: Mapping[str, str]

    def store(self) -> Store:
        """Where the sessions live. No round trip."""
        if not self.settings.redis.configured:  # somebody else's sessions may be there
            raise CommandError(
                "the settings name no server: set altsession.redis.url, or add"
                " altsession.redis.url=redis://localhost for the default"
            )
        if self.settings.redis.scheme == "memory":
            raise CommandError(
                "altsession.redis.url: memory:// keeps sessions within the application, where no"
                " other process can see them"
            )
        return open_store(self.settings)

    @contextmanager
    def api(self) -> Iterator[SessionAPI]:
        """The API for the sessions, closed at the end of the block. No round trip."""
        api = SessionAPI(self.settings, store=self.store())
        try:
            yield api
        finally:
            api.close()


def read(uri: str, overrides: Iterable[str] = ()) -> Configured:
    """Read the config URI's file, and the ``key=value`` texts that override it.

    A key that begins with ``altsession.`` is a setting; any other is a variable of the
    file, as ``pserve`` takes them.
    """
    own, variables = _parsed(overrides)
    server: dict[str, Any] = {}
    path = uri.partition("#")[0]
    if "://" not in path and not os.path.exists(path):
        raise CommandError(f"{path}: there is no such file")
    if _is_yaml(path) and not _of_application(path):
        application: dict[str, Any] = {f"{PREFIX}config": path}
    else:
        application = _appsettings(uri, variables)
        with suppress(plaster.PlasterError, LookupError, configparser.Error):
            server = dict(plaster.get_settings(path, "server:main", defaults=variables))
    # A setting on the command line replaces the file's, whichever spelling the file uses.
    given = from_ini(application) | {name.removeprefix(PREFIX): own[name] for name in own}
    settings, titles, empty = read_with_places(given)
    sources = {}
    for name, title in titles.items():
        place = title.rpartition(": ")[0]
        sources[name] = place or (COMMAND_LINE if PREFIX + name in own else path)
    if "redis.url" in sources:
        sources |= {f"redis.{part}": "redis.url" for part in URL_PARTS}
    return Configured(settings, sources, application, server, empty, variables)


def dotted(value: Any) -> str:
    """The dotted name to show for it: where the package offers it, if it does. For an object
    without a name it is that of the object's type, because the object's text may hold a secret.
    """
    value = value if hasattr(value, "__qualname__") else type(value)
    package = value.__module__.rpartition(".")[0]
    offered = getattr(sys.modules.get(package), value.__qualname__, None) is value
    return f"{package if offered else value.__module__}.{value.__qualname__}"


def shown(configured: Configured) -> Iterable[dict[str, Any]]:
    """Every setting with its value and the source of the value; secrets are masked."""
    for name, field in table():
        section, _, last = name.rpartition(".")
        of = getattr(configured.settings, section) if section else configured.settings
        value = getattr(of, last)
        if field.metadata["secret"] and value:
            value = "********"
        if callable(value):
            value = dotted(value)
        source = configured.sources.get(name, "default")
        if source == "redis.url" and value == field.default:
            source = "default"
        yield {"setting": PREFIX + name, "value": value, "source": source}


def _parsed(overrides: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    own: dict[str, str] = {}
    variables: dict[str, str] = {}
    for text in overrides:
        name, sign, value = text.partition("=")
        name = name.strip()
        if not sign or not name:
            raise CommandError(f"{text.partition('@')[0]!r}: settings are given as key=value")
        section, dot, _ = name.partition(".")
        if section and dot and section in SECTIONS:  # else it would be a variable nobody reads
            raise CommandError(f"{name}: write {PREFIX}{name}=… to set it")
        (own if name.startswith(PREFIX) else variables)[name] = value.strip()
    return own, variables


def _is_yaml(path: str) -> bool:
    return path.endswith((".yaml", ".yml"))


def _of_application(path: str) -> bool:
    """Whether plaster reads this file; otherwise it is a settings file of this package."""
    return any(name.startswith("app.") for name in read_yaml(path).values)


def _appsettings(uri: str, variables: Mapping[str, str]) -> dict[str, Any]:
    """No message of a parser that quotes a line is shown, because the line may hold a secret."""
    try:
        return dict(get_appsettings(uri, options=dict(variables)))
    except configparser.InterpolationError as error:
        fault = f"[{error.section}] {error.option}: a % that is no variable's has to be doubled"
    except configparser.ParsingError as error:
        line = re.search(r"line:? +([0-9]+)", str(error))
        fault = f"line {line[1] if line else '?'} is neither a section nor name = value"
    except plaster.PlasterError:
        fault = "nothing here can read it; config URIs are paths of .ini or .yaml files"
        if _is_yaml(uri.partition("#")[0]):
            fault = "an application in YAML needs plaster-yaml, here and for pserve: pip install"
            fault += " plaster-yaml"
    except (ImportError, AttributeError, SyntaxError) as error:
        fault = f"the application that it names cannot be imported ({error}); if pserve needs"
        fault += " PYTHONPATH to find it, altsession needs it too"
    except (LookupError, OSError, ValueError, configparser.Error) as error:
        fault = f"no application's settings could be read ({type(error).__name__}): it needs a"
        fault += " section [app:main], whose use names an application that is installed"
    raise CommandError(f"{uri}: {fault}")
