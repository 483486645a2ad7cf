"""A store that tells observers what is asked of another one, and what it takes."""

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

from ..interfaces import Store
from ..protocol.contract import PendingRead
from ..protocol.messages import Operation, Read, Reply
from .traffic import Traffic

log = logging.getLogger("pyramid_altsession")


class Observation(NamedTuple):
    """One operation on a store, when it is over.

    ``reply``: None where there is none: the operation failed with ``error``, or, without one, was
    a prefetch that nobody used. ``sent`` and ``received`` are bytes on the wire. Bytes and
    ``round_trips`` are 0 in memory. ``seconds``: what the request waited for it.
    """

    operation: Operation
    reply: Reply | None
    error: Exception | None
    round_trips: int
    sent: int
    received: int
    seconds: float


Observer = Callable[[Observation], None]


class ObservedStore:
    """The store contract, on another store. An error of an observer is logged and goes no
    further."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.observers: tuple[Observer, ...] = ()
        Traffic.measured = True

    def __repr__(self) -> str:
        return f"<ObservedStore {self.store!r}>"

    def execute(self, operation: Operation) -> Reply:
        return self.observe(operation, Traffic(), lambda: self.store.execute(operation))

    def send(self, operation: Read) -> "ObservedRead":
        used = Traffic()
        with used.counting():
            return ObservedRead(self, operation, used, self.store.send(operation))

    def close(self) -> None:
        self.store.close()

    def observe(self, operation: Operation, used: Traffic, ask: Callable[[], Reply]) -> Reply:
        """The reply, when every observer was told of it."""
        began = time.perf_counter()
        reply, failure = None, None
        try:
            with used.counting():
                reply = ask()
            return reply
        except Exception as error:
            failure = error
            raise
        finally:
            self.tell(operation, used, reply, failure, time.perf_counter() - began)

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
        return self._store.observe(operation, self._used, lambda: self._pending.result(operation))

    def cancel(self) -> None:
        self._pending.cancel()
        self._store.tell(self._operation, self._used)
