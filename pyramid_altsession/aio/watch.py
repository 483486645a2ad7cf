"""Watching a session: what becomes of it, as it happens."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable

import redis
from redis.exceptions import NoPermissionError

from ..errors import StoreUnavailable
from ..protocol.administration import describe
from ..protocol.fields import Description
from ..protocol.notices import Change, WatchedSession
from ..protocol.steps import Steps
from .pubsub import NoticeQueue, Notices

PAUSE = 0.25
"""Seconds between two tries to hear a server that is away."""

Found = list[Description | None]


async def changes(
    notices: Notices,
    run: Callable[[Steps[Found]], Awaitable[Found]],
    watched: WatchedSession,
    patience: float,
) -> AsyncGenerator[Change, None]:
    """The changes of the session. It listens first and reads then, so that it misses nothing in
    between.
    """
    queue, gap, trying_since = NoticeQueue(), True, time.monotonic()
    try:
        while not watched.over:
            try:
                if gap:
                    await notices.subscribe(watched.id, queue)
                (known,) = await run(describe([watched.id]))
            except (redis.RedisError, StoreUnavailable) as error:
                hopeless = isinstance(error, NoPermissionError)
                if hopeless or time.monotonic() - trying_since > patience:
                    raise _failure(error) from error
                gap = True
                await asyncio.sleep(PAUSE)
                continue
            for change in watched.found(known, gap=gap):
                yield change
            gap, trying_since = False, time.monotonic()
            until = trying_since + watched.wait
            while not watched.over and not gap:
                try:
                    notice = await queue.get(until - time.monotonic())
                except TimeoutError:
                    trying_since = time.monotonic()
                    break
                if notice is None:
                    gap, trying_since = True, time.monotonic()
                else:
                    for change in watched.noticed(notice):
                        yield change
    finally:
        notices.unsubscribe(watched.id, queue)


def _failure(error: Exception) -> StoreUnavailable:
    if isinstance(error, StoreUnavailable):
        return error
    advice = ""
    if isinstance(error, NoPermissionError):
        advice = "; the server's user needs the channels, +ssubscribe and +sunsubscribe"
    return StoreUnavailable(f"watch: the server cannot be heard: {error}{advice}")
