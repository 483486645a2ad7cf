"""A server in trouble: only errors of ours, in time, and everything works again afterwards."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from proxy import Proxy
from pyramid.config import Configurator
from pyramid.response import Response
from redis import Redis
from servers import Server
from webtest import TestApp
from workers import api_at, eventually, token_of

from pyramid_altsession import ISessionAPI
from pyramid_altsession.errors import SessionGone, StoreUnavailable

TIMEOUT = 0.2
BOUND = 15.0
"""Seconds in which a call has to have failed: to wait for a connection, twice to connect and
twice to wait for a reply make five timeouts; the rest is for a busy machine."""
PATIENT = 30.0
"""A timeout for faults that are no outage: a busy machine is none either."""


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    proxy = Proxy(server)
    yield proxy
    proxy.close()


@contextmanager
def quick_to_fail() -> Iterator[None]:
    """The body raises StoreUnavailable in time."""
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        yield
    assert time.monotonic() - began < BOUND


# -- under load


def application(url: str, timeout: float = TIMEOUT) -> Any:
    def visit(request: Any) -> Response:
        session = request.altsession
        visits = session.increment("visits")
        session.mset({"a": visits, "b": visits})
        session.get("visits", fresh=True)
        session.setdefault("first", visits)
        if visits % 20 == 0:
            session.invalidate()
        return Response(str(visits))

    settings = {
        "altsession.redis.url": url,
        "altsession.redis.timeout": timeout,
        "altsession.redis.connect_timeout": timeout,
        "altsession.session.secure": False,
    }
    with Configurator(settings=settings) as config:
        config.include("pyramid_altsession")
        config.add_route("visit", "/")
        config.add_view(visit, route_name="visit")
        return config.make_wsgi_app()


class Load:
    """Eight visitors with a browser each, one request after the other, until the block's end.

    ``seen``: how many answers of each status, and exceptions by name.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self._app = application(url, timeout)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._visit) for _ in range(8)]
        self.seen: Counter[object] = Counter()
        self.slowest = 0.0

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        if not self.good(200):
            self.__exit__()
            raise AssertionError(self.seen)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._app.registry.getUtility(ISessionAPI).close()

    def _visit(self) -> None:
        browser = TestApp(self._app)
        while not self._stop.is_set():
            began = time.monotonic()
            result: object
            try:
                result = browser.get("/", expect_errors=True).status_int
            except Exception as error:
                result = repr(error)
            elapsed = time.monotonic() - began
            with self._lock:
                self.seen[result] += 1
                self.slowest = max(self.slowest, elapsed)
            if result == 503:
                self._stop.wait(0.002)  # else those who fail at once would be all of the load

    def good(self, count: int) -> bool:
        """Whether so many more requests come to be served."""
        wanted = self.seen[200] + count
        return eventually(lambda: self.seen[200] >= wanted)

    def failed(self, count: int) -> bool:
        """Whether so many requests come to be answered with 503."""
        return eventually(lambda: self.seen[503] >= count)


def kill(server: Server, load: Load) -> None:
    server.kill()
    assert load.failed(20)
    server.start()


def restart(server: Server, load: Load) -> None:
    for _ in range(3):
        server.kill()
        server.start()
        assert load.good(20)


def pause(server: Server, load: Load) -> None:
    server.pause()
    assert load.failed(8)
    server.resume()


def flush_all(server: Server, load: Load) -> None:
    for _ in range(20):
        server.client.flushall()
        assert load.good(5)


def script_flush(server: Server, load: Load) -> None:
    for _ in range(20):
        server.client.script_flush()
        assert load.good(5)


def kill_clients(server: Server, load: Load) -> None:
    for _ in range(20):
        server.client.client_kill_filter(_type="normal", skipme=True)
        assert load.good(5)


def refuse_writes(server: Server, load: Load) -> None:
    """As a primary that was made a replica."""
    server.client.replicaof("127.0.0.1", server.port)
    assert load.failed(20)
    server.client.replicaof("NO", "ONE")


def busy(server: Server, load: Load) -> None:
    """A script of somebody else's that does not end."""
    server.client.config_set("busy-reply-threshold", 1)
    stuck = threading.Thread(target=spin, args=(server,))
    stuck.start()
    assert load.failed(8)
    assert eventually(lambda: released(server))
    stuck.join()


