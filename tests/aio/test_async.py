"""What only the awaitable side has: event loops, tasks, cancellation."""

import asyncio
import random
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextvars import Context, ContextVar
from pathlib import Path

import pytest
from proxy import Proxy
from servers import Server
from workers import eventually

from pyramid_altsession import StoreUnavailable
from pyramid_altsession.aio import AsyncAltSession, AsyncSessionAPI


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    proxy = Proxy(server)
    yield proxy
    proxy.close()


def api_at(url: str, **redis: object) -> AsyncSessionAPI:
    return AsyncSessionAPI.from_settings({"redis": {"url": url, "timeout": 30.0, **redis}})


def clients(server: Server) -> int:
    """Connections to the server but the one that asks; a closed one until the server notices."""
    return len(server.client.client_list()) - 1


@pytest.mark.slow
def test_nothing_of_it_is_imported_unasked() -> None:
    """``import pyramid_altsession`` imports neither this package nor, in a module of the package,
    asyncio. The demo is an application, of two processes."""
    said = "import sys, pyramid_altsession; print('pyramid_altsession.aio' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", said], text=True) == "False\n"
    package = Path(sys.modules["pyramid_altsession"].__file__ or "").parent
    using = {p.parent.name for p in package.rglob("*.py") if "import asyncio" in p.read_text()}
    assert using == {"aio", "demo"}


def test_storm_of_cancellations(server: Server) -> None:
    """Whatever is cancelled, no task ever reads another one's value, no connection is left over,
    and none is missing afterwards."""

    async def worker(api: AsyncSessionAPI, name: str, dice: random.Random) -> int:
        made = await api.create({"whose": name})
        assert made.token is not None
        for number in range(150):
            session = api.open(made.token)
            work = asyncio.create_task(
                session.get("whose") if number % 2 else session.set("number", name)
            )
            for _ in range(dice.randrange(6)):
                await asyncio.sleep(0)
            work.cancel()
            try:
                value = await work
            except asyncio.CancelledError:
                continue
            assert value == (name if number % 2 else None)
        assert await api.open(made.token).get("whose") == name
        return 1

    async def storm() -> None:
        dice = random.Random(7)
        async with api_at(server.url, max_connections=4) as api:
            workers = [worker(api, f"w{n}", dice) for n in range(6)]
            assert sum(await asyncio.gather(*workers)) == 6
            assert eventually(lambda: clients(server) <= 4)

    asyncio.run(storm())
    assert eventually(lambda: clients(server) == 0)


class CountingSelector(selectors.SelectSelector):
    looks = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.looks += 1
        return super().select(timeout)


def test_a_reply_resumes_its_task_at_once(server: Server) -> None:
    """A call needs one turn of the event loop, the one in which its reply comes."""
    selector = CountingSelector()

    async def calls() -> int:
        async with api_at(server.url) as api:
            session = await api.create({"cart": 1})
            before = selector.looks
            for _ in range(100):
                assert await session.get("cart", fresh=True) == 1
            return selector.looks - before

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        # A busy machine may deliver a reply in two parts, but not every one.
        assert 100 <= runner.run(calls()) < 150


def test_a_task_goes_on_in_its_own_context(server: Server) -> None:
    """What it sets after a call is there after its next wait, even if nothing was set before."""
    variable: ContextVar[int] = ContextVar("variable")

    async def calls() -> None:
        async with api_at(server.url) as api:
            await api.create()
            before = variable.set(1)
            await asyncio.sleep(0)
            assert variable.get() == 1
            variable.reset(before)

    Context().run(asyncio.run, calls())


def test_replies_that_do_not_come(proxy: Proxy, server: Server) -> None:
    """A call is over in its time, its connection is closed, and the next one serves."""

    async def stalled() -> None:
        async with api_at(proxy.url, timeout=0.2) as api:
            made = await api.create({"a": 1})
            assert made.token is not None
            proxy.swallow = True
            with pytest.raises(StoreUnavailable, match=r"no answer within 0.2 s \(redis.timeout\)"):
                await api.open(made.token).get("a")
            proxy.swallow = False
            async with asyncio.timeout(60):
                while True:  # on a busy machine 0.2 s may be too little once more
                    try:
                        assert await api.open(made.token).get("a") == 1
                        break
                    except StoreUnavailable:
                        await asyncio.sleep(0)

    asyncio.run(stalled())


def test_timeouts_of_the_caller(proxy: Proxy) -> None:
    """``asyncio.timeout`` around a call cancels it, and the late reply reaches nobody."""

    async def impatient() -> None:
        async with api_at(proxy.url, max_connections=1) as api:
            made = await api.create({"a": 1, "b": 2})
            assert made.token is not None
            proxy.swallow = True
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await api.open(made.token).get("a")
            proxy.swallow = False
            assert await api.open(made.token).get("b") == 2

    asyncio.run(impatient())


