"""What becomes of a session, told to those who watch it."""

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import redis
from proxy import Proxy
from pyramid.exceptions import ConfigurationError
from servers import Server
from topologies import Cluster
from watches import WatchedAPI, turns, watching

from pyramid_altsession import SessionAPI, StoreUnavailable
from pyramid_altsession.aio import AsyncSessionAPI, Change
from pyramid_altsession.aio.pubsub import MAX_WAITING, NoticeQueue, PubSubConnection
from pyramid_altsession.aio.store import DirectStore
from pyramid_altsession.aio.store import open_store as open_aio
from pyramid_altsession.config.sources import read_settings
from pyramid_altsession.config.table import SessionSettings
from pyramid_altsession.protocol import notices
from pyramid_altsession.protocol.notices import WatchedSession, notice, parse_notice
from pyramid_altsession.stores import open_store

ENDED = "ended"


@pytest.fixture(params=["memory", "valkey", "redis7", "sentinel", "cluster"])
def url(request: pytest.FixtureRequest) -> str:
    """Of sessions that can be watched."""
    if request.param == "memory":
        return "memory://"
    found: Server = request.getfixturevalue(f"{request.param}_server")
    found.empty()
    return found.url


def short(change: Change | None) -> tuple[str, ...]:
    assert change is not None
    return (change.kind, *sorted(change.keys or ()))


def listeners(server: Server) -> int:
    """Connections on which the server tells of sessions."""
    return len(server.client.client_list(_type="pubsub"))


# -- what is told


@pytest.mark.slow
def test_what_is_told(url: str) -> None:
    """Each write tells once: the keys that it set, changed or removed, and whether the cookie was
    renewed. What only reads, or finds the value as it wants it, tells nothing. The end is the last
    thing."""

    async def act() -> None:
        async with WatchedAPI(url) as api:
            session = await api.create({"a": 1, "b": [], "n": 1})
            async with watching(api, session.id, keys=True) as watch:
                await session.set("ä", 2)
                await session.mset({"a": 1, "c": 3})
                await session.get("a", fresh=True)
                await session.touch()
                await session.increment("n")
                await session.compare_and_set("n", 7, 8)
                await session.remove("b")
                await session.remove("b")
                await session.pop("b")
                await session.compare_and_set("n", 8, 8)
                await session.increment("n", 0)
                await session.setdefault("n", 9)
                await session.increment("zero", 0)
                async with session.batch() as batch:
                    batch.set("d", 1)
                    batch.get("a")
                    batch.increment("e")
                    batch.remove("e")
                await session.renew()
                await session.login("ann")
                await session.logout()
                changes = await watch.rest()
            assert {change.id for change in changes} == {session.driver.state.token.id}
        said = [short(change) for change in changes]
        assert said == [
            ("changed", "ä"),
            ("changed", "a", "c"),
            ("changed", "n"),
            ("changed", "b"),
            ("changed", "zero"),
            ("changed", "d", "e"),
            ("renewed",),
            ("renewed",),
            ("ended",),
        ]

    asyncio.run(act())


def test_keys_are_told_to_those_who_ask(url: str) -> None:
    """Others hear of renewals and of the end, and of the keys that a renewal changed nothing."""

    async def act() -> None:
        async with WatchedAPI(url) as api:
            session = await api.create({"a": 1})
            async with watching(api, session.id) as watch:
                await session.set("a", 2)
                await session.login("ann")
                await session.logout()
                changes = await watch.rest()
        assert [short(change) for change in changes] == [("renewed",), ("ended",)]

    asyncio.run(act())


def test_periodic_renewal(server: Server) -> None:
    """A renewal as the last thing of a request is told; one that is not due is none."""

    async def act() -> None:
        more = {"session.renew_after": 1000}
        async with WatchedAPI(server.url, **more) as api:
            session = await api.create()
            await session.login("ann")
            async with watching(api, session.id) as watch:
                for age in (10, 2000):
                    login = server.client.time()[0] - age
                    server.client.hset(f"sess:{session.id}", "@l", login * 1000)
                    request = api.session(f"sid={session.token}")
                    await request.get("a")
                    request.driver.state.renewal_due = True
                    await request.driver.execute(request.driver.state.renewal())
                await api.invalidate_user("ann")
                changes = await watch.rest()
        assert [short(change) for change in changes] == [("renewed",), ("ended",)]

    asyncio.run(act())


