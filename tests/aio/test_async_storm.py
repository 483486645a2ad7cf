"""Awaited reads and writes that are cancelled, run out of time and meet a server that stalls.

``ALTSESSION_AWAITED=100000`` carries out so many, and prints what became of them.
"""

import asyncio
import itertools
import os
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest
from proxy import Proxy
from servers import Server
from workers import eventually

from pyramid_altsession import StoreUnavailable
from pyramid_altsession.aio import AsyncAltSession, AsyncSessionAPI
from pyramid_altsession.aio import pool as pools

LONG = os.environ.get("ALTSESSION_AWAITED")
CALLS = int(LONG or "4000")
TASKS, CONNECTIONS = 24, 8
TIMEOUT = 0.1  # seconds of a call
BEAT = 0.005
PATIENCE = 60.0
BOUND = 2 * (TIMEOUT / BEAT + 2)
"""Beats in which each call is over, one that waits for another one of its session too. They are
counted by a task of the same event loop: on a busy machine a beat takes longer, and there are not
more of them."""

EXPECTED = {"calls", "right", "CancelledError", "TimeoutError", "StoreUnavailable"}
"""What calls come to, all of them."""

pytestmark = [
    pytest.mark.volume,
    pytest.mark.skipif(sys.platform != "linux", reason="a server that is stopped by a signal"),
]


class Found(NamedTuple):
    seen: Counter[str]
    longest: int
    """Beats of the longest call."""
    places: int
    """Connections that calls could have at once in the end."""


class Pace:
    """How long a call is let alone, in seconds at most: so that about half of those that may be cut
    off are, whether the machine is fast, slow or busy."""

    seconds = 1e-3

    def cut(self) -> None:
        self.seconds = min(self.seconds * 1.01, TIMEOUT)

    def whole(self) -> None:
        self.seconds /= 1.01


class Storm:
    """Visitors, each with a session of its own: it knows what may be in it."""

    def __init__(self, api: AsyncSessionAPI) -> None:
        self.api = api
        self.seen: Counter[str] = Counter()
        self.dice = random.Random(5)
        self.pace = Pace()
        self.beats = 0
        self.longest = 0

    async def visitor(self, name: str, token: str, calls: int) -> None:
        acknowledged, unsure = f"{name}: begun", set[str]()
        shared = self.api.open(token)
        for number in range(calls):
            session = shared if self.dice.random() < 0.3 else self.api.open(token)
            what = self.dice.randrange(4)
            if what == 0:
                value = f"{name}: {number}"
                unsure.add(value)
                if await self.carried_out(session.set("last", value), None):
                    unsure.remove(value)
                    acknowledged = value
            elif what == 1:
                may_be = (*unsure, acknowledged)
                await self.carried_out(session.get("last", fresh=True), *may_be)
            elif what == 2:
                await self.carried_out(session.get("whose", fresh=True), name)
            else:
                await self.two_at_once(session, name)

    async def begun(self, name: str) -> str:
        while True:
            try:
                made = await self.api.create({"whose": name, "last": f"{name}: begun"})
                return str(made.token)
            except StoreUnavailable:  # on a busy machine
                await asyncio.sleep(BEAT)

    async def two_at_once(self, session: AsyncAltSession, name: str) -> None:
        """Two tasks that share a session."""
        reads = [session.get("whose", fresh=True) for _ in range(2)]
        await asyncio.gather(*[self.carried_out(read, name) for read in reads])

    async def carried_out(self, call: Awaitable[Any], *expected: Any) -> bool:
        """Whether it was, as far as is known."""
        self.seen["calls"] += 1
        try:
            value = await self.timed(call)
        except (asyncio.CancelledError, Exception) as error:
            self.seen[type(error).__name__] += 1
            if isinstance(error, StoreUnavailable):
                await asyncio.sleep(TIMEOUT / 2)  # until the server counts as there again
            return False
        self.seen["right" if value in expected else "wrong"] += 1
        return True

    async def timed(self, call: Awaitable[Any]) -> Any:
        began = self.beats
        try:
            return await self.cut_short(call)
        finally:
            self.longest = max(self.longest, self.beats - began)

    async def cut_short(self, call: Awaitable[Any]) -> Any:
        """Left alone, in a block with ``asyncio.timeout``, or cancelled after a while."""
        kind = self.dice.randrange(3)
        if kind == 0:
            return await call
        seconds = self.dice.uniform(0, self.pace.seconds)
        try:
            if kind == 1:
                async with asyncio.timeout(seconds):
                    value = await call
            else:
                task = asyncio.ensure_future(call)
                asyncio.get_running_loop().call_later(seconds, task.cancel)
                value = await task
        except BaseException:
            self.pace.cut()
            raise
        self.pace.whole()
        return value

    async def heart(self) -> None:
        while True:
            await asyncio.sleep(BEAT)
            self.beats += 1