def test_places_are_given_in_turn(server: Server) -> None:
    """A thousand tasks share a few connections, and each of them is served."""

    async def crowd() -> None:
        async with api_at(server.url, max_connections=16) as api:
            made = await api.create({"a": 1})
            assert made.token is not None
            token = made.token
            values = await asyncio.gather(*[api.open(token).get("a") for _ in range(1000)])
            assert values == [1] * 1000
            assert clients(server) <= 16

    asyncio.run(crowd())


def test_no_place_in_time(proxy: Proxy) -> None:
    """Who waits for a connection longer than a call may take is told the setting's name."""

    async def crowd() -> None:
        async with api_at(proxy.url, max_connections=1, timeout=0.2) as api:
            made = await api.create()
            assert made.token is not None
            proxy.swallow = True
            calls = [api.open(made.token).exists() for _ in range(2)]
            said = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(each) for each in said} == {StoreUnavailable}
            named = ("redis.max_connections", "redis.timeout")
            assert any(name in str(each) for each in said for name in named)

    asyncio.run(crowd())


def test_tasks_that_share_a_session(server: Server) -> None:
    """Overlapping first writes make one session, and increments lose nothing."""

    async def shared() -> None:
        async with api_at(server.url) as api:
            session = api.session("")
            await asyncio.gather(*[session.increment("n") for _ in range(50)])
            reads = [session.get("n", fresh=True), session.get("n", fresh=True), session.all()]
            assert await asyncio.gather(*reads) == [50, 50, {"n": 50}]
            assert len([each async for each in api.scan()]) == 1

    asyncio.run(shared())


def test_event_loops_of_one_process(server: Server) -> None:
    """Each loop has connections of its own; those of a closed one are forgotten."""
    api = api_at(server.url)

    async def once() -> object:
        made = await api.create({"a": 1})
        return await made.get("a", fresh=True)

    async def last() -> object:
        async with api:
            return await once()

    assert [asyncio.run(last()), asyncio.run(last())] == [1, 1]
    assert eventually(lambda: clients(server) == 0)


def test_prefetch(server: Server) -> None:
    """A task reads meanwhile; whoever uses the key takes its reply, and an error is no news."""

    async def ahead() -> None:
        async with api_at(server.url) as api:
            made = await api.create({"a": 1})
            assert made.token is not None
            session = api.open(made.token)
            await session.prefetch("a")
            assert await session.get("a") == 1
            await session.prefetch()
            await session.prefetch("b")
            await session.set("b", 2)
            assert await session.get("b") == 2
            assert isinstance(session, AsyncAltSession)
            assert repr(session).startswith("<AsyncOpenSession alive ")
            await session.prefetch("c")
            session.driver.state.abandon()

    asyncio.run(ahead())


def test_embedded_server() -> None:
    """embedded:// starts a server of its own."""

    async def started(directory: str) -> None:
        async with AsyncSessionAPI.from_settings(
            {"redis": {"url": f"embedded://{directory}/db", "timeout": 30.0}}
        ) as api:
            await api.check()

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(started(directory))


def test_password_and_database(own_server: Server, tmp_path: Path) -> None:
    """A connection begins with AUTH and SELECT; a wrong password is StoreUnavailable."""
    own_server.client.config_set("requirepass", "secret")
    file = tmp_path / "password"
    file.write_text("secret\n")

    def at(**more: object) -> AsyncSessionAPI:
        return AsyncSessionAPI.from_settings({"redis": {"socket": own_server.socket, **more}})

    async def greeted() -> None:
        async with at(password="secret", db=3) as api:
            await api.create()
        async with at(password_file=str(file), username="default") as api:
            await api.check()
        async with at(password="wrong") as api:
            with pytest.raises(StoreUnavailable, match="invalid username-password"):
                await api.create()

    asyncio.run(greeted())
    own_server.client.execute_command("AUTH", "secret")
    assert "db3" in own_server.client.info("keyspace")


def test_no_server() -> None:
    """Nobody listens: StoreUnavailable, at once for a moment afterwards."""

    async def alone() -> None:
        async with api_at("unix:///nowhere/s") as api:
            for _ in range(2):
                with pytest.raises(StoreUnavailable, match="no connection"):
                    await api.create()

    asyncio.run(alone())


def test_memory() -> None:
    """Sessions in the process."""

    async def kept() -> None:
        async with AsyncSessionAPI.from_settings({"redis.url": "memory://"}) as api:
            assert repr(api) == "<AsyncSessionAPI <MemoryStore>>"
            made = await api.create({"a": 1})
            assert await made.all() == {"a": 1}
            assert await api.invalidate_all(progress=lambda number: None) == 1

    asyncio.run(kept())
