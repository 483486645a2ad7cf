"""A store around another one, which reports each operation, with its cost, to observers."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from ..interfaces import Store
from ..protocol.contract import PendingRead
from ..protocol.messages import Operation, Read, Reply
from .traffic import Traffic

log = logging.getLogger("pyramid_altsession")


class Observation(NamedTuple):
    """One operation on a store, when it is over.

    ``reply``: None if the operation failed with ``error``. If ``error`` is None too, the operation
    was a prefetch that was not used, or an awaited call that was cancelled. ``sent`` and
    ``received`` are bytes on the wire. Bytes and ``round_trips`` are 0 in memory. ``seconds``: how
    long the request waited for it.
    """

    operation: Operation
    reply: Reply | None
    error: Exception | None
    round_trips: int
    sent: int
    received: int
    seconds: float


Observer = Callable[[Observation], None]


class Watched:
    """An operation under way. ``reply``: set when it is over."""

    __slots__ = ("reply",)

    def __init__(self) -> None:
        self.reply: Reply | None = None


class Observing:
    """Reports operations to observers, for plain and awaitable stores. An error of an observer is
    only logged.
    """

    observers: tuple[Observer, ...] = ()

    def observe(self, observer: Observer) -> None:
        """Report to this observer as well. The same function given again is called once."""
        known = self.observers  # once: another thread may be adding the same one
        if observer not in known:
            self.observers = (*known, observer)

    @contextmanager
    def watching(self, operation: Operation, used: Traffic) -> Iterator[Watched]:
        """The block carries out the operation. At its end every observer is called."""
        began = time.perf_counter()
        watched, failure = Watched(), None
        try:
            with used.counting():
                yield watched
        except Exception as error:
            failure = error
            raise
        finally:
            self.tell(operation, used, watched.reply, failure, time.perf_counter() - began)

    def tell(
        self,
        operation: Operation,
        used: Traffic,
        reply: Reply | None = None,
        error: Exception | None = None,
        seconds: float = 0.0,
    ) -> None:
        packets, sent, received = used.packets, used.sent, used.received
        seen = Observation(operation, reply, error, packets, sent, received, seconds)
        for observer in self.observers:
            try:
                observer(seen)
            except Exception:
                log.exception("sessions: an observer failed")


class ObservedStore(Observing):
    """The store contract, on another store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        Traffic.measured = True

    def __repr__(self) -> str:
        return f"<ObservedStore {self.store!r}>"

    def execute(self, operation: Operation) -> Reply:
        with self.watching(operation, Traffic()) as watched:
            watched.reply = reply = self.store.execute(operation)
        return reply

    def send(self, operation: Read) -> "ObservedRead":
        used = Traffic()
        with used.counting():
            return ObservedRead(self, operation, used, self.store.send(operation))

    def close(self) -> None:
        self.store.close()


class ObservedRead:
    """A read under way on the other store."""

    def __init__(
        self, store: ObservedStore, operation: Read, used: Traffic, pending: PendingRead
    ) -> None:
        self._store = store
        self._operation = operation
        self._used = used
        self._pending = pending

    def result(self, operation: Read) -> Reply:
        with self._store.watching(operation, self._used) as watched:
            watched.reply = reply = self._pending.result(operation)
        return reply

    def cancel(self) -> None:
        self._pending.cancel()
        self._store.tell(self._operation, self._used)
