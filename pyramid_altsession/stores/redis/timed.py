"""One connection of redis-py's, whatever it does bounded by one moment."""

import math
import select
import time
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import hiredis
import redis
from redis.connection import AbstractConnection, DefaultParser

from ..traffic import Traffic, received, sent

SMALL = 16384
"""Bytes that the system takes from an idle connection at once, without waiting."""

PLAIN = {bytes, int, list, type(None)}
"""Types of replies; any other is an error."""

NOTHING = object()
"""What the reader gives where no whole reply has come yet. Equal to no reply, as False is to 0."""


def left(end: float) -> float:
    """Seconds until then; never none, as a socket would take that for "do not wait"."""
    return max(end - time.monotonic(), 0.001)


class Timed(AbstractConnection):
    """A connection of redis-py's, but whatever it does is over at one moment, ``end``.

    redis-py bounds each step by a timeout of its own: each address that it tries, each part of a
    reply. Mix this in before its class. It cannot bound the resolver of host names.
    """

    end = math.inf  # in the seconds of time.monotonic()
    granted = -math.inf
    """Until then whoever uses it has time, as the call that opened it had to wait for that: it may
    have more to say than one packet."""
    host: str
    port: int
    locate: Callable[[float], tuple[str, int]] | None = None
    """Says whenever it connects to whom, by this end; else it is always the same server."""
    greet: "Callable[[Timed], None] | None" = None
    """Looks at the server before anybody gets the connection."""
    _poll: Callable[[int], list[tuple[int, int]]]
    _pending: Callable[[], int] | None
    _reader: Any
    _sock: Any
    _socket_timeout: float
    _socket_connect_timeout: float

    @property
    def connect_timeout(self) -> float:
        """Seconds that connecting may take, as it is configured."""
        return self._socket_connect_timeout

    @property
    def socket_connect_timeout(self) -> float:
        return min(self._socket_connect_timeout, left(self.end))

    @socket_connect_timeout.setter
    def socket_connect_timeout(self, value: float) -> None:
        self._socket_connect_timeout = value

    @property
    def socket_timeout(self) -> float:
        return self._socket_timeout if self.end == math.inf else left(self.end)

    @socket_timeout.setter
    def socket_timeout(self, value: float) -> None:
        self._socket_timeout = value

    def _connect(self) -> Any:
        if self.locate is not None:
            self.host, self.port = self.locate(self.end)
        sock = super()._connect()  # type: ignore[no-untyped-call, safe-super]
        self._told = 0.0
        self._reader = hiredis.Reader(
            protocolError=redis.exceptions.InvalidResponse,
            replyError=DefaultParser.parse_error,
            notEnoughData=NOTHING,
        )
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        self._poll = poll.poll
        self._pending = getattr(sock, "pending", None)  # bytes that TLS has decrypted already
        return sock

    def on_connect_check_health(self, check_health: bool = True) -> None:
        super().on_connect_check_health(check_health)
        if self.greet is not None:
            self.greet(self)

    def send(self, packet: bytes) -> None:
        """Send it whole."""
        if len(packet) > SMALL:  # less than that never waits
            self._bound()
        try:
            self._sock.sendall(packet)
        except OSError as error:
            self.read_response()  # raises what the server said before it hung up, if it did
            raise _translated(error) from error
        if Traffic.measured:
            sent(len(packet))

    def receive(self, count: int) -> list[Any]:
        """The replies to what was just sent; an error reply is one of them."""
        replies: list[Any] = []
        gets, missing = self._reader.gets, count
        try:
            while missing > 0:
                self._read()
                replies += islice(iter(gets, NOTHING), missing)  # what has come of them
                missing = count - len(replies)
            for reply in replies:
                if reply.__class__ not in PLAIN and not isinstance(reply, redis.ResponseError):
                    raise reply  # about the connection
        except redis.ConnectionError as error:
            said = [reply for reply in replies if isinstance(reply, redis.ResponseError)]
            if said:
                raise redis.ConnectionError(str(said[0])) from error  # why the server hung up
            raise
        return replies

    def send_packed_command(self, command: Iterable[bytes], check_health: bool = True) -> None:
        """For redis-py, which says hello with it."""
        for packet in command:
            self.send(packet)

    def read_response(self, disable_decoding: bool = False, **options: Any) -> Any:
        """For redis-py too: the next reply; an error reply is raised."""
        while (reply := self._reader.gets()) is NOTHING:
            self._read()
        if isinstance(reply, redis.RedisError):
            raise reply
        return reply

    def _read(self) -> None:
        if self.end == -math.inf:
            raise redis.TimeoutError("the replies did not come in time")
        if self._bound() <= 0:
            self.end = -math.inf  # one last look: this process may have been held up, not they
        try:
            data = self._sock.recv(65536)
        except OSError as error:
            raise _translated(error) from error
        if not data:
            raise redis.ConnectionError("the server closed the connection")
        if Traffic.measured:
            received(len(data))
        self._reader.feed(data)

    def _bound(self) -> float:
        """Have the socket give up when the time is over, to 10 ms: most often, as it has been told
        to by the call before. Returns the seconds that are left."""
        remaining = self.end - time.monotonic()
        if not -0.01 < remaining - self._told < 0.01:
            self._told = self.socket_timeout
            self._sock.settimeout(self._told)
        return remaining

    def can_read(self, timeout: float = 0) -> bool:
        """Whether something unread waits in it, or its end: without waiting."""
        if self._reader.has_data() or self._poll(0):
            return True
        return self._pending is not None and self._pending() > 0


def _translated(error: OSError) -> redis.RedisError:
    """redis-py's error for one of a socket's."""
    if isinstance(error, TimeoutError):
        return redis.TimeoutError("no answer in time")
    return redis.ConnectionError(f"the connection broke: {error}")