def spin(server: Server) -> None:
    with (
        Redis(unix_socket_path=server.socket, protocol=2) as client,
        pytest.raises(Exception, match="killed"),
    ):
        client.eval("while true do end", 0)


def released(server: Server) -> bool:
    with Redis(unix_socket_path=server.socket, protocol=2) as client:
        return bool(client.script_kill())


@pytest.mark.volume
@pytest.mark.parametrize("way", ["unix", "tcp"])
@pytest.mark.parametrize(
    ("fault", "statuses"),
    [
        (kill, {200, 409, 503}),
        (restart, {200, 409, 503}),
        (pause, {200, 409, 503}),
        (refuse_writes, {200, 409, 503}),
        (busy, {200, 409, 503}),
        (kill_clients, {200, 409, 503}),
        (flush_all, {200, 409}),
        (script_flush, {200, 409}),
    ],
)
def test_a_fault_under_load_gives_no_other_errors_than_ours(
    own_server: Server, fault: Callable[[Server, Load], None], statuses: set[object], way: str
) -> None:
    """Sessions that are gone are 409, an outage is 503 and comes in time; a flush or scripts
    forgotten are no outage at all. When the fault is over every visitor is served again."""
    timeout = TIMEOUT if 503 in statuses else PATIENT
    with Load(own_server.url if way == "unix" else own_server.tcp_url, timeout) as load:
        fault(own_server, load)
        assert load.good(200)
    assert set(load.seen) <= statuses, load.seen
    assert load.slowest < BOUND


def test_who_lost_a_session_to_a_flush_gets_a_new_one(own_server: Server) -> None:
    """No error: the cookie is as good as expired, the next write starts anew."""
    browser = TestApp(application(own_server.url))
    assert [browser.get("/").text, browser.get("/").text] == ["1", "2"]
    before = browser.cookies["sid"]
    own_server.client.flushall()
    assert [browser.get("/").text, browser.get("/").text] == ["1", "2"]
    assert browser.cookies["sid"] != before


# -- without load


def test_a_server_that_takes_no_more_connections_fails_in_time(own_server: Server) -> None:
    """Its refusal is an outage like others, and over when there is a place again."""
    own_server.client.config_set("maxclients", 1)
    api = api_at(own_server.url, redis__timeout=TIMEOUT, redis__connect_timeout=TIMEOUT)
    with quick_to_fail():
        api.create()
    own_server.client.config_set("maxclients", 100)

    def recovered() -> bool:
        with suppress(StoreUnavailable):
            return bool(api.create({"k": "v"}).get("k", fresh=True) == "v")
        return False

    assert eventually(recovered)
    api.close()


def test_a_server_that_is_down_fails_in_time_and_recovers(own_server: Server) -> None:
    """Read and write, at the first call and at later ones; what was stored before a pause of
    the server is there after it."""
    api = api_at(own_server.url, redis__timeout=TIMEOUT, redis__connect_timeout=TIMEOUT)
    token = token_of(api.create({"k": "v"}))
    own_server.pause()
    with quick_to_fail():
        api.open(token).get("k")
    with quick_to_fail():
        api.open(token).set("k", "w")
    own_server.resume()

    def serves() -> bool:
        with suppress(StoreUnavailable):
            return api.open(token).get("k") in ("v", "w")
        return False

    assert eventually(serves)
    own_server.kill()
    with quick_to_fail():
        api.open(token).get("k")
    with quick_to_fail():
        api.open(token).set("k", "w")
    own_server.start()

    def recovered() -> bool:
        try:
            api.open(token).get("k")
        except StoreUnavailable:
            return False
        except SessionGone:
            return True
        raise AssertionError("the server started empty")

    assert eventually(recovered)
    api.close()


