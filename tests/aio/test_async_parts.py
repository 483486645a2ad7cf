"""Connections, pools and stores of the awaitable side, each on its own, and calls that the plain
tests do not reach."""

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from inside import store_in
from pyramid.response import Response
from sealed import CODEC
from servers import Server

from pyramid_altsession import CorruptValue, SessionGone, StoreUnavailable
from pyramid_altsession.aio import AsyncSessionAPI
from pyramid_altsession.aio import pool as pool_module
from pyramid_altsession.aio import primary as primary_module
from pyramid_altsession.aio.connection import Connection, open_server, opened
from pyramid_altsession.aio.pool import AsyncConnectionPool, LoopPool
from pyramid_altsession.aio.primary import Primary
from pyramid_altsession.codecs import JSONCodec
from pyramid_altsession.config.sources import read_settings
from pyramid_altsession.config.table import RedisSettings
from pyramid_altsession.stores.redis import breaker as breaker_module
from pyramid_altsession.stores.redis.breaker import MAX_TIMEOUTS
from pyramid_altsession.stores.redis.failures import NotConnected
from pyramid_altsession.stores.redis.sentinel import HELLO
from pyramid_altsession.stores.redis.wire import pack_command

PING = pack_command((b"PING",))


def redis_settings(**redis: object) -> RedisSettings:
    return read_settings({"redis": redis}).redis


def api_at(url: str, **more: object) -> AsyncSessionAPI:
    return AsyncSessionAPI.from_settings({"redis": {"url": url, "timeout": 30.0}, **more})


def later() -> float:
    return time.monotonic() + 30.0


# -- connections


class Transport(asyncio.Transport):
    """One that sends nothing."""

    def write(self, data: Any) -> None:
        pass

    def abort(self) -> None:
        pass


def connected(**extra: Any) -> Connection:
    connection = Connection()
    connection.connection_made(Transport(extra))
    return connection


class Timers:
    """What the running loop would call later; the test says when."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[Callable[[], Any]] = []
        self._loop = asyncio.get_running_loop()
        monkeypatch.setattr(self._loop, "call_later", self._noted)

    def _noted(self, delay: float, call: Callable[..., Any], *arguments: Any) -> asyncio.Handle:
        self.calls.append(lambda: call(*arguments))
        return self._loop.call_soon(lambda: None)


def test_a_tls_connection_that_breaks() -> None:
    """What it brought last is not looked for: it would be encrypted."""

    async def broken() -> None:
        connection = connected(sslcontext=object())
        connection.connection_lost(OSError("reset"))
        assert str(connection.failure) == "the connection broke: reset"

    asyncio.run(broken())


def test_what_the_server_said_before_a_write_failed() -> None:
    """It is read once the connection is lost, and is the reason that is told."""

    async def broken() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.sendall(b"-ERR max number of clients reached\r\n")
            connection = connected(socket=ours)
            connection.connection_lost(OSError("reset"))
        assert str(connection.failure) == "max number of clients reached"

    asyncio.run(broken())


def test_replies_at_the_last_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replies that come between the end of the time and the last look are served."""

    async def looked() -> None:
        timers = Timers(monkeypatch)
        connection = connected()
        work = asyncio.create_task(connection.exchange(PING, 1, time.monotonic()))
        await asyncio.sleep(0)
        timers.calls[0]()
        connection.data_received(b"+PONG\r\n")
        assert await work == [b"PONG"]
        timers.calls[1]()
        assert connection.failure is None

    asyncio.run(looked())


