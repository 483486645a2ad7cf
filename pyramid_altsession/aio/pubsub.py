"""Receives the notices that servers publish about sessions, on one connection for all watches of an
event loop.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol

import redis

from ..config.table import RedisSettings
from ..protocol.steps import run_async
from ..stores.memory import MemoryStore
from ..stores.redis.exchanges import Address, Exchange, Steps
from ..stores.redis.wire import no_errors, pack_command
from .connection import Connection, Open

PING = pack_command((b"PING",))
MAX_WAITING = 1000
"""Notices that may wait for one watch. If more come, they are dropped, and the watch has to read
the session again.
"""


class NoticeQueue:
    """The queue of notices for one watch. It belongs to one event loop; other threads put notices
    in with ``put_threadsafe``.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Queue[bytes | None] = asyncio.Queue()

    def put(self, notice: bytes | None) -> None:
        """Put a notice in. None: notices may be missing, because the connection broke or too many
        were waiting.
        """
        if self._waiting.qsize() >= MAX_WAITING:
            self._waiting = asyncio.Queue()
            notice = None
        self._waiting.put_nowait(notice)

    def put_threadsafe(self, notice: bytes) -> None:
        """As ``put``, from any thread."""
        with suppress(RuntimeError):  # the loop was closed
            self._loop.call_soon_threadsafe(self.put, notice)

    async def get(self, seconds: float) -> bytes | None:
        """The next notice, or None as for ``put``; TimeoutError if none comes in that time."""
        async with asyncio.timeout(seconds):
            return await self._waiting.get()


class Notices(Protocol):
    """A source of notices about sessions."""

    async def subscribe(self, id: str, queue: NoticeQueue) -> None:
        """Give the queue all notices about this session from now on. It may be called again for the
        same queue. Raises redis.RedisError.
        """

    def unsubscribe(self, id: str, queue: NoticeQueue) -> None:
        """Give the queue no more notices about this session."""


class MemoryNotices:
    """Notices about sessions in memory."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def subscribe(self, id: str, queue: NoticeQueue) -> None:
        self._store.listen(id, queue.put_threadsafe)

    def unsubscribe(self, id: str, queue: NoticeQueue) -> None:
        self._store.stop_listening(id, queue.put_threadsafe)


class PubSubConnection:
    """One connection on which a server publishes notices. It is opened when it is first used, and
    closed soon after the last subscription ended.

    It sends a PING every ``wait`` seconds; if the server does not answer one within
    ``wait`` seconds, it counts as away.
    """

    def __init__(self, open: Open, *, wait: float, connect_wait: float) -> None:
        self._open = open
        self._wait = wait
        self._connect_wait = connect_wait
        self._queues: dict[bytes, set[NoticeQueue]] = {}
        self._commands: deque[tuple[bytes, asyncio.Future[Any] | None]] = deque()
        self._connection: Connection | None = None
        self._opening = asyncio.Lock()
        self._failure: redis.RedisError | None = None  # the last one to open it
        self._timer: asyncio.TimerHandle | None = None
        self._silent = False

    async def subscribe(self, channel: bytes, queue: NoticeQueue) -> Any:
        """Subscribe the queue; returns the server's answer, which may be an error. Raises
        redis.RedisError if there is no answer.

        Calls that wait while another one tries to open the connection share its failure. If they
        tried one after the other, the last one would fail far too late.
        """
        before = self._failure
        async with self._opening:
            if self._connection is None:
                if self._failure is not None and self._failure is not before:
                    raise self._failure
                await self._connect()
        self._queues.setdefault(channel, set()).add(queue)
        answer = asyncio.get_running_loop().create_future()
        self._command(b"SSUBSCRIBE", channel, answer)
        reply = await answer
        if isinstance(reply, Exception):
            self.unsubscribe(channel, queue)
        return reply

    def unsubscribe(self, channel: bytes, queue: NoticeQueue) -> None:
        queues = self._queues.get(channel, set())
        queues.discard(queue)
        if not queues and self._queues.pop(channel, None) is not None:
            self._command(b"SUNSUBSCRIBE", channel)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    async def _connect(self) -> None:
        try:
            connection = await self._open(time.monotonic() + self._connect_wait)
        except redis.RedisError as error:
            self._failure = error
            raise
        self._connection, self._silent = connection, False
        connection.listen(self._receive, self._lost)
        self._timer = asyncio.get_running_loop().call_later(self._wait, self._ping)

    def _ping(self) -> None:
        if self._silent or not self._queues:
            self.close()
            return
        self._silent = True
        self._command(b"PING")  # whatever it answers
        self._timer = asyncio.get_running_loop().call_later(self._wait, self._ping)

    def _command(
        self, command: bytes, channel: bytes = b"", answer: "asyncio.Future[Any] | None" = None
    ) -> None:
        assert self._connection is not None  # otherwise no queue would be left
        self._commands.append((channel, answer))
        self._connection.send(pack_command((command, channel) if channel else (command,)))

    def _receive(self, message: Any) -> None:
        self._silent = False
        kind, channel = message[:2] if isinstance(message, list) else (b"", b"")
        if kind == b"smessage":
            for queue in self._queues.get(channel, ()):
                queue.put(message[2])
        elif kind == b"sunsubscribe" and not self._unsubscribing(channel):
            for queue in self._queues.pop(channel, ()):  # the slot has moved to another node
                queue.put(None)
        elif self._commands:
            _, answer = self._commands.popleft()
            if answer is not None and not answer.done():
                answer.set_result(message)
        else:
            self.close()

    def _unsubscribing(self, channel: bytes) -> bool:
        return bool(self._commands) and self._commands[0] == (channel, None)

    def _lost(self, error: redis.RedisError) -> None:
        self._connection = None
        assert self._timer is not None
        self._timer.cancel()
        commands, queues = self._commands, self._queues
        self._commands, self._queues = deque(), {}
        for _, answer in commands:
            if answer is not None and not answer.done():
                answer.set_exception(error)
        for queue in {queue for each in queues.values() for queue in each}:
            queue.put(None)


Connections = dict[Address | None, PubSubConnection]
"""By the server's address."""


