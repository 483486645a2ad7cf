"""The four ways to say a setting mean the same, through the loaders that applications use: an
``.ini`` file, a YAML file that it names, ``pserve app.yaml``, ``SessionAPI.from_settings``."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import plaster
import pytest
import yaml
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from test_settings import REFUSED, TEXTS, found

from pyramid_altsession import SessionAPI
from pyramid_altsession.config.sources import read_settings
from pyramid_altsession.config.table import Settings
from pyramid_altsession.interfaces import ISessionAPI

Tree = dict[str, Any]
Way = Callable[[Path, Tree], Settings]
"""From settings under their dotted names, with a folder for files."""


def nested(given: Tree) -> Tree:
    """``{"session.tti": 1}`` as ``{"session": {"tti": 1}}``."""
    tree: Tree = {}
    for name, value in given.items():
        section, _, entry = name.rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[entry] = value
    return tree


def text_of(value: object) -> str:
    """A typed value as an .ini file says it."""
    return " ".join(value) if isinstance(value, list) else str(value)


def write(file: Path, tree: Tree) -> None:
    """All on one line, so that every fault is on line 1."""
    file.write_text(yaml.safe_dump(tree, default_flow_style=True, sort_keys=False, width=10**9))


@cache
def loader_for(scheme: str) -> plaster.ILoaderInfo:
    """The loader that pserve finds. It looks through all that is installed: once is enough."""
    (found,) = plaster.find_loaders(scheme, protocols=["wsgi"])
    return found


def application(file: Path) -> Settings:
    """What an application finds whose settings pserve reads from this file."""
    address = plaster.parse_uri(str(file))
    loader = loader_for(address.scheme).load(address)
    config = Configurator(settings=loader.get_wsgi_app_settings())
    config.include("pyramid_tm")  # altsession.transactional wants it
    config.include("pyramid_altsession")
    config.commit()
    found: Settings = config.registry.getUtility(ISessionAPI).settings
    return found


def ini(folder: Path, given: Tree) -> Settings:
    file = folder / "app.ini"
    lines = [f"altsession.{name} = {text_of(value)}" for name, value in given.items()]
    file.write_text("\n".join(["[app:main]", "use = egg:pyramid_altsession#demo", *lines]) + "\n")
    return application(file)


def yaml_file(folder: Path, given: Tree) -> Settings:
    write(folder / "altsession.yaml", nested(given))
    return ini(folder, {"config": "%(here)s/altsession.yaml"})


def app_yaml(folder: Path, given: Tree) -> Settings:
    file = folder / "app.yaml"
    write(file, {"app": {"use": "egg:pyramid_altsession#demo", "altsession": nested(given)}})
    return application(file)


def app_yaml_dotted(folder: Path, given: Tree) -> Settings:
    file = folder / "app.yaml"
    write(file, {"app": {f"altsession.{name}": value for name, value in given.items()}})
    return application(file)


def app_yaml_with_a_file(folder: Path, given: Tree) -> Settings:
    write(folder / "altsession.yaml", nested(given))
    return app_yaml_dotted(folder, {"config": "%(here)s/altsession.yaml"})


def from_settings(folder: Path, given: Tree) -> Settings:
    api = SessionAPI.from_settings(nested(given))
    api.close()
    return api.settings


WAYS: list[Way] = [ini, yaml_file, app_yaml, app_yaml_dotted, app_yaml_with_a_file, from_settings]
every_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)


def typed(value: object, text: str) -> object:
    """What YAML and Python programs hold for a value of ours."""
    if callable(value):
        return text
    if isinstance(value, tuple) and not isinstance(value[0], str):  # addresses, or classes
        return text.replace(",", " ").split()
    return list(value) if isinstance(value, tuple) else value


CODEC = "pyramid_altsession.codecs.encrypted"
BESIDE = {
    "session.codec": {"session.codec_secret": "a-secret-of-sixteen"},
    "session.codec_secret": {"session.codec": CODEC},
    "session.codec_enums": {"session.codec": "pyramid_altsession.codecs.rich"},
    "transactional": {"sync.enabled": True},
    "redis.ssl_ca_certs": {"redis.ssl": True},
    "redis.ssl_certfile": {"redis.ssl": True},
    "redis.ssl_keyfile": {"redis.ssl": True},
    "redis.ssl_check_hostname": {"redis.ssl": True},
    "redis.ssl_min_version": {"redis.ssl": True},
    "redis.sentinels": {"redis.master": "m"},
    "redis.master": {"redis.sentinels": ["a"]},
    "redis.sentinel_username": {"redis.sentinels": ["a"], "redis.master": "m"},
    "redis.sentinel_password": {"redis.sentinels": ["a"], "redis.master": "m"},
}
"""What some settings want beside them."""


SHOP: Tree = {
    "redis.host": "db",
    "redis.port": 7000,
    "redis.db": 3,
    "redis.password": "a pass word",
    "redis.ssl": True,
    "redis.timeout": 0.25,
    "session.tti": 300,
    "session.lifetime": 7200.5,
    "session.secret": ["a-secret-of-sixteen", "another-of-sixteen"],
    "session.cookie_name": "__Host-sid",
    "session.same_site": "strict",
    "session.prefetch": ["cart", "user"],
    "session.max_age": 3600,
    "sync.enabled": True,
    "sync.keys": ["cart"],
    "log_events": True,
    "transactional": False,
}


@every_way
@pytest.mark.parametrize(("name", "text", "value"), TEXTS, ids=[name for name, _, _ in TEXTS])
def test_every_setting(way: Way, name: str, text: str, value: object, tmp_path: Path) -> None:
    """Each setting, said in each way, is the same."""
    given = {name: typed(value, text), **BESIDE.get(name, {})}
    expected = read_settings(given)
    assert found(expected, name) != found(Settings(), name)
    assert way(tmp_path, given) == expected


@every_way
def test_whole_application(way: Way, tmp_path: Path) -> None:
    """Equal content gives equal Settings, whatever the way."""
    settings = way(tmp_path, SHOP)
    assert settings == read_settings(SHOP)
    assert (settings.session.lifetime, settings.redis.port) == (7200.5, 7000)
    assert settings.session.secret == ("a-secret-of-sixteen", "another-of-sixteen")


@every_way
def test_nothing_said(way: Way, tmp_path: Path) -> None:
    """Without settings it is the defaults everywhere."""
    assert way(tmp_path, {}) == Settings()


# -- what is refused


def complaints(way: Way, folder: Path, given: Tree) -> list[str]:
    """The faults that the application dies of, without the folder in the names of files."""
    with pytest.raises(ConfigurationError) as caught:
        way(folder, given)
    message = str(caught.value).replace(f"{folder}/", "")
    assert "canary" not in message
    _, _, told = message.partition("altsession settings:\n  ")
    faults, _, _ = told.partition("\n  in:\n")  # what follows is Pyramid's
    return faults.split("\n  ")


@pytest.mark.parametrize(
    ("way", "place"),
    [(yaml_file, "altsession.yaml:1: "), (app_yaml, ""), (from_settings, "")],
    ids=["yaml_file", "app_yaml", "from_settings"],
)
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [row for row in REFUSED if row[0] != "config"],
    ids=lambda one: repr(one)[:40],
)
def test_refused(
    way: Way, place: str, name: str, value: object, message: str, tmp_path: Path
) -> None:
    """A wrong value or name is refused in the same words; of a file the line is named."""
    assert complaints(way, tmp_path, {name: value}) == [f"{place}altsession.{message}"]


UNREPLACED = "was not replaced; variables stand in YAML files, and the environment has to have them"


@pytest.mark.parametrize(
    ("way", "fault"),
    [
        (ini, f"altsession.session.secret: ${{NONE}} {UNREPLACED}"),
        (app_yaml, f"altsession.session.secret: ${{NONE}} {UNREPLACED}"),
        (from_settings, f"altsession.session.secret: ${{NONE}} {UNREPLACED}"),
        (yaml_file, "altsession.yaml:1: the environment has no variable NONE"),
        (app_yaml_with_a_file, "altsession.yaml:1: the environment has no variable NONE"),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_undefined_variable(
    way: Way, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable that the environment does not have stops the start, and is no value."""
    monkeypatch.delenv("NONE", raising=False)
    given = {"session.secret": "canary-${NONE}-and-more", "session.tti": 0}
    assert complaints(way, tmp_path, given)[0] == fault


