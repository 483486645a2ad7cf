"""Faults of the server, at the moment that a test names."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..errors import StoreUnavailable
from ..protocol.messages import Operation
from ..stores.trace import Step, Trace
from .steering import watched

KINDS = ("any", "read", "write", "users")
VERBS = (
    *("get", "all", "everything", "set", "remove", "pop", "setdefault", "increment"),
    *("compare_and_set", "append", "expect", "touch", "renew", "rotate", "login", "invalidate"),
    *("list", "prune", "revoke", "end", "describe", "inspect", "scan"),
)
"""The operations that can fail. ``flash`` is an ``append``, and ``modify`` a read and a
``compare_and_set``.
"""


class Fault:
    """A plan for some of the operations."""

    def __init__(self, what: str, after: int, times: int | None, early: bool) -> None:
        if what not in (*KINDS, *VERBS):
            raise ValueError(f"wanted one of {', '.join((*KINDS, *VERBS))}; got {what!r}")
        self.what = what
        self.after_so_many = after
        self.times = times
        self.early = early
        self.met = self.struck = 0
        self.strike: Callable[[], None] = lambda: None

    def before(self, operation: Operation) -> None:
        if self.early and self._strikes(operation):
            self.strike()

    def after(self, operation: Operation) -> None:
        if not self.early and self._strikes(operation):
            self.strike()

    def _strikes(self, operation: Operation) -> bool:
        step = Step.of(operation)
        kind = "write" if step.kind == "create" else step.kind
        if self.what not in ("any", kind, *step.verbs):
            return False
        self.met += 1
        if self.met <= self.after_so_many or self.struck == self.times:
            return False
        self.struck += 1
        return True


@contextmanager
def _planned(app: object, fault: Fault, strike: Callable[[], None]) -> Iterator[None]:
    """Apply the fault inside the block. AssertionError if no operation was affected, because such a
    test proves nothing.
    """
    trace = Trace()
    fault.strike = strike
    with watched(app, trace.note, fault):
        yield
    if not fault.struck:
        asked = str(trace) or "  nothing"
        raise AssertionError(
            f"the fault never happened: {fault.what!r} after {fault.after_so_many}; asked was:\n"
            f"{asked}"
        )


@contextmanager
def fail(
    app: object,
    what: str = "any",
    *,
    after: int = 0,
    times: int | None = None,
    error: type[StoreUnavailable] = StoreUnavailable,
) -> Iterator[None]:
    """``with fail(app, "read", after=2):`` inside, the third and every later read fails, and the
    server does not carry it out.

    ``what``: ``"any"``, ``"read"``, ``"write"``, ``"users"``, or a verb as the message of
    :func:`round_trips` has it, such as ``"renew"``. ``times``: fail only so often. ``error``: raise
    this error, such as StoreFull. AssertionError if no such operation took place.
    """

    def strike() -> None:
        raise error("a test's plan: the operation failed")

    with _planned(app, Fault(what, after, times, early=True), strike):
        yield


@contextmanager
def lose_reply(
    app: object, what: str = "any", *, after: int = 0, times: int | None = None
) -> Iterator[None]:
    """``with lose_reply(app, "write"):`` inside, the server carries out each write, and its reply
    is lost. The arguments are those of :func:`fail`.
    """

    def strike() -> None:
        raise StoreUnavailable("a test's plan: the reply was lost")

    with _planned(app, Fault(what, after, times, early=False), strike):
        yield


@contextmanager
def delay(
    app: object, what: str = "any", *, seconds: float, after: int = 0, times: int | None = None
) -> Iterator[None]:
    """``with delay(app, "read", seconds=2):`` inside, each read takes so many seconds longer, and
    nothing fails. The other arguments are those of :func:`fail`. ``redis.timeout`` does not apply
    here; to test an exceeded timeout, use :func:`fail`.
    """
    with _planned(app, Fault(what, after, times, early=True), lambda: time.sleep(seconds)):
        yield
