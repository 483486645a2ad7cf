"""Connections, leased one packet at a time.

redis-py opens connections (TLS, AUTH, unix sockets); this hands them out itself, because a pool
that takes back a connection with an unread reply hands one visitor's data to another. The rule:
a connection whose replies were not all read is closed before anybody can get it again.
"""

import os
import select
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import hiredis
import redis
from redis.connection import AbstractConnection

PAUSE = 1.0
"""Seconds after a failure to connect in which nobody waits for another try."""


class NotConnected(redis.ConnectionError):
    """Nothing was sent: there was no connection to be had."""


class Line:
    """One connection: redis-py's to open and close, ours to speak on."""

    __slots__ = ("__weakref__", "_connection", "_poll", "_reader")

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection

    @property
    def is_open(self) -> bool:
        return self._connection.is_connected

    def open(self) -> None:
        self._connection.connect()
        self._reader = hiredis.Reader(replyError=redis.ResponseError, notEnoughData=_MORE)
        self._poll = select.poll()
        self._poll.register(self._socket().fileno(), select.POLLIN)

    def close(self) -> None:
        self._connection.disconnect()

    def _socket(self) -> Any:
        return self._connection._get_socket()

    def is_clean(self) -> bool:
        """Whether the peer is still there and nothing unread waits."""
        return not self._poll.poll(0)

    def ask(self, packet: bytes, replies: int) -> list[Any]:
        """Send, and read so many replies, error replies among them; redis.ConnectionError or
        redis.TimeoutError when they do not all come."""
        answers: list[Any] = []
        socket = self._socket()
        try:
            socket.sendall(packet)
            while len(answers) < replies:
                answer = self._reader.gets()
                if answer is not _MORE:
                    answers.append(answer)
                    continue
                received = socket.recv(65536)
                if not received:
                    raise ConnectionResetError("the server closed the connection")
                self._reader.feed(received)
        except TimeoutError as error:
            raise redis.TimeoutError("no answer in time") from error
        except (OSError, hiredis.ProtocolError) as error:
            said = [answer for answer in answers if isinstance(answer, redis.ResponseError)]
            # An error reply tells why the server hung up.
            raise redis.ConnectionError(str(said[0] if said else error)) from error
        if self._reader.has_data():
            raise redis.ConnectionError("the server sent more than was asked for")
        return answers


_MORE = object()


class Lease:
    """At most ``limit`` connections of one process; the last one used is the first one taken."""

    def __init__(self, build: Callable[[], AbstractConnection], *, limit: int, wait: float) -> None:
        self._build = build
        self._limit = limit
        self._wait = wait
        self._reset()
        _leases.add(self)

    def _reset(self) -> None:
        self._idle: deque[Line] = deque()
        # Weak: a connection that an exception tore out of our hands frees its place by itself.
        # No WeakSet: an exception in the middle of its bookkeeping would take the place for good.
        self._open: list[weakref.ref[Line]] = []
        self._lock = threading.Lock()
        self._away: tuple[float, Exception] | None = None

    def exchange(self, packet: bytes, replies: int) -> list[Any]:
        """Send one packet, read so many replies. Error replies are returned, not raised.

        Raises NotConnected when nothing was sent, redis.ConnectionError or redis.TimeoutError
        when it is not known what was carried out; the connection is closed then.
        """
        line = self._take()
        idle = self._idle  # a child that was forked meanwhile looks into another one
        try:
            if not line.is_open:
                self._connect(line)
            answers = line.ask(packet, replies)
        except BaseException:
            line.close()
            idle.append(line)
            raise
        idle.append(line)
        return answers

    def close(self) -> None:
        """Close every connection that is not in use at this moment."""
        with suppress(IndexError):  # others take and put back meanwhile
            for _ in range(len(self._idle)):
                self._idle.pop().close()

    def _take(self) -> Line:
        """A connection with nothing unread in it."""
        deadline = 0.0
        while True:
            try:
                line = self._idle.pop()
            except IndexError:
                fresh = self._another()
                if fresh is not None:
                    return fresh
            else:
                if line.is_open and not line.is_clean():
                    line.close()
                return line
            now = time.monotonic()
            deadline = deadline or now + self._wait
            if now > deadline:
                raise NotConnected(
                    f"all {self._limit} connections (redis.max_connections) are in use"
                )
            time.sleep(0.001)

    def _another(self) -> Line | None:
        with self._lock:
            self._open = [known for known in self._open if known() is not None]
            if len(self._open) >= self._limit:
                return None
            line = Line(self._build())
            self._open.append(weakref.ref(line))
            return line

    def _connect(self, line: Line) -> None:
        away = self._away
        if away is not None and time.monotonic() < away[0]:
            raise NotConnected(str(away[1]))
        try:
            line.open()
        except redis.RedisError as error:
            self._away = (time.monotonic() + PAUSE, error)
            raise NotConnected(str(error)) from error
        self._away = None


_leases: "weakref.WeakSet[Lease]" = weakref.WeakSet()


def _after_fork() -> None:
    """A child must not speak on its parent's sockets."""
    for lease in list(_leases):
        lease._reset()


os.register_at_fork(after_in_child=_after_fork)