@pytest.mark.parametrize("way", [yaml_file, app_yaml, app_yaml_dotted, app_yaml_with_a_file])
def test_defined_variable(way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In YAML files, ours and that of pserve, a variable stands for what the environment has."""
    monkeypatch.setenv("SECRET", "secret-of-the-environment")
    given = {"session.secret": "${SECRET}", "redis.host": "${NONE:-db}"}
    settings = way(tmp_path, given)
    assert settings.session.secret == ("secret-of-the-environment",)
    assert settings.redis.host == "db"


@pytest.mark.parametrize("way", [ini, app_yaml, app_yaml_dotted, from_settings])
def test_missing_file(way: Way, tmp_path: Path) -> None:
    """A file that is not there is told under the setting that names it, beside other faults."""
    given = {"config": str(tmp_path / "none.yaml"), "session.ttl": 5}
    assert complaints(way, tmp_path, given) == [
        "altsession.session.ttl: there is no such setting; did you mean altsession.session.tti?",
        "altsession.config: none.yaml: No such file or directory",
    ]


@pytest.mark.parametrize("way", [ini, app_yaml, app_yaml_dotted, from_settings])
def test_contradiction_between_the_sources(way: Way, tmp_path: Path) -> None:
    """What the file says and what stands beside its name may contradict: both are named."""
    file = tmp_path / "altsession.yaml"
    file.write_text("redis:\n  url: redis://:canary@db\n\nsession:\n  secure: false\n")
    given = {"config": str(file), "redis.port": 7000, "session.same_site": "None"}
    assert complaints(way, tmp_path, given) == [
        "altsession.yaml:2: altsession.redis.url: says where the server is;"
        " remove altsession.redis.port",
        "altsession.session.same_site: None needs secure = true, or browsers drop the cookie",
    ]


@pytest.mark.parametrize("text", ["canary", "[canary]", "7"])
def test_app_yaml_that_holds_no_mapping(text: str, tmp_path: Path) -> None:
    """Something else than a mapping under ``altsession:`` or under a section is refused."""
    file = tmp_path / "app.yaml"
    wish = "must be a section of settings, such as altsession.redis.url"
    for start, name in (("altsession:", "altsession"), ("altsession.redis:", "altsession.redis")):
        file.write_text(f"app:\n  {start} {text}\n")
        assert complaints(lambda folder, given: application(file), tmp_path, {}) == [
            f"{name}: {wish}"
        ]
