"""Metrics for Prometheus: ``config.include("pyramid_altsession.prometheus")``.

They are in ``prometheus_client``'s default registry; the application serves that registry's page as
it serves its other metrics. ``docs/monitoring.rst`` says what each one means.
"""

import weakref
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextvars import ContextVar, Token

from pyramid.config import PHASE1_CONFIG, Configurator
from pyramid.events import NewResponse
from pyramid.exceptions import ConfigurationError
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response
from pyramid.tweens import INGRESS
from zope.interface import implementedBy, providedBy

from .api import SessionAPI
from .errors import AltSessionError
from .events import BY_KIND
from .interfaces import ISessionAPI, ISessionEvent
from .stores.observed import Observation
from .stores.redis.pool import PoolUsage
from .stores.summary import Summary
from .web.transaction import Handler
from .web.tween import NAME

try:
    from prometheus_client import REGISTRY, Counter, Histogram, Metric
    from prometheus_client.core import GaugeMetricFamily
    from prometheus_client.registry import Collector
except ImportError as error:
    raise ConfigurationError(
        "pyramid_altsession.prometheus: needs the library prometheus_client;"
        ' pip install "pyramid_altsession[prometheus]"'
    ) from error

__all__ = ["count_event", "count_operation", "count_response", "includeme"]

TWEEN = f"{__name__}.round_trips_tween_factory"
_sent: ContextVar[list[int] | None] = ContextVar("pyramid_altsession.prometheus", default=None)
"""Packets of the operations of the request that this context serves."""
KINDS = {interface: kind for kind, event in BY_KIND.items() for interface in implementedBy(event)}
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

OPERATIONS = Counter("altsession_operations", "Operations on the store.", ["operation", "outcome"])
DURATION = Histogram(
    "altsession_operation_duration_seconds",
    "What a request waited for one operation.",
    ["operation"],
    buckets=SECONDS,
)
ROUND_TRIPS = Counter(
    "altsession_round_trips",
    "Packets sent to servers, those of connecting included.",
    ["operation"],
)
REQUEST_ROUND_TRIPS = Histogram(
    "altsession_request_round_trips",
    "Packets that one request sent to servers, those of its subrequests included.",
    buckets=(0, 1, 2, 3, 4, 6, 10, 20),
)
BYTES = Counter("altsession_bytes", "Bytes on the wire.", ["direction"])
EVENTS = Counter(
    "altsession_events", "Sessions created, renewed, invalidated; cookies rejected.", ["event"]
)
RESPONSES = Counter(
    "altsession_responses", "Responses, by the error of this package that they tell of.", ["error"]
)


def count_operation(seen: Observation) -> None:
    """The observer, for ``observe`` of the plain and the awaitable utility."""
    operation, outcome, _ = Summary.of(seen)
    OPERATIONS.labels(operation, outcome).inc()
    DURATION.labels(operation).observe(seen.seconds)
    ROUND_TRIPS.labels(operation).inc(seen.round_trips)
    sent = _sent.get()
    if sent is not None:
        sent.append(seen.round_trips)
    BYTES.labels("sent").inc(seen.sent)
    BYTES.labels("received").inc(seen.received)


def round_trips_tween_factory(handler: Handler, registry: Registry) -> Handler:
    def round_trips_tween(request: Request) -> Response:
        if _sent.get() is None:  # otherwise a request counts it
            token = _sent.set([])
            # First, because Pyramid leaves out those that follow one which raises.
            request.finished_callbacks.appendleft(lambda request: _finish(token))
        return handler(request)

    return round_trips_tween


def _finish(token: "Token[list[int] | None]") -> None:
    """Called after the response callbacks, when the request asks nothing more."""
    REQUEST_ROUND_TRIPS.observe(sum(_sent.get() or ()))
    _sent.reset(token)


def count_event(event: object) -> None:
    """The subscriber to session events, and ``notify`` of a utility without Pyramid.

    An event of the application's own class counts as what that class derives from; one that is no
    kind of event known here does not count.
    """
    for interface in providedBy(event).flattened():  # the nearest one first
        if interface in KINDS:
            EVENTS.labels(KINDS[interface]).inc()
            return


def count_response(event: NewResponse) -> None:
    """The subscriber to responses. An error that a view caught itself does not count."""
    told = event.response
    if not isinstance(told, AltSessionError):  # otherwise a page of the application may report it
        told = event.request.exception
    name = type(told).__name__ if isinstance(told, AltSessionError) else "none"
    RESPONSES.labels(name).inc()


class Pools(Collector):
    """The pools of connections, read when the metrics page is requested. No round trip."""

    def __init__(self) -> None:
        self.apis: weakref.WeakSet[SessionAPI] = weakref.WeakSet()

    def describe(self) -> Iterable[Metric]:
        return families()

    def collect(self) -> Iterator[Metric]:
        """The numbers of several applications that use the same server are added."""
        found: dict[str, list[PoolUsage]] = defaultdict(list)
        for api in list(self.apis):
            for usage in api.pool_usage():
                found[usage.server].append(usage)
        in_use, limit, breaker = families()
        for server, pools in found.items():
            in_use.add_metric([server], sum(pool.in_use for pool in pools))
            limit.add_metric([server], sum(pool.limit for pool in pools))
            breaker.add_metric([server], any(pool.away for pool in pools))
        yield from (in_use, limit, breaker)


def families() -> tuple[GaugeMetricFamily, GaugeMetricFamily, GaugeMetricFamily]:
    labels = ["server"]
    return (
        GaugeMetricFamily(
            "altsession_pool_in_use", "Connections that calls hold now.", labels=labels
        ),
        GaugeMetricFamily("altsession_pool_limit", "Connections that there may be.", labels=labels),
        GaugeMetricFamily(
            "altsession_breaker_open", "1: calls that have to connect fail at once.", labels=labels
        ),
    )


POOLS = Pools()
REGISTRY.register(POOLS)


def includeme(config: Configurator) -> None:
    """Count the operations of this application's sessions. Applications in one process are counted
    together.
    """
    config.include("pyramid_altsession")
    registry = config.registry

    def observe() -> None:
        for _, api in registry.getUtilitiesFor(ISessionAPI):
            api.observe(count_operation)
            POOLS.apis.add(api)

    config.action("pyramid_altsession.prometheus", observe, order=PHASE1_CONFIG + 1)
    config.add_tween(TWEEN, under=INGRESS, over=NAME)
    config.add_subscriber(count_event, ISessionEvent)
    config.add_subscriber(count_response, NewResponse)
