"""What goes wrong between the awaitable side and its server, and the rest of its calls."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
import redis
from pyramid.response import Response
from servers import Server
from topologies import until

from pyramid_altsession import SessionGone, StoreUnavailable
from pyramid_altsession.aio import AsyncSessionAPI
from pyramid_altsession.aio.asgi import AltSessionMiddleware
from pyramid_altsession.aio.connection import open_server
from pyramid_altsession.aio.pool import AsyncConnectionPool, LoopPool
from pyramid_altsession.aio.store import open_store
from pyramid_altsession.config.sources import read_settings
from pyramid_altsession.protocol.messages import Operation, Reply
from pyramid_altsession.stores.redis.failures import NotConnected
from pyramid_altsession.stores.redis.wire import pack_command

PING = pack_command((b"PING",))
Says = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def api_at(url: str, **more: object) -> AsyncSessionAPI:
    return AsyncSessionAPI.from_settings({"redis": {"url": url, "timeout": 30.0}, **more})


async def with_double(
    says: Says, act: Callable[[LoopPool], Awaitable[None]], wait: float = 30.0
) -> None:
    """Connections to a server that says what the test wants it to."""

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served_by.append(asyncio.current_task())
        with suppress(OSError):
            await says(reader, writer)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    served_by: list[Any] = []
    server = await asyncio.start_server(served, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = read_settings({"redis": {"url": f"redis://127.0.0.1:{port}"}}).redis
    pool = LoopPool(open_server(settings), limit=2, wait=wait, connect_wait=wait)
    async with server:
        await act(pool)
        pool.close()
        await asyncio.sleep(0.01)
        await asyncio.gather(*served_by)


def later() -> float:
    return time.monotonic() + 30.0


@pytest.mark.parametrize(
    ("said", "error", "text"),
    [
        (b"?garbage\r\n", redis.exceptions.InvalidResponse, "rotocol"),
        (b"", redis.ConnectionError, "closed the connection"),
        (b"+PONG\r\n+PONG\r\n", redis.ConnectionError, "nobody asked for"),
        (b"#t\r\n", redis.exceptions.InvalidResponse, "unknown type: bool"),
        (b"-LOADING the dataset\r\n", redis.exceptions.BusyLoadingError, "dataset"),
        (b"-ERR max number of clients reached\r\n", redis.ConnectionError, "max number"),
    ],
)
def test_what_is_no_reply(said: bytes, error: type[Exception], text: str) -> None:
    """What a connection brings that is no reply closes it, and the error tells what it was."""

    async def says(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(said)

    async def act(pool: LoopPool) -> None:
        with pytest.raises(error, match=text):
            await pool.exchange(PING, 1, later())

    asyncio.run(with_double(says, act))


def test_the_beginning_of_a_reply_that_nobody_asked_for() -> None:
    """Its rest would be taken for the next reply, so the next call has another connection."""
    connections: list[asyncio.StreamReader] = []

    async def says(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(reader)
        await reader.read(100)
        writer.write(b"+PONG\r\n+some")
        await reader.read(100)

    async def act(pool: LoopPool) -> None:
        assert [await pool.exchange(PING, 1, later()) for _ in range(2)] == [[b"PONG"]] * 2

    asyncio.run(with_double(says, act))
    assert len(connections) == 2


def test_a_server_that_always_hangs_up() -> None:
    """A read is said once more on a new connection, and then it is StoreUnavailable."""
    said: list[bytes] = []

    async def says(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said.append(await reader.read(1000))
        writer.close()

    async def refused() -> None:
        server = await asyncio.start_server(says, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, api_at(f"redis://127.0.0.1:{port}") as api:
            with pytest.raises(StoreUnavailable, match="closed the connection"):
                await api.open(f"{'a' * 22}.{'b' * 43}").get("cart")

    asyncio.run(refused())
    assert said == [said[0]] * 2


def test_a_server_that_comes_back(own_server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """The log tells once that it is away, and once that it serves again."""

    async def served() -> None:
        async with api_at(own_server.url) as api:
            own_server.kill()
            with pytest.raises(StoreUnavailable):
                await api.sessions_of("ann")
            own_server.start()
            async with asyncio.timeout(60):
                while True:
                    with suppress(StoreUnavailable):  # for a moment nobody tries
                        assert await api.sessions_of("ann") == []
                        return
                    await asyncio.sleep(0.01)

    with caplog.at_level(logging.WARNING, "pyramid_altsession"):
        asyncio.run(served())
    told = [record.levelname for record in caplog.records]
    assert told == ["ERROR", "WARNING"]


def test_why_the_server_hung_up() -> None:
    """An error reply before the end of a packet's replies is the reason that is told."""

    async def says(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"-ERR Protocol error: too big\r\n")

    async def act(pool: LoopPool) -> None:
        with pytest.raises(redis.ConnectionError, match="too big"):
            await pool.exchange(PING + PING, 2, later())

    asyncio.run(with_double(says, act))


