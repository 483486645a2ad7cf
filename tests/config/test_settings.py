"""Settings: from text or typed, every fault at once, and never a secret in a message."""

import dataclasses
import datetime
import enum
import re
from pathlib import Path
from typing import Any

import pytest
from pyramid.exceptions import ConfigurationError

from pyramid_altsession.api import SessionAPI
from pyramid_altsession.codecs import encrypted
from pyramid_altsession.config.sources import ANCESTOR_NAMES, from_ini, read_settings
from pyramid_altsession.config.table import RedisSettings, SessionSettings, Settings, table

SECRET = "canary: sixteen characters"
OTHER = "canary-another-secret"


def found(settings: Settings, name: str) -> Any:
    found: Any = settings
    for part in name.split("."):
        found = getattr(found, part)
    return found


def faults(mapping: dict[str, Any]) -> list[str]:
    """The lines of the ConfigurationError, without the heading."""
    with pytest.raises(ConfigurationError) as caught:
        read_settings(mapping)
    heading, *lines = str(caught.value).split("\n  ")
    assert heading == "altsession settings:"
    assert "canary" not in str(caught.value)
    return lines


# -- what is accepted

TEXTS: list[tuple[str, str, object]] = [
    ("redis.url", "redis://h", "redis://h"),
    ("redis.host", " db.example ", "db.example"),
    ("redis.port", "7000", 7000),
    ("redis.socket", "/run/redis.sock", "/run/redis.sock"),
    ("redis.username", "app", "app"),
    ("redis.password", " pass word ", "pass word"),
    ("redis.db", "15", 15),
    ("redis.ssl", "yes", True),
    ("redis.ssl_ca_certs", "ca.pem", "ca.pem"),
    ("redis.ssl_certfile", "cert.pem", "cert.pem"),
    ("redis.ssl_keyfile", "key.pem", "key.pem"),
    ("redis.ssl_check_hostname", "off", False),
    ("redis.timeout", "0.25", 0.25),
    ("redis.connect_timeout", "2", 2.0),
    ("redis.max_connections", "8", 8),
    ("session.tti", "300", 300.0),
    ("session.touch_interval", "0", 0.0),
    ("session.lifetime", "1e5", 100_000.0),
    ("session.gone_window", "0.5", 0.5),
    ("session.notify", "keys", "keys"),
    ("session.prefix", "shop:sess", "shop:sess"),
    (
        "session.secret",
        "a-secret-of-sixteen another-of-sixteen",
        ("a-secret-of-sixteen", "another-of-sixteen"),
    ),
    ("redis.sentinels", "a:1, [::1]:2 b", (("a", 1), ("::1", 2), ("b", 26379))),
    ("redis.master", "main", "main"),
    ("redis.sentinel_username", "watcher", "watcher"),
    ("redis.sentinel_password", "s3cret", "s3cret"),
    ("redis.cluster", "a:1 b", (("a", 1), ("b", 6379))),
    ("redis.password_file", "/run/secrets/redis", "/run/secrets/redis"),
    ("redis.ssl_min_version", "1.3", "1.3"),
    ("session.cookie_name", "__Host-sid", "__Host-sid"),
    ("session.domain", ".example.com", ".example.com"),
    ("session.path", "/shop", "/shop"),
    ("session.secure", "FALSE", False),
    ("session.same_site", "strict", "Strict"),
    ("session.partitioned", "1", True),
    ("session.max_age", "3600", 3600),
    ("session.max_value_bytes", "1024", 1024),
    ("session.max_keys", "100", 100),
    ("session.max_bytes", "65536", 65536),
    ("session.codec", "pyramid_altsession.codecs.encrypted", encrypted),
    ("session.codec_secret", f"{'a' * 16} {'b' * 16}", ("a" * 16, "b" * 16)),
    ("session.codec_enums", "enum.Enum, re.RegexFlag", (enum.Enum, re.RegexFlag)),
    ("session.renew_after", "600", 600.0),
    ("session.renew_grace", "5", 5.0),
    ("session.on_reuse", "Invalidate", "invalidate"),
    ("session.first_tti", "60", 60.0),
    ("session.max_sessions_per_user", "3", 3),
    ("session.on_max_sessions", "deny", "deny"),
    ("session.prefetch", "cart, user", ("cart", "user")),
    ("sessions", "admin api_2", ("admin", "api_2")),
    ("sync.enabled", "on", True),
    ("sync.keys", "cart user", ("cart", "user")),
    ("sync.on_gone", "drop", "drop"),
    ("sync.login_keys", "account user", ("account", "user")),
    ("log_events", "yes", True),
    ("log_events", "JSON", "json"),
    ("admin_permission", "manage", "manage"),
    ("server_timing", "true", True),
    ("debugtoolbar_values", "true", True),
    ("transactional", "1", True),
]

TYPED: list[tuple[str, object, object]] = [
    ("redis.port", 7000, 7000),
    ("redis.db", 3, 3),
    ("redis.ssl", True, True),
    ("redis.timeout", 2, 2.0),
    ("redis.cluster", ["a:1", "b"], (("a", 1), ("b", 6379))),
    ("redis.cluster", [], ()),
    ("session.tti", 0.5, 0.5),
    ("session.touch_interval", 30, 30.0),
    ("session.lifetime", 0, 0.0),
    ("session.secret", ["a-secret-of-sixteen", "another one, with blanks"],
     ("a-secret-of-sixteen", "another one, with blanks")),
    ("session.secret", ("a-secret-of-sixteen",), ("a-secret-of-sixteen",)),
    ("session.secret", [], ()),
    ("session.secret", "\n  a-secret-of-sixteen,\n  another-of-sixteen\n",
     ("a-secret-of-sixteen", "another-of-sixteen")),
    ("session.secure", False, False),
    ("session.max_age", 60, 60),
    ("session.domain", None, None),
    ("session.tti", None, 1200.0),
    ("session.tti", "", 1200.0),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "value"), TEXTS, ids=[name for name, _, _ in TEXTS])
