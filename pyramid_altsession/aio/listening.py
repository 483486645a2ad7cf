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
from ..stores.redis.exchanges import Address, Ask, Steps
from ..stores.redis.wire import no_errors, pack_command
from .connection import Connection, Open

PING = pack_command((b"PING",))
MOST = 1000
"""Notices that may wait for one watch. If more come, they are dropped, and the watch has to read
the session again.
"""


class Ear:
    """The queue of notices for one watch. It belongs to one event loop; other threads put notices
    in with ``tell_from_outside``.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._heard: asyncio.Queue[bytes | None] = asyncio.Queue()

    def tell(self, notice: bytes | None) -> None:
        """Put a notice in. None: notices may be missing, because the connection broke or too many
        were waiting.
        """
        if self._heard.qsize() >= MOST:
            self._heard = asyncio.Queue()
            notice = None
        self._heard.put_nowait(notice)

    def tell_from_outside(self, notice: bytes) -> None:
        """As ``tell``, from any thread."""
        with suppress(RuntimeError):  # the loop was closed
            self._loop.call_soon_threadsafe(self.tell, notice)

    async def hear(self, seconds: float) -> bytes | None:
        """The next notice, or None as for ``tell``; TimeoutError if none comes in that time."""
        async with asyncio.timeout(seconds):
            return await self._heard.get()


class Notices(Protocol):
    """A source of notices about sessions."""

    async def subscribe(self, id: str, ear: Ear) -> None:
        """Give the ear all notices about this session from now on. It may be called again for the
        same ear. Raises redis.RedisError.
        """

    def leave(self, id: str, ear: Ear) -> None:
        """Give the ear no more notices about this session."""


class MemoryNotices:
    """Notices about sessions in memory."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def subscribe(self, id: str, ear: Ear) -> None:
        self._store.listen(id, ear.tell_from_outside)

    def leave(self, id: str, ear: Ear) -> None:
        self._store.listen_no_more(id, ear.tell_from_outside)


class Line:
    """One connection on which a server publishes notices. It is opened when it is first used, and
    closed soon after the last ear left.

    The connection sends a question every ``wait`` seconds; if the server does not answer one within
    ``wait`` seconds, it counts as away.
    """

    def __init__(self, open: Open, *, wait: float, connect_wait: float) -> None:
        self._open = open
        self._wait = wait
        self._connect_wait = connect_wait
        self._ears: dict[bytes, set[Ear]] = {}
        self._questions: deque[tuple[bytes, asyncio.Future[Any] | None]] = deque()
        self._connection: Connection | None = None
        self._opening = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._quiet = False

    async def add(self, channel: bytes, ear: Ear) -> Any:
        """Subscribe the ear; returns the server's answer, which may be an error. Raises
        redis.RedisError if there is no answer.
        """
        async with self._opening:
            if self._connection is None:
                await self._connect()
        self._ears.setdefault(channel, set()).add(ear)
        answer = asyncio.get_running_loop().create_future()
        self._ask(b"SSUBSCRIBE", channel, answer)
        said = await answer
        if isinstance(said, Exception):
            self.remove(channel, ear)
        return said

    def remove(self, channel: bytes, ear: Ear) -> None:
        ears = self._ears.get(channel, set())
        ears.discard(ear)
        if not ears and self._ears.pop(channel, None) is not None:
            self._ask(b"SUNSUBSCRIBE", channel)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    async def _connect(self) -> None:
        connection = await self._open(time.monotonic() + self._connect_wait)
        self._connection, self._quiet = connection, False
        connection.listen(self._heard, self._lost)
        self._timer = asyncio.get_running_loop().call_later(self._wait, self._beat)

    def _beat(self) -> None:
        if self._quiet or not self._ears:
            self.close()
            return
        self._quiet = True
        self._ask(b"PING")  # whatever it answers
        self._timer = asyncio.get_running_loop().call_later(self._wait, self._beat)

    def _ask(
        self, command: bytes, channel: bytes = b"", answer: "asyncio.Future[Any] | None" = None
    ) -> None:
        assert self._connection is not None  # else no ear is left
        self._questions.append((channel, answer))
        self._connection.say(pack_command((command, channel) if channel else (command,)))

    def _heard(self, said: Any) -> None:
        self._quiet = False
        kind, channel = said[:2] if isinstance(said, list) else (b"", b"")
        if kind == b"smessage":
            for ear in self._ears.get(channel, ()):
                ear.tell(said[2])
        elif kind == b"sunsubscribe" and not self._asked_to_leave(channel):
            for ear in self._ears.pop(channel, ()):  # the slot has moved to another node
                ear.tell(None)
        elif self._questions:
            _, answer = self._questions.popleft()
            if answer is not None and not answer.done():
                answer.set_result(said)
        else:
            self.close()

    def _asked_to_leave(self, channel: bytes) -> bool:
        return bool(self._questions) and self._questions[0] == (channel, None)

    def _lost(self, error: redis.RedisError) -> None:
        self._connection = None
        assert self._timer is not None
        self._timer.cancel()
        questions, ears = self._questions, self._ears
        self._questions, self._ears = deque(), {}
        for _, answer in questions:
            if answer is not None and not answer.done():
                answer.set_exception(error)
        for ear in {ear for each in ears.values() for ear in each}:
            ear.tell(None)


def one_server(key: bytes, packet: bytes, replies: int, repeatable: bool) -> Steps[list[Any]]:
    """Send packets about a key, where all keys are on one server."""
    return (yield Ask(None, packet, replies))


class ServerNotices:
    """Notices about sessions on servers. A session's channel has the name of its key, so that in a
    cluster the same node has both.

    ``say``: steps that find this node. ``look_up``: carries out their questions about the servers.
    """

    def __init__(
        self,
        prefix: str,
        say: Callable[[bytes, bytes, int, bool], Steps[list[Any]]],
        look_up: Callable[[Ask], Awaitable[list[Any]]],
        open_at: Callable[[Address | None], Open],
        settings: RedisSettings,
    ) -> None:
        self._prefix = prefix.encode() + b":"
        self._say = say
        self._look_up = look_up
        self._open_at = open_at
        self._settings = settings
        self._lines: dict[asyncio.AbstractEventLoop, dict[Address | None, Line]] = {}

    async def subscribe(self, id: str, ear: Ear) -> None:
        channel = self._prefix + id.encode()

        async def exchange(ask: Ask) -> list[Any]:
            if ask.lookup:
                return await self._look_up(ask)
            return [await self._line(ask.address).add(channel, ear)] * ask.replies

        no_errors(await run_async(exchange, self._say(channel, b"", 1, True)))

    def leave(self, id: str, ear: Ear) -> None:
        for line in self._here().values():
            line.remove(self._prefix + id.encode(), ear)

    def close(self) -> None:
        """Close the connections, those of other loops when they next run."""
        here = self._here()
        for loop, lines in list(self._lines.items()):
            for line in lines.values():
                if lines is here:
                    line.close()
                else:
                    loop.call_soon_threadsafe(line.close)

    def _here(self) -> dict[Address | None, Line]:
        for loop in list(self._lines):
            if loop.is_closed():
                self._lines.pop(loop, None)
        return self._lines.setdefault(asyncio.get_running_loop(), {})

    def _line(self, address: Address | None) -> Line:
        lines = self._here()
        if address not in lines:
            lines[address] = Line(
                self._open_at(address),
                wait=self._settings.timeout,
                connect_wait=self._settings.connect_timeout,
            )
        return lines[address]
