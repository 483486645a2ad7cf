"""Connections, leased one packet at a time.

redis-py builds and opens connections (TLS, AUTH, unix sockets); this module hands them out itself,
because a pool that takes back a connection with an unread reply hands one visitor's data to
another. The rule: a connection whose replies were not all read is closed before anybody can get it
again, and a process never speaks on one that another process opened.
"""

import itertools
import math
import os
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple

import redis
from redis.connection import AbstractConnection

from ..traffic import Traffic, received, sent
from .breaker import Breaker, turned_away
from .failures import PLAIN, NotConnected, check_reply, no_answer

SMALL = 16384
"""Bytes that the system takes from an idle connection at once, without waiting."""

NOTHING = object()
"""What the reader returns while no whole reply has come. (Its default, False, is equal to the reply
0.)
"""

FORKED = "sent before a fork: the replies are the parent's"


class PoolUsage(NamedTuple):
    """The connections of this process to one server. ``in_use``: those that calls hold now, of at
    most ``limit``. ``away``: whether calls that have to connect fail at once now, because the last
    attempts failed."""

    server: str
    in_use: int
    limit: int
    away: bool


class Connection(AbstractConnection):
    """A connection of redis-py that sends whole packets and reads whole replies, with one deadline,
    ``end``, for all that a call does with it. redis-py has a timeout for each part of a reply.
    """

    end = math.inf  # in the seconds of time.monotonic()
    granted = (math.nan, math.nan)
    """The end of the call that opened it, and until when that call may use it instead: the call had
    to wait for the connection, and may have more than one packet to send."""
    pid: int
    """The process that made it, from redis-py: the socket is never another one's."""
    _poll: Callable[[int], list[tuple[int, int]]]
    _pending: Callable[[], int] | None
    _reader: Any
    _sock: Any
    _told: float  # the time-out that the socket has now
    _socket_timeout: float
    _socket_connect_timeout: float

    @property
    def connect_timeout(self) -> float:
        """Seconds that connecting may take, from the settings."""
        return self._socket_connect_timeout

    def send(self, packet: bytes) -> None:
        """Send the whole packet."""
        if len(packet) > SMALL:  # smaller packets never wait
            self._bound()
        try:
            self._sock.sendall(packet)
        except OSError as error:
            self.read_response()  # raises the server's last error reply, if any
            raise self._translated(error) from error
        if Traffic.measured:
            sent(len(packet))

    def receive(self, count: int) -> list[Any]:
        """The replies to what was just sent; an error reply is one of them."""
        replies: list[Any] = []
        gets, missing = self._reader.gets, count
        try:
            while missing > 0:
                self._read()
                replies += islice(iter(gets, NOTHING), missing)  # replies that have come
                missing = count - len(replies)
        except redis.ConnectionError as error:
            said = [reply for reply in replies if isinstance(reply, redis.RedisError)]
            if said:
                raise redis.ConnectionError(str(said[0])) from error  # why the server hung up
            raise
        for reply in replies:
            if reply.__class__ not in PLAIN:
                check_reply(reply)
        return replies

    def read_response(self, disable_decoding: bool = False, **options: Any) -> Any:
        """Also called by redis-py: the next reply; an error reply is raised."""
        while (reply := self._reader.gets()) is NOTHING:
            self._read()
        if isinstance(reply, redis.RedisError):
            raise reply
        return reply

    def _read(self) -> None:
        if self.end == -math.inf:
            raise no_answer(self._socket_timeout)
        if self._bound() <= 0:
            self.end = -math.inf  # one last look: perhaps this process was slow, not the server
        try:
            data = self._sock.recv(65536)
        except OSError as error:
            raise self._translated(error) from error
        if not data:
            raise redis.ConnectionError("the server closed the connection")
        if Traffic.measured:
            received(len(data))
        self._reader.feed(data)

    def _bound(self) -> float:
        """Set the socket's timeout to the time that is left, to 10 ms; most often the call before
        has already set the same. Returns the seconds that are left.
        """
        remaining = self.end - time.monotonic()
        if not -0.01 < remaining - self._told < 0.01:
            self._sock.settimeout(self.socket_timeout)
            self._told = self._sock.gettimeout()
        return remaining

    def can_read(self, timeout: float = 0) -> bool:
        """Whether something can be read, or the server has closed the connection. Does not wait."""
        if self._reader.has_data() or self._poll(0):
            return True
        return self._pending is not None and self._pending() > 0

    def _translated(self, error: OSError) -> redis.RedisError:
        """The error of redis-py that stands for this error of a socket."""
        if isinstance(error, TimeoutError):
            return no_answer(self._socket_timeout)
        return redis.ConnectionError(f"the connection broke: {error}")