def test_from_text(name: str, text: str, value: object) -> None:
    """Every setting can be text, as .ini files give it."""
    ini = {"pyramid.reload": "true", f"altsession.{name}": text, "altsessions.tti": "x"}
    if name in ("session.codec_secret", "session.codec_enums"):
        ini["altsession.session.codec"] = "pyramid_altsession.codecs.encrypted"
    if name.startswith("redis.ssl_"):
        ini["altsession.redis.ssl"] = "true"
    if name.startswith("redis.sentinel") or name == "redis.master":
        ini = {"altsession.redis.sentinels": "a", "altsession.redis.master": "m", **ini}
    assert found(read_settings(from_ini(ini)), name) == value


def test_every_setting_is_tried() -> None:
    """No setting is missing above."""
    assert {name for name, _, _ in TEXTS} == {name for name, _ in table()}


@pytest.mark.parametrize(("name", "typed", "value"), TYPED, ids=repr)
def test_typed_and_nested(name: str, typed: object, value: object) -> None:
    """Values may come typed, in sections or under dotted names."""
    section, _, entry = name.partition(".")
    for mapping in ({name: typed}, {section: {entry: typed}}):
        assert found(read_settings(mapping), name) == value
        assert found(read_settings(from_ini({"altsession": mapping})), name) == value
        assert found(read_settings(from_ini({f"altsession.{section}": {entry: typed}})), name) == (
            value
        )


def test_defaults() -> None:
    """Without any setting the defaults hold, and are their own types."""
    assert read_settings({}) == Settings(redis=RedisSettings(), session=SessionSettings())
    session = read_settings({}).session
    assert (session.tti, session.touch_interval, session.lifetime) == (1200.0, None, 86400.0)
    assert (session.secure, session.same_site, session.cookie_name) == (True, "Lax", "sid")


def test_every_setting_has_a_line_for_people() -> None:
    """The table tells what each setting is."""
    assert all(entry.metadata["doc"] for _, entry in table())


@pytest.mark.parametrize("text", ["true", "Yes", "on", "1", " TRUE "])
def test_words_for_true(text: str) -> None:
    """Several words mean true."""
    assert read_settings({"session.partitioned": text}).session.partitioned is True


@pytest.mark.parametrize("text", ["false", "No", "off", "0", " FALSE "])
def test_words_for_false(text: str) -> None:
    """Several words mean false."""
    assert read_settings({"session.secure": text}).session.secure is False


@pytest.mark.parametrize(
    ("ancestor", "name", "value"),
    [("redis.auth_pass", "redis.password", "p"), ("session.dbIndex", "redis.db", 3)],
)
def test_spellings_of_the_ancestor(ancestor: str, name: str, value: object) -> None:
    """Settings of npm alt-session keep their names."""
    assert ANCESTOR_NAMES[ancestor] == name
    assert found(read_settings({ancestor: value}), name) == value
    section, _, entry = ancestor.partition(".")
    assert found(read_settings({section: {entry: str(value)}}), name) == value


def test_settings_of_the_ancestor() -> None:
    """What configured npm alt-session configures this package."""
    settings = read_settings(
        {
            "redis": {"host": "db", "port": 6380, "auth_pass": "p"},
            "session": {
                "dbIndex": 2, "tti": 300, "prefix": "sess", "secure": True, "domain": "example.com"
            },
        }
    )  # fmt: skip
    assert settings == Settings(
        redis=RedisSettings(host="db", port=6380, password="p", db=2),
        session=SessionSettings(tti=300.0, domain="example.com"),
    )


def test_frozen() -> None:
    """Settings do not change after they were read."""
    settings = read_settings({})
    for part, name in ((settings, "redis"), (settings.redis, "port"), (settings.session, "tti")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, name, 1)


def test_repr_without_secrets() -> None:
    """Settings may be printed."""
    secrets = {"session.secret": [SECRET, OTHER]}
    for given in (
        {"redis.url": "redis://app:canary-p@db/1", **secrets},
        {"redis.host": "db", "redis.password": "canary-p", **secrets},
    ):
        settings = read_settings(given)
        said = f"{settings!r} {settings} {settings.redis!r} {settings.redis.place}"
        assert "canary" not in said
        assert "db:6379" in said
        assert "canary" not in repr(SessionAPI(settings))


# -- where the server is

URLS: list[tuple[str, dict[str, Any]]] = [
    ("redis://db", {"host": "db", "port": 6379, "db": 0, "ssl": False}),
    ("redis://db/", {"host": "db", "db": 0}),
    ("redis://db:7000/3", {"port": 7000, "db": 3}),
    ("redis://db?db=4", {"db": 4}),
    ("REDIS://db", {"host": "db", "ssl": False}),
    ("valkey://db", {"host": "db", "ssl": False}),
    ("rediss://db", {"host": "db", "ssl": True}),
    ("valkeys://db:6380", {"port": 6380, "ssl": True}),
    ("redis://10.0.0.1", {"host": "10.0.0.1"}),
    ("redis://[::1]:7000/1", {"host": "::1", "port": 7000, "db": 1}),
    ("redis://app:p%40ss@db", {"username": "app", "password": "p@ss"}),
    ("redis://:pass@db", {"username": None, "password": "pass"}),
    ("redis://us%20er@db", {"username": "us er", "password": None}),
    ("unix:///run/redis.sock", {"socket": "/run/redis.sock", "db": 0}),
    ("unix:///run/my%20redis.sock?db=2", {"socket": "/run/my redis.sock", "db": 2}),
    ("unix://app:pass@/run/redis.sock", {"username": "app", "password": "pass"}),
    ("embedded://", {"socket": None, "scheme": "embedded", "place": "embedded://"}),
    ("embedded:///var/lib/app", {"scheme": "embedded", "place": "embedded:///var/lib/app"}),
    ("memory://", {"scheme": "memory", "place": "memory://"}),
]


