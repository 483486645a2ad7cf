"""Opens connections of redis-py within the time that a call has left."""

import math
import select
import time
from collections.abc import Callable, Iterable
from typing import Any

import hiredis
import redis
from redis.connection import DefaultParser

from .failures import no_connection
from .pool import NOTHING, Connection


def left(end: float) -> float:
    """Seconds until ``end``; never 0, which a socket would take for "do not wait"."""
    return max(end - time.monotonic(), 0.001)


class Timed(Connection):
    """A connection of redis-py that is opened within the time that is left until ``end``.

    redis-py applies its timeout to each step by itself, such as to each address that it tries. Mix
    this class in before redis-py's. It cannot bound the resolver of host names.
    """

    host: str
    port: int
    locate: Callable[[float], tuple[str, int]] | None = None
    """Returns the address for each new connection, by the given end; None: always the same address.
    """
    greet: "Callable[[Timed], None] | None" = None
    """Checks the server before the connection is used."""

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

    def send_packed_command(self, command: Iterable[bytes], check_health: bool = True) -> None:
        """Called by redis-py for the handshake."""
        for packet in command:
            self.send(packet)
