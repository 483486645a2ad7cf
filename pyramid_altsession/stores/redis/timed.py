"""A connection of redis-py with one deadline for all that a call does with it."""

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
from .failures import no_answer, no_connection

SMALL = 16384
"""Bytes that the system takes from an idle connection at once, without waiting."""

PLAIN = {bytes, int, list, type(None)}
"""Types of replies; any other is an error, or makes no sense."""

NOTHING = object()
"""What the reader returns while no whole reply has come. (Its default, False, is equal to the reply
0.)
"""


def left(end: float) -> float:
    """Seconds until ``end``; never 0, which a socket would take for "do not wait"."""
    return max(end - time.monotonic(), 0.001)


def check_reply(reply: object) -> None:
    """Raise an error reply that is about the connection, and InvalidResponse for what no server
    sends to this package, such as the types of RESP3. Errors about a command may stay.
    """
    if not isinstance(reply, redis.RedisError):
        raise redis.exceptions.InvalidResponse(
            f"a reply of an unknown type: {type(reply).__name__}"
        )
    if not isinstance(reply, redis.ResponseError):
        raise reply


class Timed(AbstractConnection):
    """A connection of redis-py with one deadline, ``end``, for all that it does.

    redis-py applies its timeout to each step by itself: to each address that it tries, and to each
    part of a reply. Mix this class in before redis-py's. It cannot bound the resolver of host
    names.
    """

    end = math.inf  # in the seconds of time.monotonic()
    granted = (math.nan, math.nan)
    """The end of the call that opened it, and until when that call may use it instead: the call had
    to wait for the connection, and may have more than one packet to send."""
    host: str
    port: int
    pid: int
    """The process that made it, from redis-py: the socket is never another one's."""
    locate: Callable[[float], tuple[str, int]] | None = None
    """Returns the address for each new connection, by the given end; None: always the same address.
    """
    greet: "Callable[[Timed], None] | None" = None
    """Checks the server before the connection is used."""
    _poll: Callable[[int], list[tuple[int, int]]]
    _pending: Callable[[], int] | None
    _reader: Any
    _sock: Any
    _socket_timeout: float
    _socket_connect_timeout: float

    @property
    def connect_timeout(self) -> float:
        """Seconds that connecting may take, from the settings."""
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

    def connect(self) -> None:
        try:
            super().connect()  # type: ignore[no-untyped-call]
        except redis.TimeoutError as error:
            raise no_connection(self.connect_timeout) from error

    def _connect(self) -> Any:
        if self.locate is not None:
            self.host, self.port = self.locate(self.end)
        sock = super()._connect()  # type: ignore[no-untyped-call, safe-super]
        self._told = math.nan  # redis-py has set another one, earlier
        self._reader = hiredis.Reader(
            protocolError=redis.exceptions.InvalidResponse,
            replyError=DefaultParser.parse_error,
            notEnoughData=NOTHING,
        )
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        self._poll = poll.poll
        self._pending = getattr(sock, "pending", None)  # bytes that TLS has already decrypted
        return sock

    def on_connect_check_health(self, check_health: bool = True) -> None:
        super().on_connect_check_health(check_health)
        if self.greet is not None:
            self.greet(self)

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

    def send_packed_command(self, command: Iterable[bytes], check_health: bool = True) -> None:
        """Called by redis-py for the handshake."""
        for packet in command:
            self.send(packet)

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
            self._told = self.socket_timeout
            self._sock.settimeout(self._told)
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