def test_one_timer_for_many_packets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The timer of an earlier packet serves a later one: it looks again when that one's time is
    over. One whose time is over earlier has a timer of its own, and an idle connection has none."""

    async def timed() -> None:
        timers = Timers(monkeypatch)
        connection = connected()

        async def exchanged(end: float, rings: bool = False) -> int:
            """How many timers were set meanwhile."""
            before = len(timers.calls)
            work = asyncio.create_task(connection.exchange(PING, 1, end))
            await asyncio.sleep(0)
            if rings:
                timers.calls[-1]()
            connection.data_received(b"+PONG\r\n")
            assert await work == [b"PONG"]
            return len(timers.calls) - before

        first = later()
        assert await exchanged(first) == 1
        assert await exchanged(first + 5) == 0
        assert await exchanged(first + 9, rings=True) == 1
        assert await exchanged(first + 10) == 0
        assert await exchanged(first + 1) == 1
        timers.calls[-1]()
        assert len(timers.calls) == 3
        assert connection.failure is None

    asyncio.run(timed())


def test_a_connection_that_ends_at_once() -> None:
    """Where nothing has to be said first, the end is noticed all the same."""

    async def ended() -> None:
        async def connect() -> Connection:
            connection = connected()
            connection.connection_lost(None)
            return connection

        with pytest.raises(redis.ConnectionError, match="closed the connection"):
            await opened(connect, redis_settings(), later())

    asyncio.run(ended())


def test_a_connection_that_has_ended() -> None:
    """It sends nothing any more, and says why at once."""

    async def ended() -> None:
        connection = connected()
        connection.close()
        with pytest.raises(redis.ConnectionError, match="the connection was closed"):
            await connection.exchange(b"", 1, later())

    asyncio.run(ended())


def test_connections_that_are_not_made(server: Server) -> None:
    """Each reason is told as an error of redis-py."""

    async def refused() -> None:
        async def never() -> Connection:
            await asyncio.get_running_loop().create_future()
            raise AssertionError

        with pytest.raises(
            redis.TimeoutError, match=r"no connection within .* s \(redis.connect_timeout\)"
        ):
            await opened(never, redis_settings(), time.monotonic())
        too_long = redis_settings(socket="/" + "x" * 200)
        with pytest.raises(redis.ConnectionError, match="too long"):
            await open_server(too_long)(later())

    asyncio.run(refused())


class Embedded:
    """The embedded server as it would be found: at these sockets, one after the other."""

    def __init__(self, *sockets: str | OSError) -> None:
        self._sockets = list(sockets)

    def socket(self) -> str:
        found = self._sockets.pop(0)
        if isinstance(found, OSError):
            raise found
        return found


def test_an_embedded_server_that_went_away(server: Server) -> None:
    """The next one is used; one that cannot be started is an error of the connection."""

    async def looked() -> None:
        embedded: Any = Embedded("/nowhere/s", server.socket, OSError("no room"))
        connect = open_server(redis_settings(url="embedded://"), embedded)
        connection = await connect(later())
        assert await connection.exchange(PING, 1, later()) == [b"PONG"]
        connection.close()
        with pytest.raises(redis.ConnectionError, match="no room"):
            await connect(later())

    asyncio.run(looked())


def test_start_of_a_server_takes_no_time_of_a_call(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long an embedded server takes to start, the call that waited for it has its time,
    for its second packet too."""
    clock, started = time.monotonic, []
    monkeypatch.setattr(time, "monotonic", lambda: clock() + 3600 * len(started))

    class Slow(Embedded):
        def socket(self) -> str:
            started.append(True)
            return server.socket

    async def asked() -> None:
        settings = redis_settings(url="embedded://", timeout=30.0, connect_timeout=30.0)
        pool = AsyncConnectionPool(
            open_server(settings, Slow()), limit=1, wait=30.0, connect_wait=30.0
        )
        end = time.monotonic() + 30.0
        for _ in range(2):
            assert await pool.exchange(PING, 1, end) == [b"PONG"]
        pool.close()

    asyncio.run(asked())
    assert started == [True]


# -- pools


Outcome = redis.RedisError | asyncio.Event | None


