"""The files in config: complete, true, and taken by the reader of settings."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pyramid.exceptions import ConfigurationError

from pyramid_altsession.config.sources import read_settings
from pyramid_altsession.config.table import Settings, table

CONFIG = Path(__file__).parents[2] / "config"
EVERYTHING = CONFIG / "altsession.yaml"
PRODUCTION = CONFIG / "production.yaml"

URL = "rediss://altsession:password@sessions.example.com:6380/0"
SECRET = "a-secret-of-enough-characters"


def uncommented() -> str:
    """config/altsession.yaml with every setting in force."""
    return re.sub(r"^  # (\w+:)", r"  \1", EVERYTHING.read_text(), flags=re.MULTILINE)


def lines_of_settings() -> list[str]:
    return [line for line in uncommented().splitlines() if re.match(r"  \w+:|\w+: ", line)]


def held() -> dict[str, Any]:
    """What config/altsession.yaml says, under dotted names."""
    tree = yaml.safe_load(uncommented())
    found = {}
    for top, names in tree.items():
        found |= {f"{top}.{n}": v for n, v in names.items()} if isinstance(names, dict) else {}
        found |= {} if isinstance(names, dict) else {top: names}
    return found


def test_every_setting_is_listed() -> None:
    """The file has each setting once, in the order of the table."""
    assert [line.split(":")[0].strip() for line in lines_of_settings()] == [
        name.rpartition(".")[2] for name, _ in table()
    ]
    assert list(held()) == [name for name, _ in table()]


@pytest.mark.parametrize("name", [name for name, _ in table()])
def test_defaults_are_true(name: str) -> None:
    """The value in the file is the default of the package."""
    field = dict(table())[name]
    value = held()[name]
    converted = None if value is None else field.metadata["convert"](value)
    assert converted == field.default


@pytest.mark.parametrize("line", lines_of_settings(), ids=lambda line: line.split(":")[0].strip())
def test_every_setting_has_a_comment(line: str) -> None:
    """A comment stands behind each setting, with the unit that the package counts in."""
    name = line.split(":")[0].strip()
    (field,) = [field for full, field in table() if f".{full}".endswith(f".{name}")]
    _, _, comment = line.partition(" # ")
    assert comment.strip() != ""
    for unit in ("seconds", "bytes"):
        assert (unit in comment) == (unit in field.metadata["doc"])


def test_everything_is_the_default() -> None:
    """The file as it is changes nothing."""
    assert read_settings({"config": str(EVERYTHING)}) == Settings()


def test_everything_uncommented_is_the_default(tmp_path: Path) -> None:
    """With every line in force it changes nothing either."""
    file = tmp_path / "altsession.yaml"
    file.write_text(uncommented())
    assert read_settings({"config": str(file)}) == Settings()


def test_ini_outweighs_the_file() -> None:
    """The file stands beside an .ini that says where the server is."""
    given = {"config": str(EVERYTHING), "redis.url": "embedded://", "session.tti": "300"}
    settings = read_settings(given)
    assert (settings.redis.url, settings.session.tti) == ("embedded://", 300)


def test_production(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example for production: TLS, a signed __Host- cookie, everything else from the file."""
    monkeypatch.setenv("REDIS_URL", URL)
    monkeypatch.setenv("SESSION_SECRET", SECRET)
    settings = read_settings({"config": str(PRODUCTION)})
    redis, session = settings.redis, settings.session
    assert (redis.ssl, redis.host, redis.port) == (True, "sessions.example.com", 6380)
    assert (redis.username, redis.password, redis.db) == ("altsession", "password", 0)
    assert (redis.ssl_check_hostname, redis.timeout) == (True, 0.5)
    assert (session.secret, session.cookie_name) == ((SECRET,), "__Host-sid")
    assert (session.secure, session.tti, session.lifetime) == (True, 1800, 43200)


@pytest.mark.parametrize("authorities", [None, ""])
@pytest.mark.parametrize("url", ["redis://:canary@db", "unix:///run/s", "embedded://"])
def test_production_without_tls(
    monkeypatch: pytest.MonkeyPatch, url: str, authorities: str | None
) -> None:
    """It insists on TLS, whatever the variables say."""
    monkeypatch.setenv("REDIS_URL", url)
    monkeypatch.setenv("SESSION_SECRET", SECRET)
    if authorities is not None:
        monkeypatch.setenv("REDIS_CA", authorities)
    with pytest.raises(ConfigurationError, match=r"redis\.ssl: is for TLS") as caught:
        read_settings({"config": str(PRODUCTION)})
    assert "canary" not in str(caught.value)


def test_production_with_two_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new secret in front of the old one, as the comment says."""
    monkeypatch.setenv("REDIS_URL", URL)
    monkeypatch.setenv("SESSION_SECRET", f"new-{SECRET} {SECRET}")
    assert read_settings({"config": str(PRODUCTION)}).session.secret == (f"new-{SECRET}", SECRET)


def test_production_without_its_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its variables it stops the start, and names both with their lines."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.delenv("SESSION_SECRET", raising=False)
    with pytest.raises(ConfigurationError) as caught:
        read_settings({"config": str(PRODUCTION)})
    assert re.findall(r"yaml:(\d+): the environment has no variable (\w+)", str(caught.value)) == [
        (line_of("url:"), "REDIS_URL"),
        (line_of("secret:"), "SESSION_SECRET"),
    ]


@pytest.mark.parametrize("name", ["sentinel", "cluster"])
def test_topologies(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples are taken, with their secrets from the environment."""
    for variable in ("SENTINEL_PASSWORD", "REDIS_PASSWORD"):
        monkeypatch.setenv(variable, variable.lower())
    monkeypatch.setenv("SESSION_SECRET", SECRET)
    redis = read_settings({"config": str(CONFIG / f"{name}.yaml")}).redis
    assert (redis.ssl, redis.username, redis.password) == (True, "altsession", "redis_password")
    places = redis.sentinels if name == "sentinel" else redis.cluster
    assert len(places) == 3
    assert (redis.master, redis.sentinel_password) == (
        ("sessions", "sentinel_password") if name == "sentinel" else (None, None)
    )


def line_of(setting: str) -> str:
    lines = PRODUCTION.read_text().splitlines()
    return str(next(n for n, line in enumerate(lines, 1) if line.strip().startswith(setting)))
