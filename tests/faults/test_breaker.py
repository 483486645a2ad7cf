"""A server that does not answer is asked by one call at a time, and no connection to it is
trusted."""

import pytest
import redis
from inside import idle_in
from servers import Server

from pyramid_altsession.config.sources import read_settings
from pyramid_altsession.stores.redis import breaker as breaker_module
from pyramid_altsession.stores.redis.breaker import MAX_TIMEOUTS
from pyramid_altsession.stores.redis.connections import connections
from pyramid_altsession.stores.redis.failures import NotConnected
from pyramid_altsession.stores.redis.pool import ConnectionPool
from pyramid_altsession.stores.redis.wire import pack_command

PING = pack_command((b"PING",))


@pytest.fixture
def pool(server: Server) -> ConnectionPool:
    times = {"redis.timeout": 0.2, "redis.connect_timeout": 0.2}
    build = connections(read_settings({"redis.url": server.tcp_url, **times}).redis)
    return ConnectionPool(build, limit=4, wait=0.2)


def late(pool: ConnectionPool) -> None:
    with pytest.raises(redis.TimeoutError):
        pool.exchange(pack_command((b"BLPOP", b"nothing", b"30")), 1)


def test_after_a_time_out_no_idle_connection_is_trusted(pool: ConnectionPool) -> None:
    """They lead to the same server: each would cost somebody the same time."""
    sent = [pool.send(PING, 1) for _ in range(3)]
    for each in sent:
        each.receive()
    late(pool)
    assert [connection.is_connected for connection in idle_in(pool)] == [False]
    assert pool.exchange(PING, 1) == [b"PONG"]
    pool.close()


def test_a_server_that_is_late_again_and_again(
    pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls fail at once."""
    monkeypatch.setattr(breaker_module, "PAUSE", 1e6)
    for _ in range(MAX_TIMEOUTS):
        late(pool)
    for _ in range(3):
        with pytest.raises(NotConnected, match=r"no answer within 0.2 s \(redis.timeout\)"):
            pool.exchange(PING, 1)
    pool.close()


def test_after_the_pause_one_call_finds_out(
    pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer ends it, for everybody."""
    monkeypatch.setattr(breaker_module, "PAUSE", -1.0)
    for _ in range(MAX_TIMEOUTS):
        late(pool)
    late(pool)  # the one that finds out
    monkeypatch.setattr(breaker_module, "PAUSE", 1e6)
    assert pool.exchange(PING, 1) == [b"PONG"]
    assert pool.exchange(PING, 1) == [b"PONG"]
    sent = [pool.send(PING, 1) for _ in range(3)]  # others connect again
    assert [each.receive() for each in sent] == [[b"PONG"]] * 3
    pool.close()


def test_while_one_finds_out_the_others_do_not_wait(
    pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that was opened proves nothing: a stopped process has its connections taken."""
    monkeypatch.setattr(breaker_module, "PAUSE", -1.0)
    for _ in range(MAX_TIMEOUTS):
        late(pool)
    monkeypatch.setattr(breaker_module, "PAUSE", 1e6)
    probe = pool.send(PING, 1)
    with pytest.raises(NotConnected):
        pool.exchange(PING, 1)
    assert probe.receive() == [b"PONG"]
    assert pool.exchange(PING, 1) == [b"PONG"]
    pool.close()


def test_an_answer_after_one_time_out_is_no_connection() -> None:
    """What a failure to connect began, an answer on another connection does not end."""
    breaker = breaker_module.Breaker()
    breaker.timed_out("late")
    breaker.connect_failed("too many open files")
    breaker.answered()
    assert (breaker.may_connect(), breaker.reason) == (False, "too many open files")
    breaker.timed_out("late")
    assert not breaker.unresponsive  # the answer came between