def test_a_slow_server_fails_in_time_and_the_late_reply_is_nobodys(proxy: Proxy) -> None:
    """The reply that comes too late is not taken for the next call's."""
    api = api_at(proxy.url, redis__timeout=TIMEOUT, redis__connect_timeout=TIMEOUT)
    token = token_of(api.create({"a": "first", "b": "second"}))
    proxy.delay = 2 * TIMEOUT
    with quick_to_fail():
        api.open(token).get("a")
    with quick_to_fail():
        api.open(token).set("c", "third")
    proxy.delay = 0.0

    def served() -> bool:
        try:
            return bool(api.open(token).get("b") == "second")
        except StoreUnavailable:
            return False  # the proxy still has late replies to pass on

    assert eventually(served)
    assert [api.open(token).get(key) for key in ("a", "b")] == ["first", "second"]
    api.close()


# -- replies that are lost


def scripts_run(server: Server) -> int:
    stats = server.client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "eval"))


def test_a_set_whose_reply_is_lost_is_repeated(server: Server, proxy: Proxy) -> None:
    """The caller notices nothing; the value is there."""
    api = api_at(proxy.url)
    session = api.create({"k": "old"})
    before = scripts_run(server)
    proxy.lose = 1
    session.set("k", "new")
    assert scripts_run(server) - before == 2
    assert api.open(token_of(session)).get("k") == "new"
    api.close()


def test_a_read_whose_reply_is_lost_is_repeated(proxy: Proxy) -> None:
    """The caller notices nothing."""
    api = api_at(proxy.url)
    session = api.create({"k": "v"})
    proxy.lose = 1
    assert session.get("k", fresh=True) == "v"
    api.close()


def test_what_is_lost_twice_fails(server: Server, proxy: Proxy) -> None:
    """One repetition, no more."""
    api = api_at(proxy.url)
    session = api.create()
    before = scripts_run(server)
    proxy.lose = 10
    with quick_to_fail():
        session.set("k", "v")
    assert (scripts_run(server) - before, proxy.lose) == (2, 8)
    api.close()


@pytest.mark.parametrize("how", ["lose", "swallow"])
def test_an_increment_whose_reply_is_lost_is_done_once(
    server: Server, proxy: Proxy, how: str
) -> None:
    """The caller learns that it is not known; the number was added once."""
    api = api_at(proxy.url, redis__timeout=TIMEOUT)
    session = api.create({"n": 1})
    setattr(proxy, how, True)
    with quick_to_fail():
        session.increment("n")
    setattr(proxy, how, False)
    assert eventually(lambda: server.client.hget(f"sess:{session.id}", "n") == b"2")
    assert session.get("n") == 2
    api.close()


@pytest.mark.parametrize(
    ("call", "left"),
    [
        (lambda session: session.pop("k"), None),
        (lambda session: session.remove("k"), None),
        (lambda session: session.compare_and_set("k", "v", "w"), "w"),
        (lambda session: session.setdefault("new", 1), "v"),
    ],
)
def test_what_must_not_be_repeated_is_not(
    server: Server, proxy: Proxy, call: Callable[[Any], object], left: object
) -> None:
    """Its result would be another one the second time; the cache forgets what it knew."""
    api = api_at(proxy.url)
    session = api.create({"k": "v"})
    before = scripts_run(server)
    proxy.lose = 1
    with quick_to_fail():
        call(session)
    assert scripts_run(server) - before == 1
    assert session.get("k") == left
    api.close()


def test_a_renewal_whose_reply_is_lost_is_repeated(proxy: Proxy) -> None:
    """The second finds its own new proof: the caller gets the cookie that is valid."""
    api = api_at(proxy.url)
    session = api.create({"k": "v"})
    old = token_of(session)
    proxy.lose = 1
    assert session.renew() is True
    assert api.open(token_of(session)).get("k") == "v"
    with pytest.raises(SessionGone):
        api.open(old).get("k")
    api.close()


def test_an_end_whose_reply_is_lost_is_repeated(proxy: Proxy) -> None:
    """The second finds its own tombstone: the caller hears that the session was ended."""
    api = api_at(proxy.url)
    session = api.create({"k": "v"})
    proxy.lose = 1
    assert session.invalidate() is True
    api.close()


def test_a_creation_whose_reply_is_lost_holds_the_values_once(server: Server, proxy: Proxy) -> None:
    """Repeated or failed, there is one session with them, or an error."""
    api = api_at(proxy.url)
    api.check()
    proxy.lose = 1
    session = api.create({"k": "v"})
    assert len(list(api.scan())) == 1
    assert session.get("k", fresh=True) == "v"
    api.close()
