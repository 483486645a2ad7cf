"""Spans for OpenTelemetry: ``config.include("pyramid_altsession.opentelemetry")``.

A span for each operation on the store, below the span that is current then. They go to the tracer
provider that the application has set. ``docs/monitoring.rst`` says what they hold.
"""

import time

from pyramid.config import PHASE1_CONFIG, Configurator
from pyramid.exceptions import ConfigurationError

from ._version import VERSION
from .interfaces import ISessionAPI
from .stores.observed import Observation
from .stores.summary import Summary

try:
    from opentelemetry.trace import SpanKind, Status, StatusCode, get_tracer
except ImportError as error:
    raise ConfigurationError(
        "pyramid_altsession.opentelemetry: needs the library opentelemetry-api;"
        ' pip install "pyramid_altsession[opentelemetry]"'
    ) from error

__all__ = ["includeme", "trace_operation"]

TRACER = get_tracer("pyramid_altsession", VERSION)


def trace_operation(seen: Observation) -> None:
    """The observer, for ``observe`` of the plain and the awaitable utility."""
    operation, outcome, keys = Summary.of(seen)
    end = time.time_ns()
    span = TRACER.start_span(
        f"altsession {operation}",
        kind=SpanKind.CLIENT,
        start_time=end - round(seen.seconds * 1e9),
        attributes={
            "db.system.name": "redis",
            "db.operation.name": operation,
            "altsession.outcome": outcome,
            "altsession.keys": keys,
            "altsession.round_trips": seen.round_trips,
            "altsession.bytes_sent": seen.sent,
            "altsession.bytes_received": seen.received,
        },
    )
    if seen.error is not None:  # its message may name a host or a key
        span.set_attribute("error.type", outcome)
        span.set_status(Status(StatusCode.ERROR))
    span.end(end)


def includeme(config: Configurator) -> None:
    """Trace the operations of this application's sessions."""
    config.include("pyramid_altsession")
    registry = config.registry

    def observe() -> None:
        for _, api in registry.getUtilitiesFor(ISessionAPI):
            api.observe(trace_operation)

    config.action("pyramid_altsession.opentelemetry", observe, order=PHASE1_CONFIG + 1)