class ConnectionPool:
    """At most ``limit`` connections of one process; the last one used is the first one taken.

    A call has ``wait`` seconds for everything, from waiting for a connection to the last reply. A
    call that has to connect has the connection's ``connect_timeout``, if that is longer.
    """

    def __init__(self, build: Callable[[], Connection], *, limit: int, wait: float) -> None:
        self._build = build
        self._limit = limit
        self._wait = wait
        self._reset()

    def _reset(self) -> None:
        # Unconnected ones lie below connected ones, so a connected one is taken first.
        self._idle: deque[Connection] = deque()
        # By number, in the order in which they were made. The references are weak, so that a
        # connection that was lost through an exception frees its place by itself.
        self._places: dict[int, weakref.ref[Connection]] = {}
        self._numbers = itertools.count()
        self._breaker = Breaker()
        self._pid = os.getpid()
        # An application that is dropped leaves no open socket to the garbage collector.
        weakref.finalize(self, _disconnect, self._idle).atexit = False

    def until(self) -> float:
        """When a call that begins now has to be over."""
        return time.monotonic() + self._wait

    def exchange(self, packet: bytes, replies: int, end: float | None = None) -> list[Any]:
        """Send one packet and read ``replies`` replies. Error replies are returned, not raised.

        ``end``: of the call, where it has begun before. Raises NotConnected when nothing was sent,
        redis.ConnectionError or redis.TimeoutError when it is not known what was carried out; the
        connection is closed then.
        """
        end = self.until() if end is None else end
        while True:
            connection = self._take(end)
            idle = self._idle
            try:
                connection.send(packet)
                answers = connection.receive(replies)
                if os.getpid() != connection.pid:
                    raise redis.ConnectionError(FORKED)
            except BaseException as error:
                if not self._broken(connection, idle, error) or time.monotonic() > end:
                    raise
                continue  # nothing was carried out, and an older connection may come free
            idle.append(connection)
            if self._breaker.timeouts:
                self._breaker.answered()
            return answers

    def send(self, packet: bytes, replies: int, end: float | None = None) -> "PendingReplies":
        """Send one packet and go on; the connection is taken until its replies are read."""
        connection = self._take(self.until() if end is None else end)
        idle = self._idle
        try:
            connection.send(packet)
        except BaseException as error:
            self._broken(connection, idle, error)
            raise
        return PendingReplies(self, connection, idle, replies)

    def dedicated_connection(self) -> Connection:
        """A new connection that does not count and that no other call gets. The caller has to close
        it. Raises redis.RedisError.
        """
        connection = self._build()
        connection.end = time.monotonic() + connection.connect_timeout
        connection.connect()
        return connection

    def _broken(
        self, connection: Connection, idle: deque[Connection], error: BaseException
    ) -> bool:
        """Close the connection, so that no other call gets its replies. Returns whether the server
        refused the connection itself.
        """
        refused = turned_away(error)
        if refused:
            self._breaker.connect_failed(str(error))
        connection.disconnect()
        if isinstance(error, redis.TimeoutError):
            self.close()  # the same server: each would cost another call a time-out
            self._breaker.timed_out(str(error))
        if connection.pid == os.getpid():  # otherwise it has no place here
            idle.appendleft(connection)
        return refused

    def usage(self, server: str) -> "PoolUsage":
        """The state of the pool now. No round trip."""
        mine = self._pid == os.getpid()  # after a fork they are the parent's
        known = [place() for place in list(self._places.values())] if mine else []
        in_use = max(sum(each is not None for each in known) - len(self._idle), 0)
        return PoolUsage(server, in_use, self._limit, self._breaker.is_open)

    def close(self) -> None:
        """Close every connection that is not in use at this moment."""
        with suppress(IndexError):  # other threads take and put back meanwhile
            for _ in range(len(self._idle)):
                self._idle.pop().disconnect()

    def _take(self, end: float = math.inf) -> Connection:
        """A connection with nothing unread in it. ``end``: of the call."""
        if self._pid != os.getpid():  # notices every fork, also one that runs no hooks
            self._reset()
        connection: Connection | None
        while True:
            try:
                # If there is something to read, the server closed the connection, or a reply is
                # left over that nobody waits for. Connecting may fail, so other open connections
                # come first.
                while (connection := self._idle.pop())._sock is not None and connection.can_read():
                    connection.disconnect()
                    self._idle.appendleft(connection)
            except IndexError:
                connection = self._another()
            if connection is not None:
                if connection._sock is not None:
                    opener, until = connection.granted
                    connection.end = until if opener == end else end
                    return connection
                if self._connect(connection, end):
                    return connection
            if time.monotonic() > end:
                raise NotConnected(self._reason())
            time.sleep(0.001)

    def _another(self) -> Connection | None:
        """A new connection, if there is a place for it. It works without a lock, because an
        exception from outside, or a fork, could leave a lock locked. Each step is atomic, in any
        order of threads.
        """
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
        del places[number]  # another thread was faster
        return None

    def _connect(self, connection: Connection, end: float) -> bool:
        """Connect it; returns whether it is connected now. If not, it is put back, and a connected
        one may come free; NotConnected if there is none.
        """
        idle, breaker, cause = self._idle, self._breaker, None
        try:
            if breaker.may_connect():
                self._open(connection, end)
                breaker.connected()
                return True
        except redis.RedisError as error:
            cause = error
            breaker.connect_failed(str(error))
        except BaseException:
            connection.disconnect()
            idle.appendleft(connection)
            raise
        idle.appendleft(connection)
        if not breaker.unresponsive and self._any_connected():
            return False
        raise NotConnected(self._reason()) from cause

    def _open(self, connection: Connection, end: float) -> None:
        allowed = connection.connect_timeout
        last = max(end, end - self._wait + allowed)
        connection.end = min(last, time.monotonic() + allowed)
        connection.connect()
        connection.end = max(last, connection.end)
        connection.granted = end, connection.end

    def _any_connected(self) -> bool:
        known = [place() for place in list(self._places.values())]
        return any(each is not None and each.is_connected for each in known)

    def _reason(self) -> str:
        """Why the call cannot get a connection, for the error's message."""
        reason = self._breaker.reason
        if reason and self._idle:  # unconnected ones
            return reason
        return f"all {self._limit} connections (redis.max_connections) are in use"


