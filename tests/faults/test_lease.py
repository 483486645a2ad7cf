"""Nobody ever gets another one's reply, and no trouble takes a connection for good."""

import contextlib
import math
import os
import queue
import select
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from inside import (
    breaker_in,
    build_with,
    builder_in,
    idle_in,
    places_in,
    socket_in,
    take,
    take_a_new_one,
    take_all,
)
from servers import Server, free_port, valkey
from workers import (
    CLIENT_ID,
    LIMIT,
    api_at,
    connections_of_ours,
    eventually,
    in_fork,
    in_processes,
    in_threads,
    known_values,
    pool_of,
    storm,
    url_of,
)

from pyramid_altsession.config.sources import read_settings
from pyramid_altsession.errors import StoreUnavailable
from pyramid_altsession.stores.redis import breaker as breaker_module
from pyramid_altsession.stores.redis import pool as pool_module
from pyramid_altsession.stores.redis import waiting
from pyramid_altsession.stores.redis.breaker import PAUSE
from pyramid_altsession.stores.redis.connections import connections
from pyramid_altsession.stores.redis.failures import NotConnected
from pyramid_altsession.stores.redis.pool import ConnectionPool
from pyramid_altsession.stores.redis.timed import Timed
from pyramid_altsession.stores.redis.wire import pack_command

PING = pack_command((b"PING",))


def builder(url: str, **options: object) -> Callable[[], Timed]:
    return connections(read_settings({"redis": {"url": url, **options}}).redis)


def pool_at(
    url: str, *, limit: int = LIMIT, wait: float = 30.0, **options: object
) -> ConnectionPool:
    return ConnectionPool(builder(url, **options), limit=limit, wait=wait)