@pytest.mark.parametrize(("url", "expected"), URLS, ids=[url for url, _ in URLS])
def test_urls(url: str, expected: dict[str, Any]) -> None:
    """A URL is taken apart into host, port, socket, database and user."""
    redis = read_settings({"redis.url": url}).redis
    assert {name: getattr(redis, name) for name in expected} == expected
    assert redis.configured


def test_url_beside_what_it_does_not_say() -> None:
    """Time-outs, files for TLS and the like stand beside a URL."""
    redis = read_settings(
        {"redis": {"url": "rediss://db", "timeout": 3, "ssl_ca_certs": "ca.pem"}}
    ).redis
    assert (redis.host, redis.timeout, redis.ssl_ca_certs) == ("db", 3.0, "ca.pem")


@pytest.mark.parametrize(
    ("given", "configured", "place"),
    [
        ({}, False, "localhost:6379"),
        ({"redis.timeout": 2}, False, "localhost:6379"),
        ({"redis.host": "db"}, True, "db:6379"),
        ({"redis.port": 7000}, True, "localhost:7000"),
        ({"redis.socket": "/s"}, True, "/s"),
        ({"redis.url": "redis://app:p@db:1"}, True, "db:1"),
    ],
    ids=str,
)
def test_place(given: dict[str, Any], configured: bool, place: str) -> None:
    """Messages name the place of the server without user and password, and know whether anybody
    said where it is."""
    redis = read_settings(given).redis
    assert (redis.configured, redis.place) == (configured, place)


# -- which source counts


def test_dotted_over_nested() -> None:
    """A dotted name of the .ini outweighs the nested tree, whichever stands first."""
    dotted, nested = ("altsession.session.tti", "5"), ("altsession", {"session": {"tti": 6}})
    assert read_settings(from_ini(dict([dotted, nested]))).session.tti == 5.0
    assert read_settings(from_ini(dict([nested, dotted]))).session.tti == 5.0


@pytest.fixture
def yaml(tmp_path: Path) -> Path:
    path = tmp_path / "altsession.yaml"
    path.write_text(
        "redis:\n  host: db\n  auth_pass: canary-yaml\nsession:\n  tti: 300\n  lifetime: 600\n"
    )
    return path


def test_ini_over_yaml_over_default(yaml: Path) -> None:
    """What the .ini says outweighs the YAML file, which outweighs the defaults."""
    ini = {"altsession.config": f" {yaml} ", "altsession.session.tti": "400"}
    settings = read_settings(from_ini(ini))
    assert (settings.session.tti, settings.session.lifetime) == (400.0, 600.0)
    assert (settings.redis.host, settings.redis.password) == ("db", "canary-yaml")
    assert settings.session.gone_window == 10.0


def test_empty_ini_value_leaves_yaml(yaml: Path) -> None:
    """An empty text counts as not given, in whatever source."""
    settings = read_settings({"config": str(yaml), "session.tti": "", "redis.host": None})
    assert (settings.session.tti, settings.redis.host) == (300.0, "db")


@pytest.mark.parametrize("config", ["", "  ", None])
def test_no_yaml(config: object) -> None:
    """An empty name of a file is none."""
    assert read_settings({"config": config}) == Settings()


def test_faults_name_the_place(yaml: Path) -> None:
    """A fault of the file names the file and its line, one of the .ini its setting alone."""
    yaml.write_text("session:\n  tti: -1\n\n  ttl: 5\nredis:\n  password: [canary]\n")
    assert faults({"config": str(yaml), "redis.port": "x"}) == [
        "altsession.redis.port: must be a whole number from 1 to 65535, not 'x'",
        f"{yaml}:2: altsession.session.tti: {ABOVE_ZERO}, not -1",
        f"{yaml}:4: altsession.session.ttl: there is no such setting; did you mean"
        " altsession.session.tti?",
        f"{yaml}:6: altsession.redis.password: must be a non-empty text",
    ]


def test_contradiction_between_sources(yaml: Path) -> None:
    """A contradiction between file and .ini names both places."""
    assert faults({"config": str(yaml), "redis.url": "redis://:canary@h"}) == [
        f"altsession.redis.url: says where the server is; remove {yaml}:2: altsession.redis.host,"
        f" {yaml}:3: altsession.redis.auth_pass"
    ]


# -- what is refused