def one_server(key: bytes, packet: bytes, replies: int, repeatable: bool) -> Steps[list[Any]]:
    """Send packets about a key, where all keys are on one server."""
    return (yield Exchange(None, packet, replies))


class ServerNotices:
    """Notices about sessions on servers. A session's channel has the name of its key, so that in a
    cluster the same node has both.

    ``send``: steps that find this node. ``look_up``: carries out their exchanges about the servers.
    """

    def __init__(
        self,
        prefix: str,
        send: Callable[[bytes, bytes, int, bool], Steps[list[Any]]],
        look_up: Callable[[Exchange], Awaitable[list[Any]]],
        open_at: Callable[[Address | None], Open],
        settings: RedisSettings,
    ) -> None:
        self._prefix = prefix.encode() + b":"
        self._send = send
        self._look_up = look_up
        self._open_at = open_at
        self._settings = settings
        self._connections: dict[asyncio.AbstractEventLoop, Connections] = {}

    async def subscribe(self, id: str, queue: NoticeQueue) -> None:
        channel = self._prefix + id.encode()

        async def carry_out(exchange: Exchange) -> list[Any]:
            if exchange.lookup:
                return await self._look_up(exchange)
            connection = self._connection_to(exchange.address)
            return [await connection.subscribe(channel, queue)] * exchange.replies

        no_errors(await run_async(carry_out, self._send(channel, b"", 1, True)))

    def unsubscribe(self, id: str, queue: NoticeQueue) -> None:
        for connection in self._here().values():
            connection.unsubscribe(self._prefix + id.encode(), queue)

    def close(self) -> None:
        """Close the connections, those of other loops when they next run."""
        here = self._here()
        for loop, connections in list(self._connections.items()):
            for connection in connections.values():
                if connections is here:
                    connection.close()
                else:
                    loop.call_soon_threadsafe(connection.close)

    def _here(self) -> Connections:
        for loop in list(self._connections):
            if loop.is_closed():
                self._connections.pop(loop, None)
        return self._connections.setdefault(asyncio.get_running_loop(), {})

    def _connection_to(self, address: Address | None) -> PubSubConnection:
        connections = self._here()
        if address not in connections:
            connections[address] = PubSubConnection(
                self._open_at(address),
                wait=self._settings.timeout,
                connect_wait=self._settings.connect_timeout,
            )
        return connections[address]