class Script:
    """Opens connections that do what the test says: fail, wait, or answer at once."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes = list(outcomes)
        self.refuse: redis.RedisError | None = None
        self.opened = 0
        self.tried = 0

    async def __call__(self, end: float) -> Any:
        self.tried += 1
        if self.refuse is not None:
            raise self.refuse
        self.opened += 1
        return SimpleNamespace(
            exchange=self._exchange, failure=None, granted=(0.0, 0.0), close=lambda: None
        )

    async def _exchange(self, packet: bytes, replies: int, end: float) -> list[Any]:
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if isinstance(outcome, asyncio.Event):
            await outcome.wait()
        elif outcome is not None:
            raise outcome
        return [b"PONG"]


def loop_pool(script: Script, limit: int = 2) -> LoopPool:
    return LoopPool(script, limit=limit, wait=30.0, connect_wait=30.0)


def test_a_place_at_the_last_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A place that was given before the time was over is kept."""

    async def crowd() -> None:
        timers = Timers(monkeypatch)
        go = asyncio.Event()
        pool = loop_pool(Script(go), limit=1)
        first, second = [asyncio.create_task(pool.exchange(PING, 1, later())) for _ in range(2)]
        await asyncio.sleep(0)
        go.set()
        await first
        (refuse,) = timers.calls
        refuse()
        assert await second == [b"PONG"]

    asyncio.run(crowd())


def test_no_connection_by_the_end() -> None:
    """A call whose time is over while others hold the connections is told why it got none."""

    async def crowd() -> None:
        go = asyncio.Event()
        script = Script(go)
        pool = loop_pool(script)
        busy = asyncio.create_task(pool.exchange(PING, 1, later()))
        await asyncio.sleep(0)
        script.refuse = redis.ConnectionError("too many")
        with pytest.raises(NotConnected, match="too many"):
            await pool.exchange(PING, 1, time.monotonic() - 1)
        go.set()
        assert await busy == [b"PONG"]

    asyncio.run(crowd())


def test_after_the_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that could not be reached is asked again when the pause is over."""

    async def back() -> None:
        script = Script()
        pool = loop_pool(script)
        script.refuse = redis.ConnectionError("away")
        monkeypatch.setattr(breaker_module, "PAUSE", 1000.0)
        with pytest.raises(NotConnected, match="away"):
            await pool.exchange(PING, 1, later())
        script.refuse = None
        with pytest.raises(NotConnected, match="away"):
            await pool.exchange(PING, 1, later())
        clock = SimpleNamespace(monotonic=lambda: time.monotonic() + 2000.0)
        monkeypatch.setattr(breaker_module, "time", clock)
        assert await pool.exchange(PING, 1, later()) == [b"PONG"]

    asyncio.run(back())


def test_an_answer_on_an_open_connection_ends_no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says nothing about whether another connection can be made."""

    async def bursts() -> None:
        monkeypatch.setattr(breaker_module, "PAUSE", 1000.0)
        go = [asyncio.Event() for _ in range(5)]
        script = Script(None, *go)
        pool = loop_pool(script)
        await pool.exchange(PING, 1, later())
        script.refuse = redis.ConnectionError("too many")
        for each in go:
            busy = asyncio.create_task(pool.exchange(PING, 1, later()))
            await asyncio.sleep(0)
            with pytest.raises(NotConnected, match="too many"):
                await pool.exchange(PING, 1, time.monotonic() - 1)
            each.set()
            assert await busy == [b"PONG"]
        assert script.tried == 2

    asyncio.run(bursts())


def test_only_an_answer_tells_that_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """After time-outs one call tries; that it could connect is no reason for others to wait."""

    async def tried() -> None:
        go = asyncio.Event()
        script = Script(*[redis.TimeoutError("late")] * MAX_TIMEOUTS, go)
        pool = loop_pool(script)
        monkeypatch.setattr(breaker_module, "PAUSE", -1.0)
        for _ in range(MAX_TIMEOUTS):
            with pytest.raises(redis.TimeoutError, match="late"):
                await pool.exchange(PING, 1, later())
        monkeypatch.setattr(breaker_module, "PAUSE", 1000.0)
        trying = asyncio.create_task(pool.exchange(PING, 1, later()))
        await asyncio.sleep(0)
        assert script.opened == MAX_TIMEOUTS + 1
        with pytest.raises(NotConnected, match="late"):
            await pool.exchange(PING, 1, later())
        go.set()
        assert await trying == [b"PONG"]
        assert await pool.exchange(PING, 1, later()) == [b"PONG"]

    asyncio.run(tried())


