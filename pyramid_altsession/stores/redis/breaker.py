"""The circuit breaker: keeps calls from connecting to a server that is away."""

import time

import redis

PAUSE = 0.25
"""Seconds after a failure to connect in which nobody tries it again."""

MAX_TIMEOUTS = 2
"""Time-outs in a row, without an answer in between, after which a server counts as away: one call
in each PAUSE finds out whether it answers again, the others fail at once."""

TURNED_AWAY = "max number of clients reached"
"""What a server says to a new connection that is one too many, before it reads anything of it."""


class Breaker:
    """While it is open, one call in each PAUSE may try to connect, and the others may not. It says
    nothing about connections that are open already.

    It works without a lock, as the pool does. What it needs of several facts at once is one tuple,
    which is replaced as a whole.
    """

    __slots__ = ("_open", "timeouts")

    def __init__(self) -> None:
        self._open: tuple[float, str] | None = None  # until when, and why
        self.timeouts = 0
        """Time-outs since the last answer."""

    def may_connect(self) -> bool:
        """Whether this call may try to connect. If so, while the breaker is open, no other call may
        for the next PAUSE.
        """
        opened = self._open
        if opened is None:
            return True
        until, reason = opened
        if time.monotonic() < until:
            return False
        self._open_because(reason)
        return True

    def connect_failed(self, reason: str) -> None:
        self._open_because(reason)

    def connected(self) -> None:
        """A connection was opened. After time-outs this proves nothing: the system takes the
        connections of a process that hangs.
        """
        if not self.unresponsive:
            self._open = None

    def timed_out(self, reason: str) -> None:
        """No answer came on an open connection."""
        self.timeouts += 1
        if self.unresponsive:
            self._open_because(reason)

    def answered(self) -> None:
        """An answer came. It ends what time-outs began; whether another connection can be made, it
        does not tell.
        """
        if self.unresponsive:
            self._open = None
        self.timeouts = 0

    @property
    def unresponsive(self) -> bool:
        """Whether the server has not answered several times in a row."""
        return self.timeouts >= MAX_TIMEOUTS

    @property
    def is_open(self) -> bool:
        """Whether no call may connect at this moment."""
        opened = self._open
        return opened is not None and time.monotonic() < opened[0]

    @property
    def reason(self) -> str:
        """What failed last; empty once that is over."""
        opened = self._open
        return "" if opened is None else opened[1]

    def _open_because(self, reason: str) -> None:
        self._open = time.monotonic() + PAUSE, reason


def turned_away(error: BaseException) -> bool:
    """Whether the server refused the connection itself. Then it did nothing of what was sent, and
    the connection counts as not opened.
    """
    return isinstance(error, redis.ConnectionError) and TURNED_AWAY in str(error)
