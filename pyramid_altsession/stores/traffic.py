"""Counts what an operation sends and receives, if it is observed."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Traffic:
    """Packets and bytes of one operation, including those for connecting."""

    __slots__ = ("packets", "received", "sent")
    measured = False
    """Whether there are observers; otherwise connections do not count."""

    def __init__(self) -> None:
        self.packets = self.sent = self.received = 0

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count what connections send and receive inside the block, in this context."""
        before = _current.set(self)
        try:
            yield
        finally:
            _current.reset(before)


_current: ContextVar[Traffic | None] = ContextVar("pyramid_altsession.traffic", default=None)


def sent(size: int) -> None:
    """A packet of this size went out."""
    traffic = _current.get()
    if traffic is not None:
        traffic.packets += 1
        traffic.sent += size


def received(size: int) -> None:
    """This number of bytes came in."""
    traffic = _current.get()
    if traffic is not None:
        traffic.received += size