SECONDS = "must be a number of seconds from 0 to 9999999999"
ABOVE_ZERO = "must be a number of seconds above 0 and at most 9999999999"
SENTINEL_FORM = "host:port,host:port/master/db"
ADDRESSES = (
    "must be one or several host:port (without a port: 6379); a URL goes into altsession.redis.url"
)
WISH_URL = (
    "redis.url: must be a URL that begins with redis://, valkey://, rediss://,"
    " valkeys://, redis+sentinel://, redis+cluster://, unix://, embedded://, memory://"
)
WISH_ENCODED = (
    "redis.url: must be a URL whose password is percent-encoded: # is %23, / is %2F, ? is %3F (in"
    " an .ini file % is doubled: %%23)"
)
WISH_HOST = "redis.host: must be a host name or address; a URL goes into altsession.redis.url"
LABELS = "that DNS allows, of 1 to 63 characters between dots"
UNFIT = ("redis..example.com", f"{'a' * 64}.example.com", ".db", "db\ufffd")
"""Names of hosts that no look-up takes."""
ONE_HOST = (
    "redis.url: must be a URL with one host; redis+sentinel:// and redis+cluster:// take several"
)
WISH_PORT = "redis.url: must be a URL whose port is a whole number from 1 to 65535"
WISH_PREFIX = (
    "session.prefix: must be 1 to 64 letters, digits or any of . : _ - / (no braces:"
    " they would choose the cluster's slot), not ending in ':user', not "
)
SEPARATED = (
    "must be one or several secrets of at least 16 characters, separated by blanks or commas"
)
WISH_SECRET = f"session.secret: {SEPARATED}"
QUOTED = "must be a non-empty text; put this value in quotes"
PORT = "must be a whole number from 1 to 65535"
NONE_SUCH = "there is no such setting"
MEANT = f"{NONE_SUCH}; did you mean altsession."

