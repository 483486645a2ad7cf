"""What an operation sends and receives, counted where somebody observes it."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Traffic:
    """Packets and bytes of one operation, those of connecting included."""

    __slots__ = ("packets", "received", "sent")
    measured = False
    """Whether anybody wants to know: else connections do not count."""

    def __init__(self) -> None:
        self.packets = self.sent = self.received = 0

    @contextmanager
    def counting(self) -> Iterator[None]:
        """What connections send and receive meanwhile, in this context, belongs to it."""
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