@asynccontextmanager
async def beside(*works: Awaitable[None]) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(work) for work in works]
    yield
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def stalls(server: Server) -> None:
    """The server stops for longer than a call may take, and for less; for the first time soon, as a
    fast machine is through in a second."""
    try:
        served = TIMEOUT / 2
        for seconds in itertools.cycle([2.5 * TIMEOUT, 0.3 * TIMEOUT]):
            await asyncio.sleep(served)
            server.pause()
            await asyncio.sleep(seconds)
            server.resume()
            served = 5 * TIMEOUT
    finally:
        server.resume()


async def storm(
    url: str, calls: int, *works: Awaitable[None], server: Server | None = None
) -> Found:
    redis = {"url": url, "max_connections": CONNECTIONS, "timeout": TIMEOUT}
    settings = {"redis": {**redis, "connect_timeout": TIMEOUT}}
    async with AsyncSessionAPI.from_settings(settings) as api:
        found = Storm(api)
        each = calls // TASKS
        names = [f"v{number}" for number in range(TASKS)]
        tokens = await asyncio.gather(*[found.begun(name) for name in names])
        async with beside(found.heart(), *works):
            known = zip(names, tokens, strict=True)
            await asyncio.gather(*[found.visitor(*visitor, each) for visitor in known])
        places = 0 if server is None else await places_of(api, server)
    return Found(found.seen, found.longest, places)


async def places_of(api: AsyncSessionAPI, server: Server) -> int:
    """Connections that as many calls open as may have one, when none is open. On a busy machine
    one of them may run out of time, and is closed: so again, as long as there are too few."""
    token = f"{'a' * 22}.{'b' * 43}"
    most = 0
    async with asyncio.timeout(PATIENCE):
        while most < CONNECTIONS:
            await api.close()
            calls = [api.open(token).exists() for _ in range(2 * CONNECTIONS)]
            await asyncio.gather(*calls, return_exceptions=True)
            most = max(most, open_at(server))
    return most


def open_at(server: Server) -> int:
    """Connections to the server but the one that asks."""
    return len(server.client.client_list()) - 1


def test_storm(own_server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """No task ever reads another one's value or an old one, every call is over within its time, and
    afterwards no connection is left over, and none is missing."""
    found = asyncio.run(storm(own_server.url, CALLS, stalls(own_server), server=own_server))
    if LONG is not None:
        with capsys.disabled():
            print(f"\n{dict(found.seen)}, longest {found.longest * BEAT:.3f} s")
    assert set(found.seen) == EXPECTED
    assert found.seen["calls"] >= CALLS - TASKS
    assert found.places == CONNECTIONS
    assert eventually(lambda: open_at(own_server) == 0)
    assert found.longest <= BOUND


class Careless(pools.LoopPool):
    """Lets the next call have a connection when a call is over, however it ended."""

    async def exchange(
        self, packet: bytes, replies: int, end: float, *, once: bool = False
    ) -> list[Any]:
        connection = self._rested() or await self._take(end)
        vars(connection)["close"] = lambda: None
        try:
            return await connection.exchange(packet, replies, end)
        finally:
            del vars(connection)["close"]
            self._idle.append(connection)


def test_the_storm_finds_a_connection_that_serves_on(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a connection serves on after a cancelled call, somebody gets another one's reply: a
    wrong value, or that the session is gone."""
    monkeypatch.setattr(pools, "LoopPool", Careless)
    proxy = Proxy(server)
    proxy.delay = 1e-3  # so that the reply to a cancelled call comes after the next call
    try:
        found = asyncio.run(storm(proxy.url, 1000))
    finally:
        proxy.close()
    assert set(found.seen) - EXPECTED