def test_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a fork nothing is said on the connections of the parent."""

    async def forked() -> None:
        script = Script()
        pool = AsyncConnectionPool(script, limit=2, wait=30.0, connect_wait=30.0)
        for _ in range(2):
            await pool.exchange(PING, 1, later())
        assert script.opened == 1
        monkeypatch.setattr(pool_module, "os", SimpleNamespace(getpid=lambda: -1))
        for _ in range(2):
            await pool.exchange(PING, 1, later())
        assert script.opened == 2

    asyncio.run(forked())


# -- the primary


def bulk(*texts: str) -> bytes:
    parts = "".join(f"${len(text)}\r\n{text}\r\n" for text in texts)
    return f"*{len(texts)}\r\n{parts}".encode()


def test_a_sentinel_that_names_a_replica(server: Server) -> None:
    """It is not used, and another sentinel is asked the next time."""

    async def found() -> None:
        async def says(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            port = writer.get_extra_info("sockname")[1]
            here = stale if port == ports[0] else server.port
            while said := await reader.read(1000):
                writer.write(
                    bulk("role", "replica") if b"HELLO" in said else bulk("127.0.0.1", str(here))
                )
            writer.close()

        doubles = [await asyncio.start_server(says, "127.0.0.1", 0) for _ in range(3)]
        *ports, stale = [double.sockets[0].getsockname()[1] for double in doubles]
        named = ",".join(f"127.0.0.1:{port}" for port in ports)
        primary = Primary(redis_settings(url=f"redis+sentinel://{named}/main"))
        with pytest.raises(NotConnected, match="its role is replica"):
            await primary.open(later())
        connection = await primary.open(later())
        (said,) = await connection.exchange(pack_command((b"CONFIG", b"GET", b"port")), 1, later())
        assert said == [b"port", str(server.port).encode()]
        connection.close()
        primary.close()
        for double in doubles:
            double.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others)

    asyncio.run(found())


def test_a_primary_that_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was not reached in the time for connecting."""

    async def exchange(packet: bytes, replies: int, end: float) -> list[Any]:
        if packet == HELLO:
            raise redis.TimeoutError("late")
        return [[b"127.0.0.1", b"1"]]

    async def opened(end: float) -> Any:
        return SimpleNamespace(exchange=exchange, failure=None, granted=(0.0, 0.0))

    monkeypatch.setattr(primary_module, "open_at", lambda settings: lambda address: opened)
    primary = Primary(redis_settings(url="redis+sentinel://127.0.0.1:1/main", connect_timeout=2.5))
    with pytest.raises(redis.TimeoutError, match=r"within 2\.5 s \(redis.connect_timeout\)"):
        asyncio.run(primary.open(later()))


# -- stores


def test_a_primary_that_became_a_replica(own_server: Server) -> None:
    """What it refuses is said once more, on a new connection, which may lead to another server."""

    def connections() -> int:
        return int(own_server.client.info("stats")["total_connections_received"])

    async def refused() -> None:
        async with api_at(own_server.url) as api:
            made = await api.create({"a": 1})
            own_server.client.replicaof("127.0.0.1", 1)
            before = connections()
            with pytest.raises(StoreUnavailable, match="read only"):
                await made.set("a", 2)
            assert connections() == before + 1

    asyncio.run(refused())


def test_what_stores_show(server: Server) -> None:
    """Their kind and the server's place; a sealed one, the store that it seals."""
    plain = api_at(server.url)
    assert repr(plain) == f"<AsyncSessionAPI <AsyncRedisStore {server.socket}>>"

    async def sealed() -> None:
        settings = read_settings({"redis": {"url": "memory://"}})
        async with AsyncSessionAPI(settings, codec=CODEC) as api:
            assert repr(api) == "<AsyncSessionAPI <AsyncSealedStore <MemoryStore>>>"
            made = await api.create({"a": 1})
            assert await made.get("a", fresh=True) == 1

    asyncio.run(sealed())


