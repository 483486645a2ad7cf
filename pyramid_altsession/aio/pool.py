"""Connections to one server, leased one packet at a time: those of each event loop apart.

The rules are those of ``stores/redis/pool.py``: a connection whose replies were not all read is
closed before anybody can get it again, and a process never speaks on another one's.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import redis

from ..config.table import RedisSettings
from ..stores.redis.breaker import Breaker, turned_away
from ..stores.redis.failures import NotConnected
from ..stores.redis.timed import left
from .connection import Connection, Open
from .semaphore import FairSemaphore


class LoopPool:
    """At most ``limit`` connections of one event loop; the last one used is the first one taken.
    Waiting calls get a connection in the order in which they came.

    A call has until its ``end`` for everything, from waiting for a connection to the last reply. A
    call that has to connect has ``connect_wait`` seconds, if that is longer.
    """

    def __init__(self, open: Open, *, limit: int, wait: float, connect_wait: float) -> None:
        self._open = open
        self._limit = limit
        self._wait = wait
        self._connect_wait = connect_wait
        self._places = FairSemaphore(limit)
        self._idle: list[Connection] = []
        self._used = 0
        self._closed = 0
        self._breaker = Breaker()

    async def exchange(
        self, packet: bytes, replies: int, end: float, *, once: bool = False
    ) -> list[Any]:
        """Send one packet and read ``replies`` replies. Error replies are returned, not raised.
        ``once``: the packet may not be sent a second time, so look whether the server has closed
        the connection; the event loop may have been too busy to notice.

        Raises NotConnected when nothing was sent, redis.ConnectionError or redis.TimeoutError when
        it is not known what was carried out.
        """
        if not self._places.try_acquire():
            try:
                await self._places.wait(left(end))
            except TimeoutError:
                raise NotConnected(self._reason()) from None
        try:
            while True:
                closed = self._closed
                connection = self._rested(look=once)
                if connection is None:
                    connection = await self._take(end)
                opener, until = connection.granted
                last = until if opener == end else end
                self._used += 1
                try:
                    answers = await connection.exchange(packet, replies, last)
                except redis.RedisError as error:
                    if not self._broken(error) or time.monotonic() > end:
                        raise
                    continue  # nothing was carried out, and another connection may come free
                finally:
                    self._used -= 1
                if closed == self._closed:
                    self._idle.append(connection)
                else:
                    connection.close()
                if self._breaker.timeouts:
                    self._breaker.answered()
                return answers
        finally:
            self._places.release()

    def close(self) -> None:
        """Close the connections; those in use when their call is over. Later calls open others."""
        self._closed += 1
        self._close_idle()

    # -- connections

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _rested(self, *, look: bool = False) -> Connection | None:
        """An idle connection with nothing unread in it, if there is one."""
        while self._idle:
            connection = self._idle.pop()
            if connection.failure is None:
                if not (look and connection.unread()):
                    return connection
                connection.close()
        return None

    async def _take(self, end: float) -> Connection:
        """A new connection or one that came free."""
        while True:
            opened = await self._connect(end)
            if opened is not None:
                return opened
            if time.monotonic() > end:
                raise NotConnected(self._reason())
            await asyncio.sleep(0.001)
            connection = self._rested()
            if connection is not None:
                return connection

    async def _connect(self, end: float) -> Connection | None:
        """A new connection; None if none can be opened now, but one in use may come free."""
        breaker, cause = self._breaker, None
        if breaker.may_connect():
            last = max(end, end - self._wait + self._connect_wait)
            try:
                opened = await self._open(min(last, time.monotonic() + self._connect_wait))
            except redis.RedisError as error:
                cause = error
                breaker.connect_failed(str(error))
            else:
                breaker.connected()
                opened.granted = end, max(last, opened.granted[1])
                return opened
        if not breaker.unresponsive and (self._used or self._idle):
            return None
        raise NotConnected(self._reason()) from cause

    def _broken(self, error: redis.RedisError) -> bool:
        """Note the error. Returns whether the server refused the connection itself."""
        refused = turned_away(error)
        if refused:
            self._breaker.connect_failed(str(error))
        if isinstance(error, redis.TimeoutError):
            self._close_idle()  # the same server: each would cost another call a time-out
            self._breaker.timed_out(str(error))
        return refused

    def _reason(self) -> str:
        """Why the call cannot get a connection, for the error's message."""
        full = f"all {self._limit} connections (redis.max_connections) are in use"
        return self._breaker.reason or full


class AsyncConnectionPool:
    """The connections of a process to one server. A connection cannot leave its event loop, so each
    loop has a pool of its own, which is dropped when the loop is closed.
    """

    def __init__(self, open: Open, *, limit: int, wait: float, connect_wait: float) -> None:
        self._new: Callable[[], LoopPool] = lambda: LoopPool(
            open, limit=limit, wait=wait, connect_wait=connect_wait
        )
        self._pools: dict[asyncio.AbstractEventLoop, LoopPool] = {}
        self._pid = os.getpid()

    def exchange(
        self, packet: bytes, replies: int, end: float, *, once: bool = False
    ) -> Awaitable[list[Any]]:
        """As :meth:`LoopPool.exchange`."""
        pool = self._pools.get(asyncio.get_running_loop())
        if pool is None or self._pid != os.getpid():
            pool = self._begin()
        return pool.exchange(packet, replies, end, once=once)

    def _begin(self) -> LoopPool:
        if self._pid != os.getpid():
            self._pools, self._pid = {}, os.getpid()
        for loop in list(self._pools):
            if loop.is_closed():
                self._pools.pop(loop, None)
        return self._pools.setdefault(asyncio.get_running_loop(), self._new())

    def close(self) -> None:
        """Close every connection that is not in use; those of other loops, when they next run."""
        here = asyncio.get_running_loop()
        for loop, pool in list(self._pools.items()):
            if loop is here:
                pool.close()
            elif not loop.is_closed():
                loop.call_soon_threadsafe(pool.close)


def pool_of(open: Open, settings: RedisSettings) -> AsyncConnectionPool:
    return AsyncConnectionPool(
        open,
        limit=settings.max_connections,
        wait=settings.timeout,
        connect_wait=settings.connect_timeout,
    )
