"""One connection to a server, awaited: whatever it does is over at one moment."""

import asyncio
import math
import os
import select
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context, copy_context
from functools import cache, partial
from typing import Any

import hiredis
import redis
from redis.connection import DefaultParser

from ..config.table import RedisSettings
from ..stores.embedded import EmbeddedServer
from ..stores.redis.connections import PasswordFile, tls_context
from ..stores.redis.exchanges import Address
from ..stores.redis.failures import PLAIN, check_reply, no_answer, no_connection
from ..stores.redis.timed import left
from ..stores.redis.wire import no_errors, pack_command
from ..stores.traffic import Traffic, received, sent

Open = Callable[[float], Awaitable["Connection"]]
"""Opens a connection, by this end (in the seconds of time.monotonic()), or raises a RedisError."""

LAST_LOOK = 0.001
"""Seconds to read a reply that has already arrived: perhaps this process was slow, not the server.
"""


class Arrival(asyncio.Future[None]):
    """What one task awaits. Other futures leave it to the event loop's next turn to resume the
    task, after another look at all sockets; this one can do so at once.
    """

    __slots__ = ("_resume",)

    def add_done_callback(
        self, fn: Callable[[Any], object], /, *, context: Context | None = None
    ) -> None:
        super().add_done_callback(fn, context=context)
        # (An empty context counts as false.)
        self._resume = fn, copy_context() if context is None else context

    def arrived(self) -> None:
        """To be the last step of a callback of the event loop, because the task goes on in here.
        Within a task no other one can go on: then it does so in the loop's next turn.
        """
        if asyncio.current_task() is None:
            resume, context = self._resume
            self.remove_done_callback(resume)
            self.set_result(None)
            context.run(resume, self)
        else:
            self.set_result(None)