# -- calls


def in_memory(act: Callable[[AsyncSessionAPI], Coroutine[Any, Any, None]], **more: object) -> None:
    async def acted() -> None:
        async with api_at("memory://", **more) as api:
            await act(api)

    asyncio.run(acted())


def test_times_of_a_session() -> None:
    """How long it lives and since when somebody is signed in."""

    async def act(api: AsyncSessionAPI) -> None:
        session = await api.create({"text": "a"})
        left = await session.ttl()
        assert left is not None
        assert 0 < left <= 600
        assert await session.created() is not None
        assert await session.login_age() is None
        await session.login("ann")
        age = await session.login_age()
        assert age is not None
        assert age >= 0
        with pytest.raises(TypeError, match="text"):
            await session.increment("text")

    in_memory(act, session={"tti": 600, "touch_interval": 0})


def test_the_other_sessions_of_a_user() -> None:
    """They are ended, and the one that asks goes on."""

    async def act(api: AsyncSessionAPI) -> None:
        first, second = await api.create(), await api.create()
        for session in (first, second):
            await session.login("ann")
        assert await first.end_others() == 1
        assert await first.userid() == "ann"
        with pytest.raises(SessionGone):
            await second.get("a", fresh=True)
        assert await api.invalidate_all() == 1

    in_memory(act)


def test_prefetch_of_what_is_there() -> None:
    """Nothing is read for a key that is remembered, or of a session that is gone."""

    async def act(api: AsyncSessionAPI) -> None:
        session = await api.create({"a": 1})
        await session.get("a")
        await session.prefetch("a")
        assert session.driver.state.sent is None
        await session.invalidate()
        await session.prefetch("a")
        assert session.driver.state.sent is None

    in_memory(act)


def test_a_session_that_nobody_used() -> None:
    """The answer stays as it is."""

    async def act(api: AsyncSessionAPI) -> None:
        response = Response()
        before = response.headerlist[:]
        await api.finish(api.session("sid=x"), response)
        assert response.headerlist == before

    in_memory(act)


class Unreadable(JSONCodec):
    """Values of an application that nobody can read any more."""

    def decode(self, key: str, raw: bytes) -> Any:
        raise CorruptValue("unreadable")


def test_a_login_whose_notes_cannot_be_read() -> None:
    """It hides no session: its user may be looking for it to end it."""

    async def act(api: AsyncSessionAPI) -> None:
        await (await api.create()).login("ann", info={"from": "here"})
        (info,) = await api.sessions_of("ann")
        assert info.info == {"from": "here"}
        unreadable = AsyncSessionAPI(api.settings, store_in(api), codec=Unreadable())
        (found,) = await unreadable.sessions_of("ann")
        assert (found.id, found.info) == (info.id, {})

    in_memory(act)


def test_sessions_by_id(caplog: pytest.LogCaptureFixture) -> None:
    """Ids that name no session, and what is told of those that do."""

    async def act(api: AsyncSessionAPI) -> None:
        made = await api.create({"key": 1})
        await made.login("ann")
        (info,) = await api.sessions_of("ann", keys=True)
        assert info.size == len("key") + len("1")
        gone = info.id[::-1]
        assert await api.describe("index") is None
        assert await api.describe(gone) is None
        assert await api.values_of(gone) is None
        assert await api.invalidate_id("index") is False
        assert await api.invalidate_id(info.id, userid="") is False
        assert await api.invalidate_id(info.id) is True
        assert await api.describe(info.id) is None

    with caplog.at_level(logging.INFO):
        in_memory(act, log_events=True)
    assert caplog.messages[-1].partition(": ")[0].endswith(" invalidated")


def test_events_in_json(caplog: pytest.LogCaptureFixture) -> None:
    """Events are logged as lines of JSON where the settings say so."""

    async def act(api: AsyncSessionAPI) -> None:
        await (await api.create()).login("ann")

    with caplog.at_level(logging.INFO):
        in_memory(act, log_events="json")
    assert any('"ann"' in r.message and r.message.startswith("{") for r in caplog.records)
