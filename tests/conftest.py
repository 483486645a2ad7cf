"""Servers and stores that every test can ask for."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain, groupby
from typing import Any

import leaks
import pytest
import redis
from accounts import Books
from apps import MADE, Behind, Watched, settings_for
from certificates import Authority
from coverage import Coverage
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from operator_cli import command as command  # a fixture
from sealed import CODEC, behind_of
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


# -- which tests, and in what order


def own_process(item: pytest.Item) -> bool:
    """Whether the test starts a process of its own."""
    return "own_server" in getattr(item, "fixturenames", ())


def shared(item: pytest.Item) -> str:
    """The order of includes of a test, the applications of which several tests use."""
    params = (
        item.callspec.params
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
        else {}
    )
    return "-".join(params.get("includes", ()))


def repeated(item: pytest.Item) -> bool:
    """Whether the same test is there on Valkey, and plain: over pyramid_retry and with awaitable
    sessions it is another one, but says the same."""
    if hasattr(item.module, "ORIGINAL"):  # type: ignore[attr-defined]
        return kind_of(item) not in ("", "memory")
    given = getattr(item, "callspec", None)
    again = given and any(value in ("redis7", "retried") for value in texts(given.params))
    return kind_of(item) not in ("", "valkey-unix") or bool(again)


def texts(params: Mapping[str, object]) -> list[str]:
    return [value for value in params.values() if isinstance(value, str)]


def left_out(item: pytest.Item) -> bool:
    """Whether its module has no use for this case of the test."""
    given = getattr(item, "callspec", None)
    rule = getattr(item.module, "left_out", None)  # type: ignore[attr-defined]
    return left_to_the_original(item) or bool(rule and given and rule(given.params))


def left_to_the_original(item: pytest.Item) -> bool:
    """Whether a test that tests/aio shares with the plain stores and sessions asks neither. A
    prefetch is a task that waits there, and the name of a session is another one: test_async has
    both."""
    if not hasattr(item.module, "ORIGINAL"):  # type: ignore[attr-defined]
        return False
    own = "prefetch" in item.name or item.name.startswith("test_repr_")
    return own or "store" not in item.fixturenames  # type: ignore[attr-defined]


def dealt(items: list[pytest.Item]) -> list[pytest.Item]:
    """Every case of a test on the stores that have all of them; on each of the others some, so that
    all of them together have every case once, and each has one at least. In CI, and wherever
    ALTSESSION_EVERY_STORE is set, every case on every store."""
    if os.environ.get("CI") or os.environ.get("ALTSESSION_EVERY_STORE"):
        return items
    cases: dict[str, dict[Case, int]] = {}
    others: dict[str, dict[str, int]] = {}
    for item in items:
        if kind := kind_of(item):
            seen = cases.setdefault(test_of(item), {})
            seen.setdefault(case_of(item), len(seen))
            if not has_every_case(kind, item):
                found = others.setdefault(test_of(item), {})
                found.setdefault(kind, len(found))

    def its_turn(item: pytest.Item) -> bool:
        kind = kind_of(item)
        if not kind or has_every_case(kind, item):
            return True
        seen, found = cases[test_of(item)], others[test_of(item)]
        case, store = seen[case_of(item)], found[kind]
        return case % len(found) == store or store % len(seen) == case

    return [item for item in items if its_turn(item)]


Case = tuple[tuple[str, int], ...]


def kind_of(item: pytest.Item) -> str:
    """The store that the test is given; "": none."""
    given = getattr(item, "callspec", None)
    return str(given.params.get("store", "")) if given else ""


def test_of(item: pytest.Item) -> str:
    """The test that it is a case of."""
    return item.nodeid.partition("[")[0]


def case_of(item: pytest.Item) -> Case:
    """Its parameters, without the store."""
    params = item.callspec.params  # type: ignore[attr-defined]
    return tuple(sorted((name, id(value)) for name, value in params.items() if name != "store"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked ``volume`` come first, so that no worker is left with one in the end. They
    repeat, thousands of times, what plain tests do once: their lines are not counted."""
    items[:] = dealt([item for item in items if not left_out(item)])
    for item in items:
        if own_process(item):
            item.add_marker("process")
        if repeated(item):
            item.add_marker("repeated")
    items.sort(key=lambda item: (item.get_closest_marker("volume") is None, shared(item)))
    groups = [list(group) for _, group in groupby(items, key=lambda i: shared(i) or i.nodeid)]
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    in_turn = [group for first in range(workers) for group in groups[first::workers]]
    items[:] = chain.from_iterable(in_turn)


IN_MEMORY_TOO = ("session", "identity", "request_session", "operator")
"""Folders whose tests are not about stores."""


def uncounted(item: pytest.Item) -> bool:
    """Whether other tests go through the same lines: those of stores, and the same test in memory.
    To count takes as long as to test."""
    kind = kind_of(item)
    if item.get_closest_marker("volume") or kind in ("valkey-tcp", "redis7", "sealed-valkey-unix"):
        return True
    twin = "twin" in getattr(item, "fixturenames", ())
    return kind == "valkey-unix" and (twin or item.path.parent.name in IN_MEMORY_TOO)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Without every coverage that runs: a worker has two, of which the ``no_cover`` marker of
    pytest-cov stops one, so that the other goes on."""
    stopped: list[Coverage] = []
    while uncounted(item) and (running := Coverage.current()):
        running.stop()
        stopped.append(running)
    try:
        return (yield)
    finally:
        for each in reversed(stopped):
            each.start()


LEFT_OUT: Counter[str] = Counter()


def pytest_deselected(items: list[pytest.Item]) -> None:
    LEFT_OUT.update(item.location[0] for item in items)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if output := getattr(session.config, "workeroutput", None):
        output["left_out"] = dict(LEFT_OUT)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    LEFT_OUT.clear()  # every worker says the same
    LEFT_OUT.update(getattr(node, "workeroutput", {}).get("left_out", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if LEFT_OUT and terminalreporter.config.option.markexpr:
        files = ", ".join(f"{name} {count}" for name, count in LEFT_OUT.most_common())
        terminalreporter.write_line(f"Left out, {LEFT_OUT.total()} tests: {files}")


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


STORES = ["memory", "valkey-unix", "redis7"]
TOPOLOGIES = ["valkey-tcp", "redis7tls", "sentinel-tcp", "cluster-tcp"]
SEALED = ["sealed-memory", "sealed-valkey-unix"]
MORE_STORES = {
    # The contract and users' sessions are tried on every topology; other tests are not about where
    # the servers are.
    "test_contract": TOPOLOGIES,
    "test_limits": TOPOLOGIES,
    "test_users": TOPOLOGIES,
    # What a session promises holds over sealed stores too.
    "test_session": ["sealed-valkey-unix"],
    "test_attach": ["cluster-tcp", *SEALED],
    "test_sync": SEALED,
}
EVERY_CASE = ["memory", "valkey-unix"]
EVERY_CASE_ON_REDIS = ("test_contract", "test_limits", "test_value_ttl")
"""Where the server's own words matter; elsewhere Redis 7.0 is one of those that share the cases."""


def has_every_case(kind: str, item: pytest.Item) -> bool:
    on_redis = item.path.stem in EVERY_CASE_ON_REDIS
    return kind in EVERY_CASE or (kind == "redis7" and on_redis)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Which stores the tests of a module are about."""
    if "store" in metafunc.fixturenames and not hasattr(metafunc.module, "store"):
        kinds = STORES + MORE_STORES.get(metafunc.module.__name__, [])
        metafunc.parametrize("store", kinds, indirect=True)


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
