"""What a request asked of its session: the shop's panel shows it.

``request.trace`` is what the panel shows. A form's answer is a redirect, so its writes are over
before a page is shown: :func:`see_other` keeps the trace and names it in the address, and the
page that follows shows it as ``request.previous_trace``.
"""

import secrets
from collections import deque
from dataclasses import dataclass, field

from pyramid.config import PHASE1_CONFIG, Configurator
from pyramid.events import NewRequest
from pyramid.httpexceptions import HTTPSeeOther
from pyramid.request import Request

from ..stores.trace import Step, Trace
from ..web.recording import observe, record

KEPT = "pyramid_altsession.demo.traces"
"""registry: traces of requests that were answered with a redirect, newest last."""


@dataclass
class ShopTrace:
    """What one request of the shop asked."""

    method: str
    path: str
    trace: Trace
    id: str = field(default_factory=lambda: secrets.token_urlsafe(6))

    @property
    def steps(self) -> list[Step]:
        return self.trace.steps

    @property
    def round_trips(self) -> int:
        return self.trace.round_trips


def begin(event: NewRequest) -> None:
    record(event.request)


def trace(request: Request) -> ShopTrace:
    """What this request has asked of its session until now."""
    return ShopTrace(request.method, request.path, record(request))


def previous_trace(request: Request) -> ShopTrace | None:
    """What the form asked whose answer sent the visitor here."""
    wanted = request.GET.get("after")
    kept: deque[ShopTrace] = request.registry[KEPT]
    return next((found for found in list(kept) if found.id == wanted), None)


def see_other(request: Request, path: str) -> HTTPSeeOther:
    """The answer to a form: go to ``path``, which shows this request's trace beside its own."""
    request.registry[KEPT].append(request.trace)
    return HTTPSeeOther(f"{path}?after={request.trace.id}")


def includeme(config: Configurator) -> None:
    """Have the session's operations noted."""
    registry = config.registry
    # After the package's own action of this phase, as it was included before. A tween may have the
    # session in hand before NewRequest: so the store is observed from the start.
    config.action(
        "altsession-recorder",
        lambda: observe(registry),
        order=PHASE1_CONFIG,
    )
    registry[KEPT] = deque(maxlen=100)
    config.add_subscriber(begin, NewRequest)
    config.add_request_method(trace, reify=True)
    config.add_request_method(previous_trace, reify=True)
