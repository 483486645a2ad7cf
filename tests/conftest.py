"""Servers and stores that every test can ask for."""

import os
from collections.abc import Iterator

import leaks
import pytest
from accounts import Books, books_of
from apps import MADE, Watched
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from servers import Server, redis_binary, valkey

from pyramid_altsession.interfaces import Store
from pyramid_altsession.settings import Settings, read_settings
from pyramid_altsession.stores import open_store
from pyramid_altsession.stores.memory import MemoryStore
from pyramid_altsession.stores.redis import RedisStore

# How long an example takes says how busy the machine is, not whether the code is right.
hypothesis_settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After the last test no process, temporary file or open file is there that was not before. A
    run that is cut short (``-x``) is not asked: it would hide what cut it short."""
    request.getfixturevalue("tmp_path_factory").getbasetemp()  # pytest keeps its own, elsewhere
    with leaks.nothing_left(unless=lambda: request.session.shouldfail):
        yield


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


def settings_for(url: str, **session: object) -> Settings:
    return read_settings({"redis": {"url": url}, "session": session})


@pytest.fixture(params=["memory", "valkey-unix", "valkey-tcp", "redis7"])
def store(request: pytest.FixtureRequest) -> Iterator[MemoryStore | RedisStore]:
    """Every store there is, empty."""
    if request.param == "memory":
        url = "memory://"
    else:
        kind, _, way = request.param.partition("-")
        found: Server = request.getfixturevalue(f"{kind}_server")
        found.empty()
        url = found.tcp_url if way == "tcp" else found.url
    opened = open_store(settings_for(url))
    yield opened  # type: ignore[misc]
    opened.close()


@pytest.fixture
def books(store: Store, request: pytest.FixtureRequest) -> Books:
    """A look at the sessions and indexes behind it."""
    return books_of(store, request)


@pytest.fixture
def watched(store: Store) -> Watched:
    """The same, which remembers what it was asked."""
    return Watched(store)