class Connection(asyncio.Protocol):
    """Sends one packet at a time and returns its replies. After an error it cannot be used any
    more, because nobody can tell to which packet the next reply would belong.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(
            protocolError=redis.exceptions.InvalidResponse, replyError=DefaultParser.parse_error
        )
        self._transport: asyncio.Transport
        self._replies: list[Any] = []
        self._expected = 0
        self._bytes_received = 0
        self._waiter: Arrival | None = None
        self._end = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._on_message: Callable[[Any], None] | None = None
        self._on_lost: Callable[[redis.RedisError], None] | None = None
        self.timeout = math.inf
        """Seconds that an answer may take, from the settings: for the message of a time-out."""
        self.failure: redis.RedisError | None = None
        """Why the connection cannot be used any more; None while it can."""
        self.granted = (math.nan, -math.inf)
        """The end of the call that opened it, and until when that call may use it instead: the call
        had to wait for the connection, and may have more than one packet to send."""

    async def exchange(self, packet: bytes, replies: int, end: float) -> list[Any]:
        """Send the packet and return its replies, error replies among them. If anything is raised,
        a cancellation too, the connection is closed.
        """
        if self.failure is not None:
            raise self.failure
        waiter = self._waiter = Arrival(loop=self._loop)
        self._expected, self._bytes_received = replies, 0
        self._end = end
        if end < self._timer_at:
            self._set_timer(end)
        try:
            self._transport.write(packet)
            await waiter
        except BaseException:
            self.close()
            raise
        finally:
            self._waiter = None
            if Traffic.measured:
                sent(len(packet))
                received(self._bytes_received)
        answers, self._replies = self._replies, []
        if self._reader.has_data():  # the beginning of a reply that nobody asked for
            self._unexpected()
        for answer in answers:
            if answer.__class__ not in PLAIN:
                try:
                    check_reply(answer)
                except redis.RedisError:
                    self.close()
                    raise
        return answers

    def unread(self) -> bool:
        """Whether something came that the event loop has not read yet. On an idle connection that
        means that the server closed it.
        """
        look = select.poll()
        look.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(look.poll(0))

    def listen(
        self, on_message: Callable[[Any], None], on_lost: Callable[[redis.RedisError], None]
    ) -> None:
        """From now on the server may send messages at any time. Each is passed to ``on_message``;
        when the connection fails, the error is passed to ``on_lost``. No exchange may follow.
        """
        self._on_message, self._on_lost = on_message, on_lost

    def send(self, packet: bytes) -> None:
        """Send a packet on a connection that listens."""
        self._transport.write(packet)

    def close(self) -> None:
        """Close it at once."""
        self._fail(redis.ConnectionError("the connection was closed"))

    # -- called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        reader, replies = self._reader, self._replies
        reader.feed(data)
        self._bytes_received += len(data)
        try:
            while (reply := reader.gets()) is not False:
                replies.append(reply)
        except redis.RedisError as error:
            self._fail(error)
            return
        waiter = self._waiter
        if waiter is None or len(replies) > self._expected:
            self._unexpected()
        elif len(replies) == self._expected and not waiter.done():
            waiter.arrived()

    def _unexpected(self) -> None:
        if self._on_message is None:
            self._fail(redis.ConnectionError("the server sent something that nobody asked for"))
            return
        replies, self._replies = self._replies, []
        for reply in replies:
            self._on_message(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None:
            self._fail(redis.ConnectionError("the server closed the connection"))
        else:
            self._read_rest()
            self._fail(redis.ConnectionError(f"the connection broke: {exc}"))

    def _read_rest(self) -> None:
        """Read what the server sent before it closed the connection. A failed write leaves it
        unread.
        """
        if self._transport.get_extra_info("sslcontext") is None:
            with suppress(OSError, redis.RedisError):
                socket = self._transport.get_extra_info("socket")
                self._reader.feed(os.read(socket.fileno(), 65536))
                while (reply := self._reader.gets()) is not False:
                    self._replies.append(reply)

    def _set_timer(self, at: float) -> None:
        """Set the timer that ends a late exchange. A new timer for each packet would cost as much
        as sending it, so a timer that was set for an earlier packet serves the later ones too.
        """
        self._cancel_timer()
        self._timer_at = at
        self._timer = self._loop.call_later(max(at - time.monotonic(), 0.0), self._timer_due)

    def _timer_due(self) -> None:
        self._cancel_timer()
        if self._waiter is None:
            return
        if time.monotonic() < self._end:
            self._set_timer(self._end)
        else:
            self._loop.call_later(LAST_LOOK, self._too_late, self._waiter)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = None, math.inf

    def _too_late(self, waiter: Arrival | None) -> None:
        if waiter is self._waiter:
            self._fail(no_answer(self.timeout))

    def _fail(self, error: redis.RedisError) -> None:
        if self.failure is None:
            said = [reply for reply in self._replies if isinstance(reply, redis.RedisError)]
            if said and isinstance(error, redis.ConnectionError):
                error = redis.ConnectionError(str(said[0]))  # why the server hung up
            self.failure = error
            self._cancel_timer()
            self._transport.abort()
            waiter = self._waiter
            if waiter is not None and not waiter.done():
                waiter.set_exception(error)
            if self._on_lost is not None:
                self._on_lost(error)


# -- how connections are opened


def open_at(settings: RedisSettings) -> Callable[[Address], Open]:
    """Returns a function that opens connections to servers, over TCP or TLS."""
    context = cache(partial(tls_context, settings))

    def at(address: Address) -> Open:
        host, port = address

        async def connect() -> Connection:
            tls: dict[str, Any] = {}
            if settings.ssl:
                tls = {"ssl": context(), "server_hostname": host}
            loop = asyncio.get_running_loop()
            return (await loop.create_connection(Connection, host, port, **tls))[1]

        return lambda end: opened(connect, settings, end)

    return at


def open_server(settings: RedisSettings, embedded: EmbeddedServer | None = None) -> Open:
    """Returns a function that opens connections to the single server of the settings."""
    if embedded is not None:
        return partial(_open_embedded, settings, embedded)
    if settings.socket is not None:
        return lambda end: opened(partial(_connect_unix, settings.socket), settings, end)
    return open_at(settings)((settings.host, settings.port))


async def _connect_unix(path: str | None) -> Connection:
    return (await asyncio.get_running_loop().create_unix_connection(Connection, path))[1]


async def _open_embedded(
    settings: RedisSettings, embedded: EmbeddedServer, end: float
) -> Connection:
    """Open a connection to the embedded server. The time for starting the server is not counted."""
    try:
        return await _open_started(settings, embedded, end)
    except Gone:
        return await _open_started(settings, embedded, end)  # another one may be there


async def _open_started(
    settings: RedisSettings, embedded: EmbeddedServer, end: float
) -> Connection:
    began = time.monotonic()
    path = await asyncio.get_running_loop().run_in_executor(None, _started, embedded)
    end += time.monotonic() - began
    connection = await opened(partial(_connect_unix, path), settings, end)
    connection.granted = math.nan, end
    return connection


class Gone(redis.ConnectionError):
    """No server listens at the address."""


def _started(embedded: EmbeddedServer) -> str:
    try:
        return embedded.socket()
    except OSError as error:
        raise redis.ConnectionError(str(error)) from error


async def opened(
    connect: Callable[[], Awaitable[Connection]], settings: RedisSettings, end: float
) -> Connection:
    """A connection that is ready for use: authenticated, and with its database selected."""
    connection = None
    try:
        async with asyncio.timeout(left(end)):
            connection = await connect()
        connection.timeout = settings.timeout
        packet, replies = greeting(settings)
        if replies:
            no_errors(await connection.exchange(packet, replies, end))
    except (TimeoutError, redis.TimeoutError) as error:
        raise no_connection(settings.connect_timeout) from error
    except (ConnectionRefusedError, FileNotFoundError) as error:
        raise Gone(f"no connection: {error}") from error
    except OSError as error:
        raise redis.ConnectionError(f"no connection: {error}") from error
    except BaseException:
        if connection is not None:
            connection.close()
        raise
    if connection.failure is not None:
        raise connection.failure
    return connection


def greeting(settings: RedisSettings) -> tuple[bytes, int]:
    """The first packet on a connection, and the number of its replies."""
    packet, replies = b"", 0
    credentials: tuple[str, ...] = ()
    if settings.password_file is not None:
        credentials = PasswordFile(settings.username, settings.password_file).get_credentials()
    elif settings.username is not None or settings.password is not None:
        said = (settings.username, settings.password or "")
        credentials = tuple([each for each in said if each is not None])
    if credentials:
        packet += pack_command((b"AUTH", *[each.encode() for each in credentials]))
        replies += 1
    if settings.db:
        packet += pack_command((b"SELECT", b"%d" % settings.db))
        replies += 1
    return packet, replies
