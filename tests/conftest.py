"""Servers and stores that every test can ask for."""

import os
from collections.abc import Iterator
from typing import Any

import leaks
import pytest
import redis
from accounts import Books
from apps import MADE, Behind, Watched, settings_for
from certificates import Authority
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from operator_cli import command as command  # a fixture
from sealed import CODEC, behind_of
from selection import *  # noqa: F403 - pytest looks for hooks here
from servers import Server, redis_binary, valkey
from topologies import Cluster, Sentinels, TLSServer

from pyramid_altsession.config.table import RedisSettings, Settings
from pyramid_altsession.interfaces import Store
from pyramid_altsession.stores import open_store
from pyramid_altsession.stores.sealed import SealedStore
from pyramid_altsession.stores.traffic import Traffic

# How long an example takes says how busy the machine is, not whether the code is right.
hypothesis_settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("untimed")


# -- servers and stores


@pytest.fixture(scope="session", autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After the last test no process, temporary file or open file is there that was not before. A
    run that is cut short (``-x``) is not asked: it would hide what cut it short."""
    request.getfixturevalue("tmp_path_factory").getbasetemp()  # pytest keeps its own, elsewhere
    with leaks.nothing_left(unless=lambda: request.session.shouldfail):
        yield


@pytest.fixture(autouse=True)
def patience(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no outage: the time-outs that a test's settings leave open are this long.
    Where time is what is asked the test says how much, and tests/config is about the defaults.
    (Scripts and .ini files say it themselves.)"""
    if request.path.parent.name != "config":
        defaults: Any = RedisSettings.__init__.__kwdefaults__
        monkeypatch.setitem(defaults, "timeout", 30.0)
        monkeypatch.setitem(defaults, "connect_timeout", 30.0)
        monkeypatch.setitem(Settings.__init__.__kwdefaults__, "redis", RedisSettings())


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections count what they carry as soon as one store of the process is observed: no test is
    about that because an earlier one was."""
    monkeypatch.setattr(Traffic, "measured", False)


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """The applications that a test has made give their connections back, whatever still holds them:
    a logged exception does."""
    yield
    while MADE:
        MADE.pop().close()


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[Server]:
    """Valkey 9.1, one for the whole run; ``server`` gives it empty."""
    server = valkey()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def redis7_server() -> Iterator[Server]:
    """Redis 7.0. Not installed: skipped on a laptop, a failure in CI."""
    binary = redis_binary()
    if binary is None:
        assert not os.environ.get("CI"), "CI has to have a redis-server"
        pytest.skip("no redis-server on PATH")
    server = Server(binary)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def redis7tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TLSServer]:
    """The same over TLS, which wants a certificate of its clients."""
    binary = redis_binary()
    if binary is None:
        assert not os.environ.get("CI"), "CI has to have a redis-server"
        pytest.skip("no redis-server on PATH")
    server = TLSServer(binary, Authority(tmp_path_factory.mktemp("certificates")))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def sentinel_server() -> Iterator[Sentinels]:
    """Three sentinels, a primary and its replica, for tests that change nothing of it."""
    servers = Sentinels(down_after=30_000)  # a busy machine is no outage
    servers.rest()
    yield servers
    servers.stop()


@pytest.fixture(scope="session")
def cluster_server() -> Iterator[Cluster]:
    """A cluster of three primaries and three replicas, for tests that change nothing of it."""
    servers = Cluster(timeout=30_000)
    yield servers
    servers.stop()


@pytest.fixture
def server(valkey_server: Server) -> Server:
    """An empty Valkey."""
    valkey_server.empty()
    return valkey_server


@pytest.fixture
def own_server() -> Iterator[Server]:
    """A Valkey of the test's own, which may be changed and killed."""
    server = valkey()
    yield server
    server.stop()


@pytest.fixture(params=["valkey", "redis7"])
def any_server(request: pytest.FixtureRequest) -> Server:
    """An empty server of each kind."""
    found: Server = request.getfixturevalue(f"{request.param}_server")
    found.empty()
    return found


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """Every store there is, empty; ``sealed-…``: with a sealed one over it."""
    kind, _, way = request.param.removeprefix("sealed-").partition("-")
    settings = settings_for("memory://")
    if kind != "memory":
        found: Any = request.getfixturevalue(f"{kind}_server")
        found.empty()
        url = found.tcp_url if (kind, way) == ("valkey", "tcp") else found.url
        settings = settings_for(url, redis=getattr(found, "tls", None))
    opened: Store = open_store(settings)
    yield SealedStore(opened, CODEC) if request.param.startswith("sealed-") else opened
    opened.close()


@pytest.fixture
def client(store: Store, request: pytest.FixtureRequest) -> redis.Redis | None:
    """redis-py's, at the server of the store; None: it is in memory."""
    kind = request.node.callspec.params["store"].removeprefix("sealed-").partition("-")[0]
    if kind == "memory":
        return None
    server: Server = request.getfixturevalue(f"{kind}_server")
    return server.client


@pytest.fixture
def behind(store: Store, client: redis.Redis | None) -> Behind:
    """A look behind the store's back."""
    return behind_of(store, client)


@pytest.fixture
def books(store: Store, client: redis.Redis | None) -> Books:
    """A look at the sessions and indexes behind it."""
    return Books(store, client)


@pytest.fixture
def watched(store: Store) -> Watched:
    """The same, which remembers what it was asked."""
    return Watched(store)