class PendingReplies:
    """A packet whose replies have not been read yet.

    If it is garbage-collected, its connection goes with it: the place becomes free, and no other
    call gets the unread replies.
    """

    __slots__ = ("_connection", "_idle", "_pool", "_replies")

    def __init__(
        self,
        pool: ConnectionPool,
        connection: Connection,
        idle: deque[Connection],
        replies: int,
    ) -> None:
        self._pool = pool
        self._connection = connection
        self._idle = idle
        self._replies = replies

    def receive(self, end: float | None = None) -> list[Any]:
        """The replies; call it once only. ``end``: of the call that asks for them now."""
        connection = self._connection
        try:
            self._check_process()
            if end is not None:
                connection.end = end
            answers = connection.receive(self._replies)
            self._check_process()
        except BaseException as error:
            self._pool._broken(connection, self._idle, error)
            raise
        self._idle.append(connection)
        self._pool._breaker.answered()
        return answers

    def _check_process(self) -> None:
        if os.getpid() != self._connection.pid:
            raise redis.ConnectionError(FORKED)

    def close(self) -> None:
        """The replies are not wanted any more."""
        self._connection.disconnect()
        if self._connection.pid == os.getpid():
            self._idle.appendleft(self._connection)

    @property
    def arrived(self) -> bool:
        """Whether something can be read at once."""
        return self._connection.can_read()


def _disconnect(idle: deque[Connection]) -> None:
    for connection in idle:
        connection.disconnect()