REFUSED: list[tuple[str, object, str]] = [
    # numbers
    ("session.tti", "soon", f"session.tti: {ABOVE_ZERO}, not 'soon'"),
    ("session.tti", "0", f"session.tti: {ABOVE_ZERO}, not '0'"),
    ("session.tti", -5, f"session.tti: {ABOVE_ZERO}, not -5"),
    ("session.tti", True, f"session.tti: {ABOVE_ZERO}, not True"),
    ("session.tti", [300], f"session.tti: {ABOVE_ZERO}, not [300]"),
    ("session.tti", "nan", f"session.tti: {ABOVE_ZERO}, not 'nan'"),
    ("session.tti", "20 min", f"session.tti: {ABOVE_ZERO}, not '20 min'"),
    ("session.tti", 10**400, f"session.tti: {ABOVE_ZERO}, not {10**400}"),
    ("session.lifetime", "inf", f"session.lifetime: {SECONDS}, not 'inf'"),
    ("session.lifetime", -1, f"session.lifetime: {SECONDS}, not -1"),
    ("session.lifetime", 1e10,
     f"session.lifetime: {SECONDS}, not 10000000000.0"),
    ("session.touch_interval", "-1",
     f"session.touch_interval: {SECONDS}, not '-1'"),
    ("redis.timeout", 0, f"redis.timeout: {ABOVE_ZERO}, not 0"),
    ("redis.connect_timeout", "1s", f"redis.connect_timeout: {ABOVE_ZERO}, not '1s'"),
    # whole numbers
    ("redis.port", "http", f"redis.port: {PORT}, not 'http'"),
    ("redis.port", 0, f"redis.port: {PORT}, not 0"),
    ("redis.port", 65536, f"redis.port: {PORT}, not 65536"),
    ("redis.port", 6379.0, f"redis.port: {PORT}, not 6379.0"),
    ("redis.port", True, f"redis.port: {PORT}, not True"),
    ("redis.db", "-1", "redis.db: must be a whole number from 0 to 1000000, not '-1'"),
    ("redis.db", "first", "redis.db: must be a whole number from 0 to 1000000, not 'first'"),
    ("redis.max_connections", 0,
     "redis.max_connections: must be a whole number from 1 to 100000, not 0"),
    ("session.max_age", "0", "session.max_age: must be a whole number from 1 to 34560000, not '0'"),
    ("session.codec", "pyramid_altsession.codecs.encripted",
     "session.codec: must be the dotted name of something that can be called (No module named"
     " 'pyramid_altsession.codecs.encripted'), not 'pyramid_altsession.codecs.encripted'"),
    ("session.codec", "no.such.module",
     "session.codec: must be the dotted name of something that can be called (No module named"
     " 'no'), not 'no.such.module'"),
    ("session.codec", "pyramid_altsession.codecs.MAX_DEPTH",
     "session.codec: must be the dotted name of something that can be called, not"
     " 'pyramid_altsession.codecs.MAX_DEPTH'"),
    ("session.codec", 7,
     "session.codec: must be the dotted name of something that can be called, not 7"),
    ("session.codec_secret", "short",
     f"session.codec_secret: {SEPARATED}"),
    ("session.codec_enums", "enum.Enumeration",
     "session.codec_enums: must be dotted names of enumerations (No module named"
     " 'enum.Enumeration'; 'enum' is not a package), not 'enum.Enumeration'"),
    ("session.codec_enums", "enum.Enum os.path",
     "session.codec_enums: must be dotted names of enumerations ('os.path' is none), not"
     " 'enum.Enum os.path'"),
    ("session.codec_enums", 7, "session.codec_enums: must be dotted names of enumerations, not 7"),
    ("session.max_value_bytes", "64k",
     "session.max_value_bytes: must be a whole number from 1 to 536870912, not '64k'"),
    ("session.max_keys", -1,
     "session.max_keys: must be a whole number from 0 to 1000000, not -1"),
    ("session.max_bytes", "1M",
     "session.max_bytes: must be a whole number from 0 to 536870912, not '1M'"),
    # flags and choices
    ("log_events", "xml", "log_events: must be true, false or json, not 'xml'"),
    ("session.secure", "maybe", "session.secure: must be true or false, not 'maybe'"),
    ("session.secure", 1, "session.secure: must be true or false, not 1"),
    ("redis.ssl", "required", "redis.ssl: must be true or false, not 'required'"),
    ("session.partitioned", 0.0, "session.partitioned: must be true or false, not 0.0"),
    ("session.same_site", "loose",
     "session.same_site: must be one of Lax, Strict, None, not 'loose'"),
    ("session.same_site", False,
     "session.same_site: must be one of Lax, Strict, None, not False"),
    # texts
    ("redis.host", "  ", "redis.host: must be a non-empty text, not '  '"),
    ("redis.host", 5, f"redis.host: {QUOTED}, not 5"),
    ("redis.host", "redis://:canary@db", WISH_HOST),
    ("redis.host", "app:canary@db", WISH_HOST),
    ("redis.host", "redis://db", f"{WISH_HOST}, not 'redis://db'"),
    ("redis.host", "db\0", f"{WISH_HOST}, not 'db\\x00'"),
    ("redis.host", "db:6379", "redis.host: must be a host name or address; the port goes into"
     " altsession.redis.port, not 'db:6379'"),
    ("redis.host", "a,b", "redis.host: must be one host name or address; altsession.redis.sentinels"
     " and altsession.redis.cluster take several, not 'a,b'"),
    *[
        ("redis.host", host, f"redis.host: must be a host name {LABELS}, not {host!r}")
        for host in UNFIT
    ],
    *[
        (name, ["db:1", host], f"{name}: must be host names {LABELS}, not {['db:1', host]!r}")
        for name in ("redis.sentinels", "redis.cluster")
        for host in UNFIT
    ],
    ("redis.socket", "redis://:canary@db",
     "redis.socket: must be a path; a URL goes into altsession.redis.url"),
    ("session.domain", "redis://:canary@db", "session.domain: must be a domain name"),
    ("session.prefetch", ["", "redis://:canary@db"], "session.prefetch: must be a list of texts"),
    ("config", "redis://:canary@db", "config: must be a path or package:path"),
    ("config", ["redis://:canary@db"], "config: must be the path of a YAML file"),
    ("redis.password", "canary\udcff",
     "redis.password: must be a text that can be encoded as UTF-8"),
    ("session.secret", "canary of sixteen characters \udcff", WISH_SECRET),
    ("redis.password", 12345678, f"redis.password: {QUOTED}"),
    ("redis.password", datetime.date(2026, 1, 31), f"redis.password: {QUOTED}"),
    ("redis.auth_pass", ["canary"], "redis.auth_pass: must be a non-empty text"),
    ("redis.url", 7, f"redis.url: {QUOTED}"),
    ("session.cookie_name", "s id", "session.cookie_name: must be a cookie name, not 's id'"),
    ("session.cookie_name", "sid=", "session.cookie_name: must be a cookie name, not 'sid='"),
    ("session.cookie_name", "sïd", "session.cookie_name: must be a cookie name, not 'sïd'"),
    ("session.domain", "example.com; HttpOnly",
     "session.domain: must be a domain name, not 'example.com; HttpOnly'"),
    ("session.domain", "http://example.com",
     "session.domain: must be a domain name, not 'http://example.com'"),
    ("session.path", "shop", "session.path: must be a path that begins with /, not 'shop'"),
    ("session.path", "/a;b", "session.path: must be a path that begins with /, not '/a;b'"),
    ("session.path", "/a b", "session.path: must be a path that begins with /, not '/a b'"),
    ("session.prefix", "{sess}", WISH_PREFIX + "'{sess}'"),
    ("session.prefix", "sess*", WISH_PREFIX + "'sess*'"),
    ("session.prefix", "x" * 65, WISH_PREFIX + repr("x" * 65)),
    ("session.prefix", "app:user", WISH_PREFIX + "'app:user'"),
    ("session.prefix", "user", WISH_PREFIX + "'user'"),
    ("session.prefix", 5, WISH_PREFIX + "5"),
    # secrets
    ("session.secret", "canary", WISH_SECRET),
    ("session.secret", ["canary sixteen characters", "canary"], WISH_SECRET),
    ("session.secret", ["canary sixteen characters", 5], WISH_SECRET),
    ("session.secret", 5, f"{WISH_SECRET}; put this value in quotes"),
    ("session.secret", 12345678901234.56, f"{WISH_SECRET}; put this value in quotes"),
    ("session.secret", ",", WISH_SECRET),
    # urls
    ("redis.url", "canary", WISH_URL),
    ("redis.url", "http://:canary@db", WISH_URL),
    ("redis.url", "redis+sentinel-canary://db", WISH_URL),
    *[
        ("redis.url", url, f"redis.url: must be {url.partition(':')[0]}://user:password@{form}")
        for url, form in (
            ("redis+sentinel://:canary@a,b", SENTINEL_FORM),
            ("redis+sentinel://:canary@/main", SENTINEL_FORM),
            ("redis+sentinel://:canary@a:99999/main", SENTINEL_FORM),
            ("rediss+sentinel://:canary@a/main/one", SENTINEL_FORM),
            ("redis+sentinel://:canary@a/main?x=1", SENTINEL_FORM),
            ("redis+cluster://:canary@a,b/1", "host:port,host:port"),
            ("valkeys+cluster://:canary@", "host:port,host:port"),
        )
    ],
    ("redis.cluster", "a:0", f"redis.cluster: {ADDRESSES}, not 'a:0'"),
    ("redis.cluster", 7, f"redis.cluster: {ADDRESSES}, not 7"),
    *[
        ("redis.url", f"{scheme}://:canary@{host}{path}",
         f"redis.url: must be a URL with {wanted} {LABELS}")
        for host in UNFIT
        for scheme, path, wanted in (
            ("redis", ":1/0", "a host name"), ("valkeys", "", "a host name"),
            ("redis+cluster", ",b", "host names"), ("rediss+sentinel", ":1/main", "host names"),
        )
    ],
    ("redis.url", "redis://:canary@a b", "redis.url: must be redis://user:password@host:port/db"),
    ("redis.url", "redis://:canary@a,b", ONE_HOST),
    ("redis.url", "redis://:can,ary@a:1,b:2/0", ONE_HOST),
    ("redis.url", "redis://:canary@db:0", "redis.url: must be redis://user:password@host:port/db"),
    ("redis.url", "redis://:canary@db:99999", WISH_PORT),
    ("redis.url", "redis://:canary@db:port", WISH_PORT),
    ("redis.url", "redis://:canary@[::1", WISH_PORT),
    ("redis.url", "redis://:canary@", "redis.url: must be redis://user:password@host:port/db"),
    ("redis.url", "rediss:///canary", "redis.url: must be rediss://user:password@host:port/db"),
    ("redis.url", "redis://db/canary", "redis.url: must be redis://user:password@host:port/db"),
    ("redis.url", "redis://db/0/1", "redis.url: must be redis://user:password@host:port/db"),
    ("redis.url", "redis://db?timeout=5", "redis.url: must be redis://user:password@host:port/db"),
    *[
        ("redis.url", url, WISH_ENCODED)
        for url in (
            "redis://:can#ary@db", "redis://app:can/ary@db", "redis://app:12/canary@db?db=3",
            "rediss://app:can?ary@db", "redis://app:can[ary@db", "valkey://app:can]ary@db/1",
            "redis://:can#ar@y@db", "unix://app:can#ary@/run/s",
        )
    ],
    ("redis.url", "redis://db/#canary", "redis.url: must be redis://user:password@host:port/db"),
    ("redis.url", "unix://", "redis.url: must be unix:///path?db=0"),
    ("redis.url", "unix://run/canary.sock", "redis.url: must be unix:///path?db=0"),
    ("redis.url", "unix:///run/s?db=x", "redis.url: must be unix:///path?db=0"),
    ("redis.url", "unix:///run/s?size=1", "redis.url: must be unix:///path?db=0"),
    ("redis.url", "unix:///run/s#canary", "redis.url: must be unix:///path?db=0"),
    ("redis.url", "memory://canary", "redis.url: must be memory:// alone"),
    ("redis.url", "memory:///canary", "redis.url: must be memory:// alone"),
    ("redis.url", "embedded://canary",
     "redis.url: must be embedded:// alone or with a path: embedded:///path"),
    ("redis.url", "embedded://?x=canary",
     "redis.url: must be embedded:// alone or with a path: embedded:///path"),
    # names
    ("session.ttl", 5, f"session.ttl: {MEANT}session.tti?"),
    ("session.cookie", "sid",
     f"session.cookie: {MEANT}session.cookie_name?"),
    ("redis.pasword", "canary",
     f"redis.pasword: {MEANT}redis.password?"),
    ("session.secrte", "canary", f"session.secrte: {MEANT}session.secret?"),
    ("redis.dbIndex", 1, f"redis.dbIndex: {MEANT}redis.db?"),
    ("session.Secure", "true", f"session.Secure: {MEANT}session.secure?"),
    ("zzzzzzzzzzzzzzzz", "canary", f"zzzzzzzzzzzzzzzz: {NONE_SUCH}"),
    ("session.timeout", 300, f"session.timeout: {MEANT}session.tti?"),
    ("timeout", 300, f"timeout: {MEANT}session.tti?"),
    ("tti", 300, f"tti: {MEANT}session.tti?"),
    ("secret", "canary", f"secret: {MEANT}session.secret?"),
    ("redis.cookie_name", "sid", f"redis.cookie_name: {MEANT}session.cookie_name?"),
    ("url", "canary", f"url: {MEANT}redis.url?"),
    ("enabled", True, f"enabled: {MEANT}sync.enabled?"),
    ("redis.connect_timeout.canary", 1,
     "redis.connect_timeout: must be one value, without settings below it"),
    ("session.secret.canary", "x",
     "session.secret: must be one value, without settings below it"),
    ("redis.redis://:canary@h", "x", "…: there is no such setting"),
    ("config", 5, "config: must be the path of a YAML file, not 5"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "message"),
    REFUSED,
    ids=lambda one: repr(one)[:40],
)
def test_refused(name: str, value: object, message: str) -> None:
    """A fault names the setting, what is wanted and, unless it is secret, what was found."""
    assert faults({name: value}) == [f"altsession.{message}"]


