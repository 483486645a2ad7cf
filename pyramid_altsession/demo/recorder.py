"""What a request asked of its session: the store's contract, wrapped to be written down.

``request.trace`` is what the panel shows. A form's answer is a redirect, so its writes are over
before a page is shown: :func:`see_other` keeps the trace and names it in the address, and the
page that follows shows it as ``request.previous_trace``.
"""

import secrets
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from pyramid.config import PHASE1_CONFIG, Configurator
from pyramid.events import NewRequest
from pyramid.httpexceptions import HTTPSeeOther
from pyramid.request import Request

from ..api import SessionAPI
from ..interfaces import ISessionAPI, Store
from ..protocol.contract import PendingRead
from ..protocol.messages import (
    Describe,
    End,
    Listing,
    Operation,
    Prune,
    Read,
    Reply,
    Revoke,
    Scan,
    Write,
)
from ..protocol.verbs import DataVerb
from ..stores import open_store

KEPT = "pyramid_altsession.demo.traces"
"""registry: traces of requests that were answered with a redirect, newest last."""

_request: ContextVar[Callable[[], Request | None]] = ContextVar(
    "pyramid_altsession.demo", default=lambda: None
)
"""The request that is served here: each greenlet, as each thread, has one of its own."""


def current_request() -> Request | None:
    return _request.get()()


def begin(event: NewRequest) -> None:
    _request.set(weakref.ref(event.request))


@dataclass
class Step:
    """One operation. Bytes and round trips are those of the connection: none in memory."""

    kind: str
    verbs: tuple[str, ...]
    keys: tuple[str, ...]
    answer: str = ""
    round_trips: int = 0
    sent: int = 0
    received: int = 0
    microseconds: int = 0

    @classmethod
    def of(cls, operation: Operation) -> "Step":
        if isinstance(operation, Read):
            fields = operation.fields
            return cls("read", ("all" if fields is None else "get",), fields or ())
        if not isinstance(operation, Write):
            return cls("users", *of_users(operation))
        parts = [*operation.verbs, operation.life]
        verbs = tuple(part.wire()[0].decode() for part in parts if part is not None)
        if operation.anybody:
            return cls("users", verbs, (short(operation.claim.id),))
        keys = tuple(verb.name for verb in operation.verbs if isinstance(verb, DataVerb))
        return cls("create" if operation.create else "write", verbs, keys)


def of_users(
    operation: Listing | Prune | Revoke | End | Describe | Scan,
) -> tuple[tuple[str], tuple[str, ...]]:
    """Verb and keys of what is asked about many sessions."""
    match operation:
        case Listing(user):
            return ("list",), (user,)
        case Prune(user):
            return ("prune",), (user,)
        case Revoke(user):
            return ("revoke",), (user,)
        case End(_, ids):
            return ("end",), tuple(short(id) for id in ids)
        case Describe(ids):
            return ("describe",), tuple(short(id) for id in ids)
        case _:
            return ("scan",), ()


def short(id: str) -> str:
    """A session's handle, to tell it from others in a narrow table."""
    return f"{id[:8]}…"


@dataclass
class Trace:
    """The steps of one request, in order."""

    method: str
    path: str
    id: str = field(default_factory=lambda: secrets.token_urlsafe(6))
    steps: list[Step] = field(default_factory=list)

    @property
    def round_trips(self) -> int:
        return sum(step.round_trips for step in self.steps)