@pytest.fixture(params=["unix", "tcp"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pool(server: Server, way: str) -> Iterator[ConnectionPool]:
    pool = pool_at(url_of(server, way))
    yield pool
    pool.close()


def client_id(pool: ConnectionPool) -> int:
    (found,) = pool.exchange(CLIENT_ID, 1)
    return int(found)


@contextlib.contextmanager
def all_taken(pool: ConnectionPool) -> Iterator[None]:
    taken = take_all(pool)
    yield
    idle_in(pool).extend(taken)


# -- exceptions from outside


@pytest.mark.volume
@pytest.mark.parametrize("kind", ["signals", "greenlets"])
def test_exceptions_from_outside_mix_up_no_values_and_leak_no_connections(
    server: Server, kind: str
) -> None:
    """100,000 ``get`` with signal handlers that raise, or gevent.Timeout, at random points: every
    value that is returned is the right one, nothing else is raised, and afterwards as many
    connections are to be had as before."""
    calls = 50_000
    for seen, left in storm(kind, calls, server.url, server.tcp_url):
        assert seen["right"] + seen["interrupted"] == calls, seen
        assert min(seen["right"], seen["interrupted"]) > calls / 20, "this was no storm"
        assert left == [LIMIT, LIMIT]


@pytest.mark.volume
def test_the_storm_finds_a_lease_that_puts_connections_back_as_they_are(server: Server) -> None:
    """Without the rule of the pool the same storm gives values of other sessions, and replies
    that are no answer to what was asked."""
    calls = 10_000
    ((seen, _),) = storm("careless", calls, server.tcp_url)
    assert calls - seen["right"] - seen["interrupted"] > 10, seen


class Cut(BaseException):
    """An exception from outside."""


@pytest.mark.parametrize("call", ["connect", "send", "receive"])
def test_a_connection_that_an_exception_left_is_closed(
    server: Server, pool: ConnectionPool, call: str
) -> None:
    """Cut off before, between or after the replies, nobody speaks on that connection again."""
    before = client_id(pool)
    (connection,) = idle_in(pool)
    if call == "connect":
        idle_in(pool)[0].disconnect()
    original = getattr(connection, call)

    def cut(*args: Any, **kwargs: Any) -> None:
        original(*args, **kwargs)
        raise Cut

    setattr(connection, call, cut)
    with pytest.raises(Cut):
        pool.exchange(PING * 2, 2)
    setattr(connection, call, original)
    assert [known.is_connected for known in idle_in(pool)] == [False]
    assert client_id(pool) != before
    assert eventually(lambda: connections_of_ours(server) == 1)


def test_a_lost_connection_frees_its_place(pool: ConnectionPool) -> None:
    """A connection that an exception tore out of the pool's hands is closed and replaced."""
    for _ in range(3 * LIMIT):
        take(pool).connect()  # what is returned here nobody keeps
    with all_taken(pool):
        assert len(places_in(pool)) == LIMIT
    assert pool.exchange(PING, 1) == [b"PONG"]


def test_of_two_who_want_the_last_place_one_gets_it(server: Server) -> None:
    """Whoever is slower with it leaves the place to the other."""
    pool = pool_at(server.url, limit=1)
    build = builder_in(pool)
    taken: list[Timed | None] = []

    def overtaken() -> Timed:
        build_with(pool, build)
        taken.append(take_a_new_one(pool))
        return build()

    build_with(pool, overtaken)
    assert take_a_new_one(pool) is None
    assert ([each is None for each in taken], len(places_in(pool))) == ([False], 1)


# -- what idle connections may have come to


def test_an_error_reply_is_an_answer(pool: ConnectionPool) -> None:
    """Error replies are returned in their place; the connection stays in use."""
    before = client_id(pool)
    pong, wrong, again = pool.exchange(PING + pack_command((b"GET",)) + PING, 3)
    assert (pong, type(wrong), again) == (b"PONG", redis.ResponseError, b"PONG")
    assert client_id(pool) == before


def test_the_connection_used_last_is_used_next(pool: ConnectionPool) -> None:
    """One caller at a time needs one connection."""
    assert len({client_id(pool) for _ in range(50)}) == 1


def test_a_connection_that_the_server_closed_is_replaced_before_anything_is_sent(
    server: Server, way: str
) -> None:
    """So that what must not be repeated, like ``increment``, succeeds all the same."""
    api = api_at(url_of(server, way))
    session = api.create({"n": 1})
    (connection,) = idle_in(pool_of(api))
    server.client.client_kill_filter(_type="normal", skipme=True)
    assert eventually(lambda: connection.can_read())
    assert session.increment("n") == 2
    api.close()


def readable(connection: Any) -> bool:
    return bool(select.select([socket_in(connection)], [], [], 10)[0])


def leave_unread(connection: Any, *, parsed: bool) -> None:
    """Replies that nobody asked the connection for: in the socket, or in the parser already."""
    connection.end = math.inf
    connection.send_packed_command([PING * 2])
    assert readable(connection)
    if parsed:
        connection.read_response()


@pytest.mark.parametrize("parsed", [False, True])
def test_a_connection_with_something_unread_is_replaced(pool: ConnectionPool, parsed: bool) -> None:
    """An unread reply would be taken for the next caller's."""
    before = client_id(pool)
    leave_unread(idle_in(pool)[0], parsed=parsed)
    assert client_id(pool) != before
    assert len(places_in(pool)) == 1


def test_a_reply_of_a_type_that_makes_no_sense(pool: ConnectionPool) -> None:
    """As from a proxy that speaks RESP3. The connection is replaced."""
    before = client_id(pool)
    with pytest.raises(redis.exceptions.InvalidResponse, match="unknown type: dict"):
        pool.exchange(b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n", 1)
    assert client_id(pool) != before


# -- no connection to be had


def test_when_all_connections_are_in_use_the_call_fails_in_time(
    server: Server, clock: "Clock"
) -> None:
    """StoreUnavailable that names the setting, not before redis.timeout and not much later."""
    api = api_at(server.url, redis__max_connections=2, redis__timeout=10)
    session = api.create({"k": "v"})
    with all_taken(pool_of(api)):
        began = clock.now
        with pytest.raises(StoreUnavailable, match=r"2 connections \(redis.max_connections\)"):
            session.get("k", fresh=True)
        assert 10 <= clock.now - began < 10.01
    assert session.get("k", fresh=True) == "v"
    api.close()


def test_who_waits_for_a_connection_gets_the_one_that_is_put_back(server: Server) -> None:
    """Nobody is turned away while there is time left."""
    pool = pool_at(server.url, limit=1)
    answers: queue.Queue[list[Any]] = queue.Queue()
    waiting = threading.Thread(target=lambda: answers.put(pool.exchange(PING, 1)))
    with all_taken(pool):
        waiting.start()
    assert answers.get(timeout=120) == [b"PONG"]
    waiting.join()
    pool.close()


def test_threads_share_no_more_connections_than_the_limit(server: Server, way: str) -> None:
    """16 threads, 4 connections, and every reply is its caller's."""
    pool = pool_at(url_of(server, way))
    before = server.client.info("stats")["total_connections_received"]

    def echo(number: int) -> int:
        packets = [b"%d-%d" % (number, turn) for turn in range(100)]
        return sum(
            pool.exchange(pack_command((b"ECHO", text)) * 2, 2) == [text] * 2 for text in packets
        )

    assert sum(in_threads(16, echo)) == 1600
    after = server.client.info("stats")["total_connections_received"]
    assert after - before <= LIMIT
    pool.close()


class Clock(SimpleNamespace):
    """Stands for the module ``time``; time passes when somebody sets it, or sleeps. It begins now,
    because connections keep to the real time."""

    now: float

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(now=time.monotonic())
    for module in (breaker_module, pool_module, waiting):
        monkeypatch.setattr(module, "time", clock)
    return clock


def counting(pool: ConnectionPool) -> list[str]:
    """One entry for each attempt to connect."""
    attempts: list[str] = []
    build = builder_in(pool)

    def counted() -> Timed:
        connection: Any = build()
        connect = connection._connect

        def attempt() -> Any:
            attempts.append("connect")
            return connect()

        connection._connect = attempt
        return connection  # type: ignore[no-any-return]

    build_with(pool, counted)
    return attempts


def test_after_a_failure_to_connect_nobody_tries_again_for_a_moment(clock: Clock) -> None:
    """A server that is down makes one caller wait in each PAUSE, not all of them; the answers
    name its trouble all the same."""
    pool = pool_at(f"redis://127.0.0.1:{free_port()}")
    attempts = counting(pool)
    for _ in range(10):
        with pytest.raises(NotConnected, match="Connection refused"):
            pool.exchange(PING, 1)
    assert len(attempts) == 1
    clock.now += PAUSE
    with pytest.raises(NotConnected, match="Connection refused"):
        pool.exchange(PING, 1)
    assert len(attempts) == 2


def test_a_server_that_came_back_is_found_after_the_pause(clock: Clock) -> None:
    """The first try after the pause succeeds, and nobody has to wait any more."""
    server = valkey()
    try:
        pool = pool_at(server.url)
        server.kill()
        with pytest.raises(NotConnected):
            pool.exchange(PING, 1)
        server.start()
        with pytest.raises(NotConnected):
            pool.exchange(PING, 1)
        clock.now += PAUSE
        assert pool.exchange(PING, 1) == [b"PONG"]
        pool.close()
        assert pool.exchange(PING, 1) == [b"PONG"]
        pool.close()
    finally:
        server.stop()


def test_connected_ones_go_on_while_another_cannot_connect(server: Server, clock: Clock) -> None:
    """The pause is about connecting alone."""
    pool = pool_at(server.url)
    before = client_id(pool)
    breaker_in(pool).connect_failed("too many open files")
    assert client_id(pool) == before
    pool.close()


@pytest.mark.parametrize("way_of_call", ["exchange", "send"])
def test_an_answer_on_an_open_connection_ends_no_pause(
    server: Server, clock: Clock, way_of_call: str
) -> None:
    """It says nothing about whether another connection can be made."""
    pool = pool_at(server.url, limit=2)
    pool.exchange(PING, 1)
    build_with(pool, builder(f"redis://127.0.0.1:{free_port()}"))
    attempts = counting(pool)
    for _ in range(5):
        busy = take(pool)
        with pytest.raises(NotConnected, match="Connection refused"):
            pool.exchange(PING, 1, clock.now - 1)
        idle_in(pool).append(busy)
        if way_of_call == "exchange":
            assert pool.exchange(PING, 1) == [b"PONG"]
        else:
            assert pool.send(PING, 1).receive() == [b"PONG"]
    assert len(attempts) == 1
    pool.close()


# -- close


def test_close_closes_what_is_idle_and_the_next_call_connects(server: Server, way: str) -> None:
    """Nothing stays open on the server; the pool can be used again."""
    pool = pool_at(url_of(server, way))
    in_threads(8, lambda _: pool.exchange(PING, 1))
    pool.close()
    assert eventually(lambda: connections_of_ours(server) == 0)
    assert pool.exchange(PING, 1) == [b"PONG"]
    pool.close()


def test_close_leaves_a_connection_in_use_to_its_user(pool: ConnectionPool) -> None:
    """The exchange under way ends well."""
    pool.exchange(PING, 1)
    (connection,) = idle_in(pool)
    receive: Any = connection.receive

    def close_then_read(*args: Any, **kwargs: Any) -> Any:
        pool.close()
        return receive(*args, **kwargs)

    connection.receive = close_then_read  # type: ignore[method-assign]
    assert pool.exchange(PING, 1) == [b"PONG"]
    connection.receive = receive  # type: ignore[method-assign]


def test_what_others_take_during_a_close_is_theirs(pool: ConnectionPool) -> None:
    """No error, though there are fewer to close by then than there were at first."""
    with all_taken(pool):
        pass
    first, *others = reversed(idle_in(pool))
    original = first.disconnect

    def disconnect() -> None:
        idle_in(pool).clear()  # other threads, while this one waits for the system
        original()

    first.disconnect = disconnect  # type: ignore[assignment]
    pool.close()
    assert list(idle_in(pool)) == []
    idle_in(pool).extend(others)
    assert pool.exchange(PING, 1) == [b"PONG"]


def test_a_forgotten_lease_closes_its_connections(server: Server, way: str) -> None:
    """Whoever drops an application without closing it leaves no open socket behind."""
    pool = pool_at(url_of(server, way))
    pool.exchange(PING, 1)
    (connection,) = idle_in(pool)
    del pool
    assert not connection.is_connected


# -- fork

forks = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@forks
def test_a_child_shares_no_socket_with_its_parent(server: Server, pool: ConnectionPool) -> None:
    """It connects anew, and what it does leaves the parent's connection alone."""
    mine = client_id(pool)
    assert in_fork(lambda: client_id(pool) != mine) == 0
    assert client_id(pool) == mine


@forks
def test_children_and_parent_work_at_the_same_time(server: Server) -> None:
    """One utility, used before the fork and then by everybody: every value is the right one."""
    api = api_at(server.url, redis__timeout=20)
    held = known_values(api)

    def check() -> int:
        return sum(api.open(token).get(key) == value for token, key, value in held * 5)

    assert in_processes(check, [()] * 4) == [500] * 4
    assert check() == 500
    api.close()


def test_an_exchange_that_goes_on_in_a_child_keeps_its_socket_out_of_use(
    pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With greenlets both sides of a fork go on with it; the socket and the replies are the
    parent's."""
    before = client_id(pool)
    (connection,) = idle_in(pool)
    receive: Any = connection.receive

    def fork_then_read(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(os, "getpid", lambda: 1)  # as in the child
        return receive(*args, **kwargs)

    connection.receive = fork_then_read  # type: ignore[method-assign]
    with pytest.raises(redis.ConnectionError, match="before a fork"):
        pool.exchange(CLIENT_ID, 1)
    assert client_id(pool) != before
    connection.disconnect()


@pytest.mark.parametrize("way", ["exchange", "send"])
def test_a_connection_that_was_being_opened_at_a_fork_is_the_parents(
    pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """With greenlets both sides go on with it. The child never serves anybody on that socket, even
    if another call of the child has used the pool in between."""
    pool.exchange(PING, 1)
    (connection,) = idle_in(pool)
    connection.disconnect()
    connect = connection.connect

    def fork_then_connect() -> None:
        connect()
        monkeypatch.setattr(os, "getpid", lambda: 1)  # as in the child
        pool.exchange(PING, 1)

    connection.connect = fork_then_connect
    with pytest.raises(redis.ConnectionError, match="before a fork"):
        pool.exchange(PING, 1) if way == "exchange" else pool.send(PING, 1).receive()
    assert not connection.is_connected
    assert pool.exchange(PING, 1) == [b"PONG"]
    assert len(places_in(pool)) == 1


def test_a_read_of_the_parents_that_a_child_drops_leaves_it_nothing(
    pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection is closed, and not kept for other calls of the child."""
    sent = pool.send(PING, 1)
    monkeypatch.setattr(os, "getpid", lambda: 1)  # as in the child
    sent.close()
    assert list(idle_in(pool)) == []
    assert pool.exchange(PING, 1) == [b"PONG"]


def test_a_packet_that_cannot_be_sent_closes_its_connection(pool: ConnectionPool) -> None:
    """A prefetch that fails while it is sent leaves no connection that others would get."""
    pool.exchange(PING, 1)
    (connection,) = idle_in(pool)

    def fail(packet: bytes) -> None:
        raise redis.ConnectionError("broken")

    connection.send = fail
    with pytest.raises(redis.ConnectionError, match="broken"):
        pool.send(PING, 1)
    assert not connection.is_connected
    del connection.send
    assert pool.exchange(PING, 1) == [b"PONG"]