NO_TLS = "is for TLS, and this connection has none"
SET_TLS = "set altsession.redis.ssl = true"
CONTRADICTIONS: list[tuple[dict[str, Any], str]] = [
    (
        {"redis.url": "redis://:canary@h", "redis.host": "h"},
        "redis.url: says where the server is; remove altsession.redis.host",
    ),
    (
        {"redis.url": "memory://", "redis.auth_pass": "canary", "session.dbIndex": 1},
        "redis.url: says where the server is; remove altsession.session.dbIndex,"
        " altsession.redis.auth_pass",
    ),
    (
        {"redis": {"url": "redis://h", "port": 1, "socket": "/s", "username": "u", "db": 1}},
        "redis.url: says where the server is; remove altsession.redis.db, altsession.redis.port,"
        " altsession.redis.socket, altsession.redis.username",
    ),
    (
        {"redis.socket": "/s", "redis.host": "h", "redis.port": 1},
        "redis.socket: says where the server is; remove altsession.redis.host,"
        " altsession.redis.port",
    ),
    (
        {"redis.socket": "/s", "redis.ssl": False},
        "redis.socket: says where the server is; remove altsession.redis.ssl",
    ),
    *[
        ({**where, f"redis.{name}": value}, f"redis.{name}: {NO_TLS}; {cure}")
        for name, value in (
            ("ssl_ca_certs", "ca.pem"),
            ("ssl_certfile", "c"),
            ("ssl_keyfile", "k"),
            ("ssl_check_hostname", False),
        )
        for where, cure in (
            ({}, SET_TLS),
            ({"redis.host": "db"}, SET_TLS),
            ({"redis.host": "db", "redis.ssl": False}, SET_TLS),
            ({"redis.socket": "/run/s"}, "remove it"),
            *[
                ({"redis.url": url}, "begin altsession.redis.url with rediss://")
                for url in ("redis://db", "valkey://db", "unix:///s", "embedded://", "memory://")
            ],
        )
    ],
    (
        {"redis.url": "redis://db", "redis.ssl": True},
        f"redis.ssl: {NO_TLS}; begin altsession.redis.url with rediss://",
    ),
    (
        {"redis.url": "rediss://db", "redis.ssl": False},
        "redis.ssl: false, and altsession.redis.url has TLS",
    ),
    (
        {"session.tti": 60, "session.touch_interval": 61},
        "session.touch_interval: 61 is longer than tti 60",
    ),
    (
        {"session.first_tti": 2000},
        "session.first_tti: 2000 is longer than tti 1200",
    ),
    (
        {"session.touch_interval": 2000},
        "session.touch_interval: 2000 is longer than tti 1200",
    ),
    (
        {"session.tti": 3600, "session.lifetime": 1800},
        "session.tti: 3600 is longer than session.lifetime 1800, where 0 means no end",
    ),
    (
        {"session.lifetime": 1800.5, "session.tti": 1800.75},
        "session.tti: 1800.75 is longer than session.lifetime 1800.5, where 0 means no end",
    ),
    (
        {"session.tti": 2592000},
        "session.tti: 2592000 is longer than session.lifetime 86400, where 0 means no end",
    ),
    *[
        (
            {"session.cookie_name": name, **wrong},
            "session.cookie_name: __Host- needs secure = true, path = / and no domain",
        )
        for name in ("__Host-sid", "__HOST-sid")
        for wrong in (
            {"session.secure": False},
            {"session.path": "/shop"},
            {"session.domain": "example.com"},
        )
    ],
    (
        {"session.cookie_name": "__Secure-sid", "session.secure": "false"},
        "session.cookie_name: __Secure- needs secure = true",
    ),
    (
        {"session.same_site": "none", "session.secure": "false"},
        "session.same_site: None needs secure = true, or browsers drop the cookie",
    ),
    (
        {"session.codec_secret": "canary-of-sixteen-characters"},
        "session.codec_secret: seals nothing without session.codec: values are plain JSON",
    ),
    (
        {"session.codec_enums": "enum.Enum"},
        "session.codec_enums: is for session.codec = pyramid_altsession.codecs.rich",
    ),
    (
        {"redis.url": "redis+cluster://a", "redis.cluster": "b"},
        "redis.url: says where the server is; remove altsession.redis.cluster",
    ),
    (
        {"redis.sentinels": "a", "redis.master": "m", "redis.host": "b"},
        "redis.sentinels: says where the servers are; remove altsession.redis.host",
    ),
    (
        {"redis.cluster": "a", "redis.socket": "/s"},
        "redis.cluster: says where the servers are; remove altsession.redis.socket",
    ),
    (
        {"redis.sentinels": "a"},
        "redis.sentinels: needs altsession.redis.master, what they call the primary",
    ),
    ({"redis.master": "m"}, "redis.master: needs altsession.redis.sentinels"),
    ({"redis.cluster": "a", "redis.db": 1}, "redis.db: a cluster has database 0 only"),
    (
        {"redis.url": "redis://a", "redis.sentinel_password": "canary"},
        "redis.sentinel_password: is for sentinels, and there are none",
    ),
    (
        {"redis.url": "redis://:canary@a", "redis.password_file": "f"},
        "redis.password_file: and the password is given too; keep one",
    ),
    *[
        (
            {"redis.url": f"{scheme}://", "redis.password_file": "f"},
            f"redis.password_file: {scheme}:// has no users and no passwords; remove it",
        )
        for scheme in ("embedded", "memory")
    ],
    (
        {"redis.url": "embedded://", "redis.username": "u", "redis.auth_pass": "canary"},
        "redis.url: says where the server is; remove altsession.redis.auth_pass,"
        " altsession.redis.username",
    ),
    (
        {"redis.url": "redis+cluster://a", "redis.ssl_min_version": "1.3"},
        "redis.ssl_min_version: is for TLS, and this connection has none; begin"
        " altsession.redis.url with rediss://",
    ),
    (
        {"session.partitioned": True, "session.secure": False},
        "session.partitioned: needs secure = true, or browsers drop the cookie",
    ),
]


