"""Watches of sessions, and what they are told."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from pyramid_altsession.aio import AsyncSessionAPI, AsyncStore, Change
from pyramid_altsession.aio.store import open_store
from pyramid_altsession.config.sources import read_settings
from pyramid_altsession.protocol.messages import Describe, Operation, Reply

PATIENCE = 300.0
"""Seconds: no watch of a test gives up, where that is not what the test is about."""


class Counted:
    """An awaitable store that knows how often a watched session was read."""

    def __init__(self, store: AsyncStore) -> None:
        self._store = store
        self.notices = getattr(store, "notices", None)
        self.close = store.close
        self.reads = 0

    async def execute(self, operation: Operation) -> Reply:
        reply = await self._store.execute(operation)
        self.reads += isinstance(operation, Describe)
        return reply


class WatchedAPI(AsyncSessionAPI):
    """The utility, and how often a watched session was read."""

    def __init__(self, url: str, *, notify: str = "keys", **more: object) -> None:
        given = {"redis.url": url, "session.notify": notify, **more}
        settings = read_settings({"redis.timeout": 30, "redis.connect_timeout": 30, **given})
        self.counted = Counted(open_store(settings))
        super().__init__(settings, self.counted)

    async def read_again(self, times: int = 1) -> None:
        """Until watched sessions were read so often from now on."""
        wanted = self.counted.reads + times
        await turns(lambda: self.counted.reads >= wanted)


async def turns(holds: Callable[[], object]) -> None:
    """Let others run until it holds."""
    async with asyncio.timeout(120):
        while not holds():
            await asyncio.sleep(0.001)


class Watching:
    """A watch, in a task of its own."""

    def __init__(self, api: AsyncSessionAPI, id: str, options: dict[str, Any]) -> None:
        self._told: asyncio.Queue[Change | None] = asyncio.Queue()
        self.task = asyncio.create_task(self._watch(api, id, options))

    async def _watch(self, api: AsyncSessionAPI, id: str, options: dict[str, Any]) -> None:
        try:
            async for change in api.watch(id, **{"patience": PATIENCE} | options):
                self._told.put_nowait(change)
        finally:
            self._told.put_nowait(None)

    async def next(self) -> Change | None:
        """What it tells next; None when it is over. What it raised is raised."""
        async with asyncio.timeout(120):
            change = await self._told.get()
        if change is None:
            await self.task
        return change

    async def rest(self) -> list[Change]:
        """What it tells until it is over."""
        found = []
        while change := await self.next():
            found.append(change)
        return found


@asynccontextmanager
async def watching(api: WatchedAPI, id: str | None, **options: Any) -> AsyncIterator[Watching]:
    """A watch that has begun to listen."""
    assert id is not None
    watch = Watching(api, id, options)
    try:
        if options.get("keys"):
            assert await watch.next() == Change("changed", id, None)
        else:
            await api.read_again()
        yield watch
    finally:
        watch.task.cancel()
        await asyncio.gather(watch.task, return_exceptions=True)