async def other_login(api: AsyncSessionAPI, session: Any) -> None:
    request = api.session(f"sid={session.token}")
    await request.login("bob")


async def reuse(api: AsyncSessionAPI, session: Any) -> None:
    """The predecessor of a renewed cookie comes back after its time."""
    request = api.session(f"sid={session.token}")
    await request.get("a")
    request.driver.state.renewal_due = True
    await request.driver.execute(request.driver.state.renewal())
    renewed = api.open(f"{session.id}.{request.driver.state.token.verifier}")
    await renewed.touch()  # the first use: the grace of 0 s is over
    await api.session(f"sid={session.token}").get("a")


ENDS: dict[str, Callable[[AsyncSessionAPI, Any], Awaitable[object]]] = {
    "logout": lambda api, session: session.logout(),
    "durable": lambda api, session: api.open(session.token).invalidate(),
    "device": lambda api, session: api.invalidate_id(session.id, "ann"),
    "user": lambda api, session: api.invalidate_user("ann"),
    "all": lambda api, session: api.invalidate_all(),
    "holder": lambda api, session: api.attach(session.id, "ann").invalidate(),
    "other login": other_login,
    "reuse": reuse,
}


async def end_others(api: AsyncSessionAPI, session: Any) -> None:
    other = await api.create()
    await other.login("ann")
    await other.end_others()


async def crowd(api: AsyncSessionAPI, session: Any) -> None:
    for _ in range(3):
        other = await api.create()
        await other.login("ann")


@pytest.mark.parametrize("end", [*ENDS, "end_others", "crowd"])
def test_every_end_is_told(url: str, end: str) -> None:
    """Whoever ends it, and however."""

    async def act() -> None:
        more: dict[str, object] = {"session.max_sessions_per_user": 3}
        if end == "reuse":
            more |= {
                "session.renew_after": 0.001,
                "session.renew_grace": 0,
                "session.gone_window": 0,
                "session.on_reuse": "invalidate",
            }
        async with WatchedAPI(url, notify="life", **more) as api:
            session = await api.create({"a": 1})
            await session.login("ann")
            id = session.id
            async with watching(api, id) as watch:
                await (ENDS | {"end_others": end_others, "crowd": crowd})[end](api, session)
                changes = await watch.rest()
            assert await api.describe(str(id)) is None
        assert changes[-1] == Change(ENDED, str(id))
        assert [change.kind for change in changes[:-1]] == ["renewed"] * (end == "reuse")

    asyncio.run(act())


def test_expiry(url: str) -> None:
    """A session that nobody uses ends, and nobody says so."""

    async def act() -> None:
        more = {"session.tti": 0.02, "session.touch_interval": 0}
        async with WatchedAPI(url, **more) as api:
            session = await api.create({"a": 1})
            async with watching(api, session.id) as watch:
                assert [change.kind for change in await watch.rest()] == [ENDED]

    asyncio.run(act())


@pytest.mark.parametrize("id", ["x" * 22, "", "user:x", "ä"])
def test_no_session(url: str, id: str) -> None:
    """One that is not there has ended."""

    async def act() -> None:
        async with WatchedAPI(url) as api:
            assert [change async for change in api.watch(id)] == [Change(ENDED, id)]

    asyncio.run(act())


