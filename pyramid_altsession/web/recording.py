"""Records what one request asks of its session, for the panel and the header."""

from contextvars import ContextVar

from pyramid.request import Request

from ..interfaces import ISessionAPI
from ..stores.observed import Observation
from ..stores.trace import Trace

_current: ContextVar[Trace | None] = ContextVar("pyramid_altsession.trace", default=None)


def note(seen: Observation) -> None:
    """The observer: write an operation into the trace of the request that asked for it."""
    trace = _current.get()
    if trace is not None:
        trace.note(seen)


def is_recorded(request: Request) -> bool:
    """Whether a trace was begun for this very request, and not for one around it."""
    trace = _current.get()
    return trace is not None and trace.of == id(request)


def record(request: Request, *, values: bool = False) -> Trace:
    """The trace of this request, which grows until the request is finished. Operations in between,
    those of subrequests too, belong to the outermost request that is recorded.

    ``values``: keep stored values in the steps.
    """
    request.registry.getUtility(ISessionAPI).observe(note)
    around = _current.get()
    if around is not None:
        around.values |= values
        return around
    trace = Trace(values, id(request))
    token = _current.set(trace)
    request.add_finished_callback(lambda request: _current.reset(token))
    return trace
