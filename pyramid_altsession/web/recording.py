"""Records what one request asks of its sessions, for the panel and the header."""

from contextvars import ContextVar
from dataclasses import dataclass

from pyramid.registry import Registry
from pyramid.request import Request

from ..interfaces import ISessionAPI
from ..stores.observed import Observation
from ..stores.trace import Trace

_current: ContextVar[Trace | None] = ContextVar("pyramid_altsession.trace", default=None)


@dataclass(frozen=True)
class Noting:
    """The observer of the sessions that requests have under this name. It writes an operation into
    the trace of the request that asked for it.

    Equal ones are one observer, so that it does not matter which thread makes it first.
    """

    session: str

    def __call__(self, seen: Observation) -> None:
        trace = _current.get()
        if trace is not None:
            trace.note(seen, self.session)


def observe(registry: Registry) -> None:
    """Have the operations of all sessions of an application noted."""
    for _, api in registry.getUtilitiesFor(ISessionAPI):
        api.observe(Noting(api.requests.attribute))


def is_recorded(request: Request) -> bool:
    """Whether a trace was begun for this very request, and not for one around it."""
    trace = _current.get()
    return trace is not None and trace.of == id(request)


def record(request: Request, *, values: bool = False) -> Trace:
    """The trace of this request, which grows until its finished callbacks: operations of all its
    sessions. Operations in between, those of subrequests too, belong to the outermost request that
    is recorded.

    ``values``: keep stored values in the steps.
    """
    observe(request.registry)
    around = _current.get()
    if around is not None:
        around.values |= values
        return around
    trace = Trace(values, id(request))
    token = _current.set(trace)
    # First, because Pyramid leaves out those that follow one which raises.
    request.finished_callbacks.appendleft(lambda request: _current.reset(token))
    return trace