@pytest.mark.parametrize(("given", "message"), CONTRADICTIONS, ids=lambda one: str(one)[:60])
def test_contradictions(given: dict[str, Any], message: str) -> None:
    """Settings that cannot hold together are refused at start, with all names."""
    assert faults(given) == [f"altsession.{message}"]


@pytest.mark.parametrize(
    "given",
    [
        {"session.tti": 60, "session.touch_interval": 60},
        {"session.tti": 60, "session.lifetime": 60},
        {"session.tti": 1e9, "session.lifetime": 0},
        {"session.cookie_name": "__Host-sid"},
        {"session.cookie_name": "__Secure-sid", "session.path": "/x", "session.domain": "a.b"},
        {"session.cookie_name": "__Hostess", "session.secure": False},
        {"session.same_site": "None", "session.partitioned": True},
        {"session.prefix": "users"},
        {"redis.socket": "/s", "redis.password": "p", "redis.db": 1},
        {"redis.url": "", "redis.host": "h"},
        *[
            {"redis.host": h}
            for h in ("a.", "a_b.c", "::1", "fe80::1%eth0", "bücher.example", "a" * 63)
        ],
        {"redis.url": "redis://u,v:p,q@a_b.c.:1"},
        {"redis.url": "redis+cluster://[::1]:1,bücher.example,a."},
        {"redis.url": "rediss://h", "redis.ssl": True, "redis.ssl_ca_certs": "ca.pem"},
        {"redis.url": "redis://h", "redis.ssl": False},
        {"redis.url": "rediss+sentinel://a/m/1", "redis.ssl_ca_certs": "c", "redis.ssl": True},
        {"redis.url": "rediss+cluster://a", "redis.password_file": "f"},
        {"redis.url": "redis://h", "redis.ssl_check_hostname": True, "redis.ssl_keyfile": ""},
        {"redis.host": "h", "redis.ssl": True, "redis.ssl_certfile": "c"},
        {"redis.auth_pass": "", "redis.password": "p"},
    ],
    ids=str,
)
def test_no_contradictions(given: dict[str, Any]) -> None:
    """What can hold together is accepted."""
    read_settings(given)


