"""Observers of the awaitable utility are told what those of the plain one are."""

import asyncio
import contextlib

import pytest
from servers import Server

from pyramid_altsession import Observation, SessionAPI, StoreUnavailable
from pyramid_altsession.aio import AsyncSessionAPI
from pyramid_altsession.protocol.messages import Listing, Read, Write


def test_what_operations_take(server: Server) -> None:
    """One packet each, with the bytes of the wire, whatever other tasks do at the same time."""
    seen: list[Observation] = []

    async def observed() -> None:
        async with AsyncSessionAPI.from_settings({"redis.url": server.url}) as api:
            await api.check()  # connects, and loads the script
            api.observe(seen.append)
            api.observe(lambda each: None)
            made = await api.create({"small": "", "large": "x" * 10_000})
            token = str(made.token)
            calls = [api.open(token).get(key) for key in ("small", "large", "small", "large")]
            await asyncio.gather(*calls)
            await api.sessions_of("ann")
            assert repr(api).startswith("<AsyncSessionAPI <AsyncObservedStore <AsyncRedisStore ")

    asyncio.run(observed())
    written, *reads, listed = seen
    assert isinstance(written.operation, Write)
    assert isinstance(listed.operation, Listing)
    assert written.sent > 10_000 > written.received > 0
    received: dict[object, set[int]] = {}
    for read in reads:
        assert isinstance(read.operation, Read)
        received.setdefault(read.operation.fields, set()).add(read.received // 10_000)
    assert received == {("small",): {0}, ("large",): {1}}
    assert {each.round_trips for each in seen} == {1}
    assert all(each.reply is not None and each.error is None for each in seen)


def test_what_fails_and_what_is_cancelled(server: Server) -> None:
    """The error is told; a cancelled call has neither reply nor error."""
    seen: list[Observation] = []

    async def observed() -> None:
        async with AsyncSessionAPI.from_settings({"redis.url": "unix:///nowhere"}) as api:
            api.observe(seen.append)
            with pytest.raises(StoreUnavailable):
                await api.create()
        async with AsyncSessionAPI.from_settings({"redis.url": server.url}) as api:
            api.observe(seen.append)
            task = asyncio.create_task(api.check())
            await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    asyncio.run(observed())
    failed, cancelled = seen
    assert isinstance(failed.error, StoreUnavailable)
    assert (failed.reply, cancelled.reply, cancelled.error) == (None, None, None)


def test_the_same_function_given_again() -> None:
    """It is called once for each operation, as with the plain utility."""
    seen: list[Observation] = []
    observer = seen.append
    plain = SessionAPI.from_settings({"redis.url": "memory://"})
    awaited = AsyncSessionAPI.from_settings({"redis.url": "memory://"})
    for api in (plain, awaited):
        api.observe(observer)
        api.observe(observer)
    plain.create()
    assert len(seen) == 1
    asyncio.run(awaited.create())
    assert len(seen) == 2
