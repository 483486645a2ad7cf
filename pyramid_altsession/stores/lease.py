"""Connections, leased one packet at a time.

redis-py builds connections (TLS, AUTH, unix sockets); this hands them out itself, because a pool
that takes back a connection with an unread reply hands one visitor's data to another. The rule:
a connection whose replies were not all read is closed before anybody can get it again.
"""

import itertools
import os
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import redis
from redis.connection import AbstractConnection

PAUSE = 1.0
"""Seconds after a failure to connect in which nobody waits for another try."""


class NotConnected(redis.ConnectionError):
    """Nothing was sent: there was no connection to be had."""


class Lease:
    """At most ``limit`` connections of one process; the last one used is the first one taken."""

    def __init__(self, build: Callable[[], AbstractConnection], *, limit: int, wait: float) -> None:
        self._build = build
        self._limit = limit
        self._wait = wait
        self._reset()
        _leases.add(self)

    def _reset(self) -> None:
        self._idle: deque[AbstractConnection] = deque()
        # By number, in the order of their making. Weak: a connection that an exception tore out of
        # our hands frees its place by itself.
        self._places: dict[int, weakref.ref[AbstractConnection]] = {}
        self._numbers = itertools.count()
        self._away: tuple[float, Exception] | None = None
        # Who forgets an application leaves no open socket to the garbage collector.
        self._end = weakref.finalize(self, _disconnect, self._idle)
        self._end.atexit = False

    def exchange(self, packet: bytes, replies: int) -> list[Any]:
        """Send one packet, read so many replies. Error replies are returned, not raised.

        Raises NotConnected when nothing was sent, redis.ConnectionError or redis.TimeoutError
        when it is not known what was carried out; the connection is closed then.
        """
        return self.send(packet, replies).receive()

    def send(self, packet: bytes, replies: int) -> "Sent":
        """Send one packet and go on; the connection is taken until its replies are read."""
        connection = self._take()
        idle = self._idle  # a child that was forked meanwhile looks into another one
        try:
            if not connection.is_connected:
                self._connect(connection)
            connection.send_packed_command([packet], check_health=False)
        except BaseException:
            connection.disconnect()
            idle.append(connection)
            raise
        return Sent(self, connection, idle, replies)

    def close(self) -> None:
        """Close every connection that is not in use at this moment."""
        with suppress(IndexError):  # others take and put back meanwhile
            for _ in range(len(self._idle)):
                self._idle.pop().disconnect()

    def _take(self) -> AbstractConnection:
        """A connection with nothing unread in it."""
        deadline = 0.0
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                fresh = self._another()
                if fresh is not None:
                    return fresh
            else:
                if connection.is_connected and _unusable(connection):
                    connection.disconnect()
                return connection
            now = time.monotonic()
            deadline = deadline or now + self._wait
            if now > deadline:
                raise NotConnected(
                    f"all {self._limit} connections (redis.max_connections) are in use"
                )
            time.sleep(0.001)

    def _another(self) -> AbstractConnection | None:
        """A new connection, if there is a place for it. Without a lock, which an exception from
        outside could leave locked, and a fork too: each step is whole, in any order of threads."""
        places = self._places
        for number, known in list(places.items()):
            if known() is None:
                places.pop(number, None)
        if len(places) >= self._limit:
            return None
        connection, number = self._build(), next(self._numbers)
        places[number] = weakref.ref(connection)
        if number in list(places)[: self._limit]:
            return connection
        del places[number]  # somebody else was faster
        return None

    def _connect(self, connection: AbstractConnection) -> None:
        away = self._away
        if away is not None and time.monotonic() < away[0]:
            raise NotConnected(str(away[1]))
        try:
            connection.connect()
        except redis.RedisError as error:
            self._away = (time.monotonic() + PAUSE, error)
            raise NotConnected(str(error)) from error
        self._away = None


class Sent:
    """A packet whose replies were not read yet.

    One that is forgotten takes its connection along: its place becomes free, and what was not
    read is nobody's.
    """

    __slots__ = ("_connection", "_idle", "_lease", "_replies")

    def __init__(
        self,
        lease: Lease,
        connection: AbstractConnection,
        idle: deque[AbstractConnection],
        replies: int,
    ) -> None:
        self._lease = lease
        self._connection = connection
        self._idle = idle
        self._replies = replies

    def receive(self) -> list[Any]:
        """The replies; once."""
        answers: list[Any] = []
        connection = self._connection
        try:
            if self._lease._idle is not self._idle:
                raise redis.ConnectionError("sent before a fork: the replies are the parent's")
            for _ in range(self._replies):
                answers.append(_reply(connection))
        except BaseException as error:
            self.close()
            said = [answer for answer in answers if isinstance(answer, redis.ResponseError)]
            if said and isinstance(error, redis.ConnectionError):
                raise redis.ConnectionError(str(said[0])) from error  # why the server hung up
            raise
        self._idle.append(connection)
        return answers

    def close(self) -> None:
        """Nobody wants the replies."""
        self._connection.disconnect()
        self._idle.append(self._connection)

    @property
    def arrived(self) -> bool:
        """Whether something can be read at once."""
        return _unusable(self._connection)


def _disconnect(idle: deque[AbstractConnection]) -> None:
    for connection in idle:
        connection.disconnect()


def _reply(connection: AbstractConnection) -> Any:
    try:
        return connection.read_response(disable_decoding=True)
    except redis.ResponseError as error:
        return error


def _unusable(connection: AbstractConnection) -> bool:
    """Whether the peer closed it or unread bytes wait in it."""
    try:
        return connection.can_read(0)
    except redis.RedisError:
        return True


_leases: "weakref.WeakSet[Lease]" = weakref.WeakSet()


def _after_fork() -> None:
    """A child must not speak on its parent's sockets."""
    for lease in list(_leases):
        lease._end.detach()
        lease._reset()


os.register_at_fork(after_in_child=_after_fork)
