"""The header ``Server-Timing``, for development: the sessions' part of a request's time. Browsers
show it beside the request's own times (https://www.w3.org/TR/server-timing/).
"""

from pyramid.config import PHASE1_CONFIG, Configurator
from pyramid.events import NewResponse
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response
from pyramid.tweens import INGRESS

from ..interfaces import ISessionAPI
from .recording import is_recorded, record
from .transaction import Handler
from .tween import NAME

TIMING = "pyramid_altsession.web.server_timing.server_timing_tween_factory"


def server_timing_tween_factory(handler: Handler, registry: Registry) -> Handler:
    def server_timing_tween(request: Request) -> Response:
        record(request)
        return handler(request)

    return server_timing_tween


def add_header(event: NewResponse) -> None:
    """Called after the response callbacks, when the request asks nothing more. A request that asked
    nothing has no header.
    """
    if not is_recorded(event.request):
        return
    trace = record(event.request)
    if trace.steps:
        trips, took = trace.round_trips, trace.microseconds / 1000
        described = f'desc="{trips} round trip{"" if trips == 1 else "s"}"'
        event.response.headerlist.append(
            ("Server-Timing", f"altsession;{described};dur={took:.3f}")
        )


def add_server_timing(config: Configurator) -> None:
    def register() -> None:
        if config.registry.getUtility(ISessionAPI).settings.server_timing:
            config.add_tween(TIMING, under=INGRESS, over=NAME)
            config.add_subscriber(add_header, NewResponse)

    config.action("altsession server timing", register, order=PHASE1_CONFIG + 1)