class Recorder:
    """A store that writes into the current request's trace what is asked of another store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __repr__(self) -> str:
        return f"<Recorder of {self._store!r}>"

    def execute(self, operation: Operation) -> Reply:
        return noted(operation, lambda: self._store.execute(operation))

    def send(self, operation: Read) -> "SentStep":
        step = begun(operation)
        return SentStep(step, self._store.send(operation))

    def close(self) -> None:
        self._store.close()


def begun(operation: Operation) -> Step:
    """A step of the current request, or of none."""
    step = Step.of(operation)
    request = current_request()
    if request is not None:
        request.trace.steps.append(step)
    return step


def noted(operation: Operation, ask: Callable[[], Reply], step: Step | None = None) -> Reply:
    """What the store answers, written down with the time that it took."""
    step = begun(operation) if step is None else step
    began = time.perf_counter_ns()
    try:
        reply = ask()
    except Exception as error:
        step.answer = type(error).__name__
        raise
    finally:
        step.microseconds = (time.perf_counter_ns() - began) // 1000
    step.answer = reply.state.name.lower()
    return reply


class SentStep:
    """A read under way: its time is that of waiting for it."""

    def __init__(self, step: Step, sending: PendingRead) -> None:
        self._step = step
        self._sending = sending

    def result(self, operation: Read) -> Reply:
        return noted(operation, lambda: self._sending.result(operation), self._step)

    def cancel(self) -> None:
        self._sending.cancel()


class MeteredLease:
    """A store's connections, counted: each exchange is one packet out and its replies back."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def until(self) -> float:
        return float(self._pool.until())

    def exchange(self, packet: bytes, replies: int, end: float | None = None) -> list[Any]:
        answers: list[Any] = self.send(packet, replies, end).receive()
        return answers

    def send(self, packet: bytes, replies: int, end: float | None = None) -> Any:
        sent = self._pool.send(packet, replies, end)
        request = current_request()
        if request is None:
            return sent
        step = request.trace.steps[-1]
        step.round_trips += 1
        step.sent += len(packet)
        return MeteredSent(step, sent)

    def close(self) -> None:
        self._pool.close()


class MeteredSent:
    """A packet whose replies are counted when they are read."""

    def __init__(self, step: Step, sent: Any) -> None:
        self._step = step
        self._sent = sent

    def receive(self, end: float | None = None) -> list[Any]:
        answers: list[Any] = self._sent.receive(end)
        self._step.received += sum(map(wire_size, answers))
        return answers

    def close(self) -> None:
        self._sent.close()

    @property
    def arrived(self) -> bool:
        return bool(self._sent.arrived)


def wire_size(reply: Any) -> int:
    """Bytes of a reply as the server sent it (RESP2)."""
    if reply is None:
        return len("$-1\r\n")
    if isinstance(reply, bytes):
        return len(f"${len(reply)}\r\n\r\n") + len(reply)
    if isinstance(reply, list):
        return len(f"*{len(reply)}\r\n") + sum(map(wire_size, reply))
    return len(f":{reply}\r\n")  # a number, or an error's line


def recording(store: Store) -> Recorder:
    """The store, with its operations and its connections recorded."""
    connected: Any = store
    if hasattr(connected, "_pool"):
        connected._pool = MeteredLease(connected._pool)
    return Recorder(store)


def trace(request: Request) -> Trace:
    """What this request has asked of its session until now."""
    return Trace(request.method, request.path)


def previous_trace(request: Request) -> Trace | None:
    """What the form asked whose answer sent the visitor here."""
    wanted = request.GET.get("after")
    kept: deque[Trace] = request.registry[KEPT]
    return next((found for found in list(kept) if found.id == wanted), None)


def see_other(request: Request, path: str) -> HTTPSeeOther:
    """The answer to a form: go to ``path``, which shows this request's trace beside its own."""
    request.registry[KEPT].append(request.trace)
    return HTTPSeeOther(f"{path}?after={request.trace.id}")


def includeme(config: Configurator) -> None:
    """Put a recorded store in the place of the one that ``pyramid_altsession`` opened."""
    registry = config.registry

    def register() -> None:
        settings = registry.getUtility(ISessionAPI).settings
        store = recording(open_store(settings))
        registry.registerUtility(
            SessionAPI(settings, store=store, notify=registry.notify), ISessionAPI
        )

    # In the phase of the package's own action, and after it, as it was included before.
    config.action("altsession-recorder", register, order=PHASE1_CONFIG)
    registry[KEPT] = deque(maxlen=100)
    config.add_subscriber(begin, NewRequest)
    config.add_request_method(trace, reify=True)
    config.add_request_method(previous_trace, reify=True)
