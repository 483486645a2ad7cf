"""What a request asked of its session, as an observer of its operations writes it down.

``request.trace`` is what the panel shows. A form's answer is a redirect, so its writes are over
before a page is shown: :func:`see_other` keeps the trace and names it in the address, and the
page that follows shows it as ``request.previous_trace``.
"""

import secrets
import weakref
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field

from pyramid.config import PHASE1_CONFIG, Configurator
from pyramid.events import NewRequest
from pyramid.httpexceptions import HTTPSeeOther
from pyramid.request import Request

from ..interfaces import ISessionAPI
from ..protocol.messages import (
    Describe,
    End,
    Inspect,
    Listing,
    Operation,
    Prune,
    Read,
    Revoke,
    Scan,
    Write,
)
from ..protocol.verbs import DataVerb
from ..stores.observed import Observation

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
    operation: Listing | Prune | Revoke | End | Describe | Inspect | Scan,
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
        case Inspect(ids):
            return ("inspect",), tuple(short(id) for id in ids)
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


def note(seen: Observation) -> None:
    """Write an operation into the trace of the request that asked for it."""
    request = current_request()
    if request is None:
        return
    step = Step.of(seen.operation)
    if seen.reply is not None:
        step.answer = seen.reply.state.name.lower()
    elif seen.error is not None:
        step.answer = type(seen.error).__name__
    step.round_trips, step.sent, step.received = seen.round_trips, seen.sent, seen.received
    step.microseconds = round(seen.seconds * 1_000_000)
    request.trace.steps.append(step)


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
    """Have the session's operations noted."""
    registry = config.registry
    # After the package's own action of this phase, as it was included before.
    config.action(
        "altsession-recorder",
        lambda: registry.getUtility(ISessionAPI).observe(note),
        order=PHASE1_CONFIG,
    )
    registry[KEPT] = deque(maxlen=100)
    config.add_subscriber(begin, NewRequest)
    config.add_request_method(trace, reify=True)
    config.add_request_method(previous_trace, reify=True)