def test_what_nobody_tells_is_found(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where whoever writes tells nothing, the session is read now and then."""
    monkeypatch.setattr(notices, "CHECK", 0.01)

    async def act() -> None:
        async with WatchedAPI(server.url) as api, WatchedAPI(server.url, notify="none") as mute:
            session = await mute.create({"a": 1})
            async with watching(api, session.id, keys=True) as watch:
                await session.renew()
                assert await watch.next() == Change("renewed", str(session.id))
                server.client.delete(f"sess:{session.id}")
                assert await watch.rest() == [Change(ENDED, str(session.id))]

    asyncio.run(act())


def test_a_renewal_is_told_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the session is read after it was told."""
    monkeypatch.setattr(notices, "CHECK", 0.01)

    async def act() -> None:
        async with WatchedAPI(server.url) as api:
            session = await api.create({"a": 1})
            async with watching(api, session.id) as watch:
                await session.renew()
                await api.read_again(3)
                await session.logout()
                assert [change.kind for change in await watch.rest()] == ["renewed", ENDED]

    asyncio.run(act())


@pytest.mark.parametrize("keys", [(), ("a",), ("a\0b", "ä", "x" * 512)])
def test_a_notice(keys: tuple[str, ...]) -> None:
    """Names of keys travel as they are."""
    assert parse_notice(notice("changed", *keys)) == ("changed", frozenset(keys))


@pytest.mark.parametrize("keys", [False, True])
@pytest.mark.parametrize("said", [b"", b"hello", b"\xff"])
def test_what_others_publish(said: bytes, keys: bool) -> None:
    """A message that is no notice tells nothing, and does not end the watch."""
    watched = WatchedSession("x" * 22, keys)
    assert list(watched.noticed(said)) == []
    assert not watched.over


# -- what it costs


@pytest.mark.parametrize(("notify", "published"), [("none", 0), ("life", 2), ("keys", 4)])
def test_what_is_published(any_server: Server, notify: str, published: int) -> None:
    """Nothing if nothing is wanted, nothing of a session that was just made, and else once for each
    write that tells something."""

    async def act() -> None:
        async with WatchedAPI(any_server.url, notify=notify) as api:
            any_server.client.config_resetstat()
            session = await api.create({"a": 1})
            await session.set("a", 2)
            await session.mset({"b": 1, "c": 2})
            await session.renew()
            await session.touch()
            await session.get("a", fresh=True)
            await session.logout()

    asyncio.run(act())
    stats = any_server.client.info("commandstats")
    assert stats.get("cmdstat_spublish", {"calls": 0})["calls"] == published


def test_one_connection_for_all(server: Server) -> None:
    """The watches of an event loop share it. It is closed soon after the last one left."""

    async def act() -> None:
        more = {"redis.timeout": 0.5}
        async with WatchedAPI(server.url, **more) as api:
            made = [await api.create({"a": 1}) for _ in range(20)]
            every = [watching(api, session.id) for session in made for _ in range(2)]
            watches = [await each.__aenter__() for each in every]
            assert listeners(server) == 1
            for session in made:
                await session.logout()
            assert [len(await watch.rest()) for watch in watches] == [1] * 40
            await turns(lambda: listeners(server) == 0)
            for each in every:
                await each.__aexit__(None, None, None)

    asyncio.run(act())


def test_left_and_come_back(server: Server) -> None:
    """A watch that begins while the last one leaves hears as well as any other."""

    async def act() -> None:
        async with WatchedAPI(server.url) as api:
            session = await api.create({"a": 1})
            for _ in range(20):
                async with watching(api, session.id, keys=True):
                    pass
            async with watching(api, session.id, keys=True) as watch:
                await session.set("a", 1)
                assert short(await watch.next()) == ("changed", "a")

    asyncio.run(act())


def test_a_loop_that_is_left(server: Server) -> None:
    """``break`` ends the watch."""

    async def act() -> None:
        more = {"redis.timeout": 0.5}
        async with WatchedAPI(server.url, **more) as api:
            session = await api.create({"a": 1})

            async def first() -> Change | None:
                async for change in api.watch(str(session.id), keys=True):
                    return change
                return None

            assert await first() == Change("changed", str(session.id), None)
            gc.collect()
            await turns(lambda: listeners(server) == 0)

    asyncio.run(act())


# -- what has to be there


@pytest.mark.parametrize(
    ("notify", "keys", "wanted"),
    [("none", False, "life or keys"), ("none", True, "keys"), ("life", True, "keys")],
)
def test_the_setting_is_named(notify: str, keys: bool, wanted: str) -> None:
    """A watch that nobody would tell anything does not begin."""
    api = AsyncSessionAPI.from_settings({"redis.url": "memory://", "session.notify": notify})
    with pytest.raises(
        ConfigurationError, match=f"altsession.session.notify = {wanted}, found {notify}"
    ):
        api.watch("x" * 22, keys=keys)


def test_a_store_that_tells_nothing(server: Server) -> None:
    """The same for a store that cannot tell."""
    settings = read_settings({"redis.url": server.url, "session.notify": "life"})
    store = open_store(settings)
    api = AsyncSessionAPI(settings, DirectStore(store))
    with pytest.raises(ConfigurationError, match=r"RedisStore .* tells nobody"):
        api.watch("x" * 22)
    store.close()


@pytest.fixture
def least(any_server: Server) -> Iterator[str]:
    """A user with every right but those to channels; its URL."""
    any_server.client.execute_command(
        *("ACL", "SETUSER", "mute", "reset", "on", ">pw", "~sess:*", "+@all", "resetchannels")
    )
    yield f"redis://mute:pw@127.0.0.1:{any_server.port}"
    any_server.client.execute_command("ACL", "DELUSER", "mute")


def test_without_the_right_to_publish(least: str, any_server: Server) -> None:
    """Every write works, and what nobody tells is found."""

    async def act() -> None:
        async with WatchedAPI(any_server.url) as api, WatchedAPI(least) as mute:
            session = await mute.create({"a": 1})
            async with watching(api, session.id) as watch:
                await session.set("a", 2)
                await session.login("ann")
                assert await session.get("a", fresh=True) == 2
                assert await session.logout()
                any_server.client.client_kill_filter(_type="pubsub")
                assert [change.kind for change in await watch.rest()] == [ENDED]

    asyncio.run(act())


def test_without_the_right_to_listen(least: str) -> None:
    """A watch says at once what is missing."""

    async def act() -> None:
        async with WatchedAPI(least) as api:
            session = await api.create({"a": 1})
            with pytest.raises(StoreUnavailable, match=r"channels.*\+ssubscribe"):
                await anext(api.watch(str(session.id)))

    asyncio.run(act())


# -- while the server cannot be heard


def test_what_was_missed_is_found(url: str, request: pytest.FixtureRequest) -> None:
    """After its connection broke a watch reads the session: a renewal and an end are told, and of
    keys that any may have changed."""
    if url == "memory://":
        return
    kind = request.node.callspec.params["url"]
    found: Any = request.getfixturevalue(f"{kind}_server")
    plain = SessionAPI.from_settings({"redis.url": url, "session.notify": "keys"})

    def deafen() -> None:
        node = found.primary_of(f"sess:{made.id}") if kind == "cluster" else found
        node.client.client_kill_filter(_type="pubsub")

    async def act() -> None:
        async with (
            WatchedAPI(url) as api,
            watching(api, made.id, keys=True) as watch,
            watching(api, made.id) as life,
        ):
            # The loop does not run between the two: the watch cannot hear in time.
            deafen()
            made.set("a", 2)
            assert await watch.next() == Change("changed", str(made.id), None)
            deafen()
            made.renew()
            assert await watch.next() == Change("renewed", str(made.id), None)
            assert short(await life.next()) == ("renewed",)
            deafen()
            made.logout()
            assert [short(change) for change in await watch.rest()] == [(ENDED,)]
            assert [short(change) for change in await life.rest()] == [(ENDED,)]

    made = plain.create({"a": 1})
    asyncio.run(act())
    plain.close()


@pytest.mark.slow
def test_a_server_that_falls_silent(server: Server) -> None:
    """A connection on which nothing comes any more is noticed, and another one is opened."""
    proxy = Proxy(server)

    async def act() -> None:
        more = {"redis.timeout": 0.3}
        async with WatchedAPI(proxy.url, **more) as api, WatchedAPI(server.url) as other:
            session = await other.create({"a": 1})
            async with watching(api, session.id, keys=True) as watch:
                proxy.swallow = True
                await turns(lambda: listeners(server) == 0)  # it was given up
                proxy.swallow = False
                assert await watch.next() == Change("changed", str(session.id), None)
                await session.logout()
                kinds = [change.kind for change in await watch.rest()]
                assert kinds == ["changed"] * (len(kinds) - 1) + [ENDED]

    asyncio.run(act())
    proxy.close()


def test_it_gives_up(own_server: Server) -> None:
    """After its patience a watch raises StoreUnavailable: what it shows may be over."""

    async def act() -> None:
        more = {"redis.timeout": 0.5, "redis.connect_timeout": 0.5}
        async with WatchedAPI(own_server.url, **more) as api:
            session = await api.create({"a": 1})
            async with watching(api, session.id, patience=0.01) as watch:
                own_server.kill()
                with pytest.raises(StoreUnavailable, match="watch: the server cannot be heard"):
                    await watch.rest()
            with pytest.raises(StoreUnavailable):
                await anext(api.watch(str(session.id), patience=0))

    asyncio.run(act())


def test_many_watches_of_a_server_that_cannot_be_reached() -> None:
    """They fail together, and do not wait for each other's tries. A try that is cancelled tells
    nothing, and the next watch tries."""
    tries: list[asyncio.Event] = []

    async def open(end: float) -> Any:
        tries.append(asyncio.Event())
        await tries[-1].wait()
        raise redis.TimeoutError("no connection")

    async def fail_together(line: PubSubConnection, queue: NoticeQueue, before: int) -> None:
        calls = [asyncio.create_task(line.subscribe(b"x", queue)) for _ in range(20)]
        await turns(lambda: len(tries) == before + 1)
        calls.pop(0).cancel()
        await turns(lambda: len(tries) == before + 2)
        tries[-1].set()
        async with asyncio.timeout(60):
            said = await asyncio.gather(*calls, return_exceptions=True)
        assert {str(each) for each in said} == {"no connection"}

    async def act() -> None:
        line, queue = PubSubConnection(open, wait=30.0, connect_wait=30.0), NoticeQueue()
        for before in (0, 2):
            await fail_together(line, queue, before)
        assert len(tries) == 4

    asyncio.run(act())


def test_a_server_that_restarts(own_server: Server) -> None:
    """A watch goes on with what the server knows then."""

    async def act() -> None:
        async with WatchedAPI(own_server.url) as api:
            session = await api.create({"a": 1})
            async with watching(api, session.id) as watch:
                own_server.kill()
                own_server.start()
                assert [change.kind for change in await watch.rest()] == [ENDED]

    asyncio.run(act())


def test_reads_that_fail(server: Server) -> None:
    """It can be heard, and cannot be read: that is no better."""

    async def act() -> None:
        async with WatchedAPI(server.url) as api:
            session = await api.create({"a": 1})

            async def fails(operation: object) -> Any:
                raise StoreUnavailable("no read")

            execute, api.counted.execute = api.counted.execute, fails  # type: ignore[method-assign]
            with pytest.raises(StoreUnavailable, match="no read"):
                await anext(api.watch(str(session.id), patience=0))
            begun = asyncio.ensure_future(anext(api.watch(str(session.id))))
            await turns(lambda: listeners(server) == 1)
            api.counted.execute = execute  # type: ignore[method-assign]
            await session.logout()
            assert (await begun).kind == ENDED

    asyncio.run(act())


# -- a cluster whose slots move


def test_a_slot_that_moves(cluster_server: Cluster) -> None:
    """Whoever watches a session of it goes on at its new node."""
    cluster_server.empty()

    async def act() -> None:
        async with WatchedAPI(cluster_server.url) as api:
            session = await api.create({"a": 1})
            key = f"sess:{session.id}"
            old = cluster_server.primary_of(key)
            new = next(node for node in cluster_server.primaries if node is not old)
            async with watching(api, session.id, keys=True) as watch:
                for target in (new, old):
                    cluster_server.begin_move(key, target)
                    cluster_server.move_keys(key, target)
                    cluster_server.end_move(key, target)
                    assert await watch.next() == Change("changed", str(session.id), None)
                    while (await session.set("a", 1)) or (await watch.next()).keys != {"a"}:  # type: ignore[union-attr]
                        pass
                await session.logout()
                kinds = [change.kind for change in await watch.rest()]
                assert kinds[-1] == ENDED

    asyncio.run(act())


# -- parts


def test_more_than_anybody_takes() -> None:
    """What waits for a slow watch is bounded: if more comes, the session is read again."""

    async def act() -> None:
        queue = NoticeQueue()
        for _ in range(MAX_WAITING):
            queue.put(b"c")
        queue.put(b"c")
        assert await queue.get(60) is None
        with pytest.raises(TimeoutError):
            await queue.get(0)

    asyncio.run(act())


def test_a_loop_that_was_closed() -> None:
    """Nobody is there to be told: that is no error of whoever writes."""

    async def make() -> NoticeQueue:
        return NoticeQueue()

    asyncio.run(make()).put_threadsafe(b"c")


def test_closed_from_another_loop(server: Server) -> None:
    """``close`` closes the connections of all loops; watches that go on open new ones."""

    async def act() -> None:
        async with WatchedAPI(server.url) as api:
            session = await api.create({"a": 1})
            async with watching(api, session.id, keys=True) as watch:
                await asyncio.to_thread(asyncio.run, api.close())
                assert await watch.next() == Change("changed", str(session.id), None)
        assert listeners(server) == 0

    asyncio.run(act())


SUBSCRIBED = b"*3\r\n$10\r\nssubscribe\r\n$27\r\nsess:%b\r\n:1\r\n" % (b"x" * 22)


@pytest.mark.parametrize("said", [b"+PONG\r\n", b":1\r\n", b"?\r\n"])
def test_something_that_nobody_asked_for(said: bytes) -> None:
    """The connection is closed: nobody can tell what the next thing would be about."""
    heard = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(SUBSCRIBED)
        await heard.wait()
        writer.write(said)
        await reader.read()
        writer.close()

    async def act() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        store: Any = open_aio(read_settings({"redis.url": f"redis://127.0.0.1:{port}"}))
        queue = NoticeQueue()
        async with server:
            await store.notices.subscribe("x" * 22, queue)
            heard.set()
            assert await queue.get(60) is None
            await store.close()
            await asyncio.sleep(0.01)

    asyncio.run(act())


def test_a_server_that_hangs_up() -> None:
    """Whoever waits for its answer is told."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.close()

    async def act() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        store: Any = open_aio(read_settings({"redis.url": f"redis://127.0.0.1:{port}"}))
        async with server:
            with pytest.raises(redis.ConnectionError, match="closed the connection"):
                await store.notices.subscribe("x" * 22, NoticeQueue())
        await store.close()

    asyncio.run(act())


def test_one_loop_after_the_other(server: Server) -> None:
    """Each has connections of its own; those of a closed loop are forgotten."""
    api = WatchedAPI(server.url)

    async def act() -> None:
        session = await api.create({"a": 1})
        async with watching(api, session.id) as watch:
            await session.logout()
            assert len(await watch.rest()) == 1
        await api.close()

    asyncio.run(act())
    asyncio.run(act())


def test_one_of_two_leaves(url: str) -> None:
    """The other one hears on."""

    async def act() -> None:
        async with WatchedAPI(url) as api:
            session = await api.create({"a": 1})
            async with watching(api, session.id, keys=True) as watch:
                async with watching(api, session.id, keys=True):
                    pass
                await session.set("a", 2)
                assert short(await watch.next()) == ("changed", "a")

    asyncio.run(act())


def test_the_default() -> None:
    """Nothing is told unless somebody wants it."""
    assert SessionSettings().notify == "none"