def test_a_server_that_answers_nothing() -> None:
    """After two time-outs in a row a server counts as away, and calls fail at once."""

    async def says(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        await over.wait()

    async def act(pool: LoopPool) -> None:
        said: list[Exception] = []
        while len(said) < 2 or not isinstance(said[-1], NotConnected):
            with pytest.raises(redis.RedisError) as caught:
                await pool.exchange(PING, 1, time.monotonic() + 0.01)
            said.append(caught.value)
        over.set()

    over = asyncio.Event()
    asyncio.run(with_double(says, act, wait=0.01))


def test_no_place_comes_free() -> None:
    """Who waits until its end is told the setting's name; who is cancelled meanwhile leaves the
    place to the next one."""

    async def says(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(100):
            await go.wait()
            writer.write(b"+PONG\r\n")

    async def act(pool: LoopPool) -> None:
        busy = [asyncio.create_task(pool.exchange(PING, 1, later())) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(NotConnected, match="max_connections"):
            await pool.exchange(PING, 1, time.monotonic())
        queued = [asyncio.create_task(pool.exchange(PING, 1, later())) for _ in range(3)]
        await asyncio.sleep(0)
        queued[0].cancel()
        go.set()
        await busy[0]
        queued[1].cancel()  # perhaps just as it is given a place
        assert await queued[2] == [b"PONG"]
        await asyncio.gather(*busy)
        assert await pool.exchange(PING, 1, later()) == [b"PONG"]

    go = asyncio.Event()
    asyncio.run(with_double(says, act))


def test_idle_connections_that_the_server_closed(server: Server) -> None:
    """They are not used: what comes next opens another one."""

    async def closed() -> None:
        async with api_at(server.url) as api:
            made = await api.create({"a": 1})
            server.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await asyncio.sleep(0.01)
            assert await made.get("a", fresh=True) == 1

    asyncio.run(closed())


def test_idle_connections_that_the_server_closed_meanwhile(server: Server) -> None:
    """The event loop was too busy to notice. A call that may not be sent twice does not fail."""

    async def closed() -> None:
        async with api_at(server.url) as api:
            made = await api.create({"n": 1})
            for number in (2, 3):
                server.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                assert await made.increment("n") == number

    asyncio.run(closed())


def test_calls_under_way_when_the_connections_are_closed(own_server: Server) -> None:
    """They come to their end, and leave no connection open; a later call opens one."""

    async def close() -> None:
        async with api_at(own_server.url) as api:
            made = [await api.create({"n": 1}) for _ in range(3)]
            own_server.pause()
            calls = [asyncio.ensure_future(session.increment("n")) for session in made]
            await asyncio.sleep(0.01)
        own_server.resume()
        assert await asyncio.gather(*calls) == [2, 2, 2]
        await asyncio.sleep(0.01)
        until(lambda: len(own_server.client.client_list()) == 1)
        assert await made[0].increment("n") == 3
        assert len(own_server.client.client_list()) == 2
        await api.close()

    asyncio.run(close())


@pytest.mark.parametrize("forgotten", [False, True])
def test_a_server_that_refuses_writes_for_a_while(
    server: Server, caplog: pytest.LogCaptureFixture, forgotten: bool
) -> None:
    """StoreUnavailable; one line when it begins and one when it is over, whether the first step of
    what succeeds was the last, or the script had been forgotten."""

    async def refused() -> None:
        async with api_at(server.url) as api:
            made = await api.create({"a": 1})
            server.client.execute_command("REPLICAOF", "127.0.0.1", "1")
            try:
                for _ in range(2):
                    with pytest.raises(StoreUnavailable, match="read only"):
                        await made.set("a", 2)
            finally:
                server.client.execute_command("REPLICAOF", "NO", "ONE")
            if forgotten:
                server.client.script_flush()
            await made.set("a", 3)
            assert await made.get("a", fresh=True) == 3

    asyncio.run(refused())
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


def test_more_clients_than_the_server_takes(own_server: Server) -> None:
    """Who is turned away waits for a connection that is there."""

    async def crowd() -> None:
        async with api_at(own_server.url) as api:
            made = await api.create({"a": 1})
            assert made.token is not None
            own_server.client.config_set("maxclients", 3)
            token = made.token
            calls = [api.open(token).get("a") for _ in range(20)]
            assert await asyncio.gather(*calls) == [1] * 20

    asyncio.run(crowd())


def test_pools_of_other_loops(server: Server) -> None:
    """Closing closes what other loops have open, when they run; closed loops are forgotten."""
    settings = read_settings({"redis": {"url": server.url}}).redis
    pool = AsyncConnectionPool(open_server(settings), limit=2, wait=30.0, connect_wait=30.0)
    other, third = asyncio.new_event_loop(), asyncio.new_event_loop()

    async def use() -> None:
        await pool.exchange(PING, 1, later())

    async def close() -> None:
        pool.close()
        await asyncio.sleep(0)

    other.run_until_complete(use())
    third.run_until_complete(use())
    third.run_until_complete(close())
    other.run_until_complete(asyncio.sleep(0.001))
    assert len(server.client.client_list()) == 1
    third.close()
    other.run_until_complete(close())
    asyncio.run(use_and_close(pool))
    other.close()


async def use_and_close(pool: AsyncConnectionPool) -> None:
    await pool.exchange(PING, 1, later())
    pool.close()


def test_administration(server: Server) -> None:
    """Calls of the utility about sessions of users."""

    async def administer() -> None:
        async with api_at(server.url, session={"codec": None}) as api:
            made = await api.create({"a": 1})
            await made.login("ann")
            (info,) = await api.sessions_of("ann", keys=True)
            assert (info.keys, info.current) == ({"a": 1}, False)
            described = await api.describe(info.id, keys=True)
            assert described is not None  # its end is told by what is left of it
            assert described._replace(expires=info.expires) == info
            assert await api.values_of(info.id) == {"a": 1}
            assert await api.values_of("index") is None
            assert await api.invalidate_id(info.id, userid="ann") is True
            assert await api.invalidate_user("ann") == 0
            other = await api.create()
            assert await other.logout() is True

    asyncio.run(administer())


class Away:
    """A store that fails when it is told to."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.away = False

    async def execute(self, operation: Operation) -> Reply:
        if self.away:
            raise StoreUnavailable("away")
        return await self.store.execute(operation)

    async def close(self) -> None:
        await self.store.close()


def test_periodic_renewal(server: Server) -> None:
    """It is the last thing before the answer. Where it fails the answer goes out without it, and a
    later request renews; the new cookie and, within the grace, the old one open the session."""
    settings = read_settings(
        {"redis": {"url": server.url}, "session": {"renew_after": 60, "renew_grace": 60}}
    )
    store = Away(open_store(settings))
    api = AsyncSessionAPI(settings, store=store)

    async def answer_to(cookie: str) -> str | None:
        """The cookie that is sent, if one is."""
        session = api.session(f"sid={cookie}")
        assert await session.userid() == "ann"
        store.away = away
        response = Response()
        await api.finish(session, response)
        store.away = False
        sent = response.headers.get("Set-Cookie")
        return None if sent is None else sent.partition(";")[0].partition("=")[2]

    async def renewed() -> None:
        nonlocal away
        async with api:
            made = await api.create({"cart": 1})
            await made.login("ann")
            first = str(made.token)
            assert await answer_to(first) is None
            server.client.hincrby(f"sess:{made.id}", "@l", -61_000)  # it was a minute ago
            away = True
            assert await answer_to(first) is None
            away = False
            second = await answer_to(first)
            assert second not in (None, first)
            assert await answer_to(str(second)) is None
            for token in (first, str(second)):
                assert await api.open(token).get("cart") == 1

    away = False
    asyncio.run(renewed())


async def nobody() -> Any:
    raise AssertionError


def through(api: AsyncSessionAPI, scope: dict[str, Any], app: Any) -> list[Any]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(AltSessionMiddleware(app, api)(scope, nobody, send))
    return sent


def test_lifespan() -> None:
    """Other scopes pass through; the end of the server closes the utility."""
    api = api_at("memory://")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})

    assert len(through(api, {"type": "lifespan"}, app)) == 2
    assert len(through(api, {"type": "other"}, app)) == 2


def test_plain_http(caplog: pytest.LogCaptureFixture) -> None:
    """A Secure cookie over plain http is warned of, once."""
    api = api_at("memory://")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await scope["altsession"].set("a", 1)
        await send({"type": "http.response.start", "status": 200})

    async def twice(scope: Any, receive: Any, send: Any) -> None:
        middleware = AltSessionMiddleware(app, api)
        for _ in range(2):
            await middleware({"type": "http", "headers": [], "scheme": "http"}, receive, send)

    with caplog.at_level(logging.WARNING):
        through(api, {"type": "other"}, twice)
    assert [r.message.partition(" over ")[2][:10] for r in caplog.records] == ["plain http"]


def test_an_answer_that_has_begun() -> None:
    """An error after the beginning of an answer is the server's to end it."""
    api = api_at("memory://")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        raise SessionGone

    with pytest.raises(SessionGone):
        through(api, {"type": "http", "headers": []}, app)


def test_accepted_kinds() -> None:
    """An error's page is of the kind that the visitor accepts."""
    api = api_at("memory://")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise SessionGone

    headers = [(b"accept", b"application/json")]
    start, _ = through(api, {"type": "http", "headers": headers}, app)
    assert (b"content-type", b"application/json") in start["headers"]