def test_given_twice() -> None:
    """The same setting under two names is refused, whatever the values."""
    assert faults({"redis.auth_pass": "canary-1", "redis.password": "canary-2"}) == [
        "altsession.redis.password: also given as altsession.redis.auth_pass; keep one"
    ]
    assert faults({"redis": {"db": 1}, "session": {"dbIndex": 1}}) == [
        "altsession.session.dbIndex: also given as altsession.redis.db; keep one"
    ]


def test_all_faults_at_once() -> None:
    """Every fault stands in one message, none hides another, and no secret among them."""
    given = {
        "redis": {"port": "x", "auth_pass": 5, "hots": "canary", "url": "redis://:canary@h:0"},
        "session.secret": SECRET[:8],
        "session.tti": 100,
        "session.touch_interval": 200,
        "session.same_site": "None",
        "session.secure": "no",
        "session.path": "x",
    }
    assert faults(given) == [
        "altsession.redis.port: must be a whole number from 1 to 65535, not 'x'",
        f"altsession.redis.auth_pass: {QUOTED}",
        "altsession.redis.hots: there is no such setting; did you mean altsession.redis.host?",
        f"altsession.{WISH_SECRET}",
        "altsession.session.path: must be a path that begins with /, not 'x'",
        "altsession.redis.url: must be redis://user:password@host:port/db",
        "altsession.session.touch_interval: 200 is longer than tti 100",
        "altsession.session.same_site: None needs secure = true, or browsers drop the cookie",
    ]


def test_section_that_is_none() -> None:
    """A section that is no mapping is told, and what stands there is not."""
    wish = "must be a section of settings, such as altsession."
    assert faults({"session": SECRET}) == [f"altsession.session: {wish}session.tti"]
    assert faults({"redis": [SECRET], "sync": "true"}) == [
        f"altsession.redis: {wish}redis.url",
        f"altsession.sync: {wish}sync.enabled",
    ]
    assert faults(from_ini({"altsession": SECRET})) == [f"altsession: {wish}redis.url"]


def test_empty_sections() -> None:
    """A section whose lines are all commented out, and the whole of it, count as empty."""
    assert read_settings(from_ini({"altsession": None})) == Settings()
    assert read_settings(from_ini({"altsession": {"redis": None, "sync": None}})) == Settings()


def test_variable_that_nobody_replaced() -> None:
    """Variables stand in YAML files: elsewhere ${SECRET} would be a secret that all know."""
    told = "was not replaced; variables stand in YAML files, and the environment has to have them"
    given = {
        "redis": {"password": "${PASSWORD}", "url": "redis://:${P:-canary}@db"},
        "session.secret": [SECRET, "canary-${B}-and-${C}"],
        "config": "${HERE}/altsession.yaml",
        "session.codec_secret": "canary-${D:-${E}}",
        "redis.username": "${F?canary}",
        "session.prefix": "$sess{a}",
    }
    assert faults(given) == [
        f"altsession.redis.password: ${{PASSWORD}} {told}",
        f"altsession.redis.url: ${{P}} {told}",
        f"altsession.session.secret: ${{B}} {told}",
        f"altsession.config: ${{HERE}} {told}",
        f"altsession.session.codec_secret: ${{D}} {told}",
        f"altsession.redis.username: ${{F}} {told}",
        f"altsession.{WISH_PREFIX}'$sess{{a}}'",
    ]


def test_settings_without_a_configurator() -> None:
    """``SessionAPI.from_settings`` takes dotted, nested and .ini names alike."""
    for mapping in (
        {"altsession.redis.url": "memory://"},
        {"redis.url": "memory://"},
        {"redis": {"url": "memory://"}},
    ):
        api = SessionAPI.from_settings(mapping)
        assert api.settings.redis.scheme == "memory"
        api.close()
