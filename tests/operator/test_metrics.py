"""What Prometheus and OpenTelemetry are told of a request, and what it costs without them."""

import asyncio
import importlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from apps import Site, site
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import REGISTRY, generate_latest
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.request import Request
from pyramid.response import Response
from servers import Server, valkey
from topologies import Cluster
from zope.interface import implementer

from pyramid_altsession import (
    ISessionAPI,
    Observation,
    PoolUsage,
    SessionAPI,
    SessionGone,
    StoreFull,
    StoreUnavailable,
    opentelemetry,
    prometheus,
)
from pyramid_altsession.aio import AsyncSessionAPI
from pyramid_altsession.config.sources import read_settings
from pyramid_altsession.events import SessionInvalidated
from pyramid_altsession.interfaces import ISessionEvent, ISessionRenewed
from pyramid_altsession.protocol.fields import State, Timing
from pyramid_altsession.protocol.lifecycle import Invalidate, Login, Renew, Rotate, Touch
from pyramid_altsession.protocol.messages import (
    Describe,
    End,
    Inspect,
    Listing,
    Operation,
    Prune,
    Read,
    Reply,
    Revoke,
    Scan,
    Write,
)
from pyramid_altsession.protocol.token import Claim
from pyramid_altsession.protocol.verbs import Everything, Get, Set, Verb
from pyramid_altsession.stores.redis import breaker
from pyramid_altsession.stores.summary import Summary


def samples() -> dict[str, float]:
    """The text that Prometheus reads: value by name and labels, but for times and buckets."""
    lines = generate_latest(REGISTRY).decode().splitlines()
    pairs = [line.rsplit(" ", 1) for line in lines if line.startswith("altsession_")]
    return {name: float(value) for name, value in pairs if "_created" not in name}


@pytest.fixture
def counted() -> Callable[[], dict[str, float]]:
    """What was counted since the test began; gauges as they are."""
    before = samples()

    def since() -> dict[str, float]:
        found = {name: value - before.get(name, 0.0) for name, value in samples().items()}
        return {
            name: value
            for name, value in found.items()
            if value
            and "duration" not in name
            and "request_round" not in name
            and "pool" not in name
            and "bytes" not in name
        }

    return since


def cart(request: Request) -> Any:
    request.altsession.set("cart", ["tea"])
    return request.altsession.get("cart", fresh=True)


def sign_in(request: Request) -> str:
    request.altsession.login("ann")
    return "welcome"


def gone(request: Request) -> str:
    request.altsession.exists()
    request.registry.getUtility(ISessionAPI).invalidate_id(request.altsession.id)
    request.altsession.set("cart", [])
    return "never"


def caught(request: Request) -> str:
    with suppress(SessionGone):
        gone(request)
    return "caught"


def silent(request: Request) -> str:
    return "hello"


def admin_cart(request: Request) -> Any:
    request.altsession_admin.set("cart", ["files"])
    return request.altsession_admin.get("cart", fresh=True)


VIEWS = {
    "cart": cart,
    "admin_cart": admin_cart,
    "login": sign_in,
    "gone": gone,
    "caught": caught,
    "silent": silent,
}


def measured(url: str, *modules: str, **settings: object) -> Site:
    def include(config: Configurator) -> None:
        for module in modules or ("prometheus",):
            config.include(f"pyramid_altsession.{module}")

    return site(url, VIEWS, settings=settings, configure=include)


def include_prometheus(config: Configurator) -> None:
    config.include("pyramid_altsession.prometheus")


# -- Prometheus


def test_text_of_one_request(server: Server, counted: Callable[[], dict[str, float]]) -> None:
    """Operations by kind and outcome, round trips, events and responses of one request."""
    shop = measured(server.url)
    shop.registry.getUtility(ISessionAPI).check()
    before = counted()
    shop.get("/cart")
    after = counted()
    grown = {name: value - before.get(name, 0) for name, value in after.items()}
    assert {name: value for name, value in grown.items() if value} == {
        'altsession_operations_total{operation="create",outcome="ok"}': 1,
        'altsession_operations_total{operation="read",outcome="ok"}': 1,
        'altsession_round_trips_total{operation="create"}': 1,
        'altsession_round_trips_total{operation="read"}': 1,
        'altsession_events_total{event="created"}': 1,
        'altsession_responses_total{error="none"}': 1,
    }


def test_further_sessions(
    server: Server,
    counted: Callable[[], dict[str, float]],
    spans: Callable[[], list[ReadableSpan]],
) -> None:
    """Operations of an application's other sessions count, and have spans."""
    modules, more = ("prometheus", "opentelemetry"), {"altsession.sessions": "admin"}
    shop = measured(server.url, *modules, **more)
    shop.get("/admin_cart")
    found = counted()
    assert found['altsession_operations_total{operation="create",outcome="ok"}'] == 1
    assert found['altsession_operations_total{operation="read",outcome="ok"}'] == 1
    assert [each.name for each in spans()] == ["altsession create", "altsession read"]


def test_durations_and_bytes(server: Server) -> None:
    """A histogram of each operation, and the bytes in both directions."""
    before = samples()
    measured(server.url).get("/cart")
    grown = {name for name, value in samples().items() if value > before.get(name, 0)}
    assert {
        'altsession_operation_duration_seconds_count{operation="create"}',
        'altsession_operation_duration_seconds_sum{operation="create"}',
        'altsession_operation_duration_seconds_bucket{le="+Inf",operation="read"}',
        'altsession_bytes_total{direction="sent"}',
        'altsession_bytes_total{direction="received"}',
    } <= grown


def inner(request: Request) -> Any:
    request.altsession.get("cart", fresh=True)
    return request.invoke_subrequest(Request.blank("/cart"), use_tweens=True)


def renewed_at_the_end(request: Request) -> str:
    request.add_response_callback(lambda request, response: request.altsession.renew())
    return "hello"


@pytest.mark.parametrize(
    ("path", "trips"), [("silent", 0), ("cart", 2), ("inner", 3), ("renewed_at_the_end", 1)]
)
def test_round_trips_of_a_request(
    path: str, trips: int, server: Server, counted: Callable[[], dict[str, float]]
) -> None:
    """A histogram of what each request sent, from its first tween to its last callback. Requests
    within it are parts of it."""
    views = {**VIEWS, "inner": inner, "renewed_at_the_end": renewed_at_the_end}
    shop = site(server.url, views, configure=include_prometheus)
    shop.get("/cart")
    before = samples()
    shop.get(f"/{path}")
    name = "altsession_request_round_trips"
    grown = {key: value - before[key] for key, value in samples().items() if name in key}
    assert (grown[f"{name}_count"], grown[f"{name}_sum"]) == (1, trips)
    below = [count for key, count in grown.items() if "bucket" in key]
    assert sum(below) == len(below) - trips  # the buckets are 0, 1, 2, 3, …


def test_round_trips_of_a_request_that_fails(server: Server) -> None:
    """It counts, and the next one begins anew."""

    def fail(request: Request) -> None:
        request.altsession.get("cart")
        raise ZeroDivisionError

    shop = site(server.url, {"cart": cart, "fail": fail}, configure=include_prometheus)
    shop.get("/cart")
    before = samples()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            shop.get("/fail")
    after = samples()
    for what in ("count", "sum"):
        name = f"altsession_request_round_trips_{what}"
        assert after[name] - before[name] == 2


def spoiling_tween_factory(handler: Callable[[Request], Response], registry: Any) -> Any:
    """A tween above this package's, whose finished callback fails."""

    def fail(request: Request) -> None:
        raise ZeroDivisionError

    def tween(request: Request) -> Response:
        request.add_finished_callback(fail)
        return handler(request)

    return tween


def test_round_trips_of_a_request_whose_finished_callback_fails(server: Server) -> None:
    """It counts, and the next one begins anew."""

    def configure(config: Configurator) -> None:
        include_prometheus(config)
        config.add_tween(f"{__name__}.spoiling_tween_factory")

    shop = site(server.url, {"cart": cart}, configure=configure)
    before = samples()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            shop.get("/cart")
    name = "altsession_request_round_trips_count"
    assert samples()[name] - before[name] == 2


def test_renewals_and_rejected_tokens(counted: Callable[[], dict[str, float]]) -> None:
    """A login renews the cookie; the old one is then rejected."""
    shop = measured("memory://", **{"altsession.session.gone_window": 0})
    shop.get("/cart")
    old = shop.token
    shop.get("/login")
    shop.other(old).get("/cart")
    found = counted()
    assert found['altsession_events_total{event="renewed"}'] == 1
    assert found['altsession_events_total{event="rejected"}'] == 1
    assert found['altsession_operations_total{operation="login",outcome="ok"}'] == 1


def test_conflicts(counted: Callable[[], dict[str, float]]) -> None:
    """A 409 is counted by its error, whoever renders it; what a view catches is none."""
    shop = measured("memory://")
    shop.get("/cart")
    shop.get("/gone", status=409)
    shop.get("/cart")
    shop.get("/caught")
    found = counted()
    assert found['altsession_responses_total{error="SessionGone"}'] == 1
    assert found['altsession_responses_total{error="none"}'] == 3
    assert (
        found['altsession_operations_total{operation="write",outcome="owed"}'] == 3
    )  # and that of the dead cookie


def test_conflict_on_a_page_of_the_application(counted: Callable[[], dict[str, float]]) -> None:
    """An exception view's own response is counted by the error that it is about."""

    def configure(config: Configurator) -> None:
        config.include("pyramid_altsession.prometheus")
        config.add_exception_view(lambda request: Response("again", 409), context=SessionGone)

    shop = site("memory://", VIEWS, configure=configure)
    shop.get("/cart")
    assert shop.get("/gone", status=409).text == "again"
    assert counted()['altsession_responses_total{error="SessionGone"}'] == 1


def test_server_that_is_away(counted: Callable[[], dict[str, float]]) -> None:
    """Its operations fail with StoreUnavailable, and so do the responses; the breaker is open."""
    server = valkey()
    shop = measured(server.url)
    shop.get("/cart")
    server.stop()
    shop.get("/cart", status=503)
    found = counted()
    failed = 'altsession_operations_total{operation="write",outcome="StoreUnavailable"}'
    assert found[failed] == 1
    assert found['altsession_responses_total{error="StoreUnavailable"}'] == 1


def test_event_without_pyramid(counted: Callable[[], dict[str, float]]) -> None:
    """``count_event`` is what a utility without Pyramid gives its events to."""
    settings = read_settings({"redis.url": "memory://"})
    session = SessionAPI(settings, notify=prometheus.count_event).create()
    session.renew()
    assert counted() == {
        'altsession_events_total{event="created"}': 1,
        'altsession_events_total{event="renewed"}': 1,
    }


class Expelled(SessionInvalidated):
    """An event of an application's own, which tells more than the package's."""


@implementer(ISessionRenewed)
class Refreshed:
    """One that shares no code with the package's."""


@implementer(ISessionEvent)
class Noticed:
    """One of a kind that the package does not have."""


def test_events_of_the_application(counted: Callable[[], dict[str, float]]) -> None:
    """They are counted as the kind of event that they are, if the package has it."""
    shop = measured("memory://")
    for event in (Expelled("an id"), Refreshed(), Noticed()):
        shop.registry.notify(event)
    assert counted() == {
        'altsession_events_total{event="invalidated"}': 1,
        'altsession_events_total{event="renewed"}': 1,
    }


def gauges(usage: PoolUsage) -> tuple[float, ...]:
    """What the page says of a pool: in use, limit, breaker."""
    found = samples()
    names = ("pool_in_use", "pool_limit", "breaker_open")
    return tuple(found[f'altsession_{name}{{server="{usage.server}"}}'] for name in names)


def test_pool(own_server: Server) -> None:
    """Connections that calls hold, as they are when the page is asked for."""
    shop = measured(own_server.url, **{"altsession.redis.max_connections": 7})
    api: SessionAPI = shop.registry.getUtility(ISessionAPI)
    (usage,) = api.pool_usage()
    assert usage == (usage.server, 0, 7, False)
    assert own_server.url.endswith(usage.server)
    session = api.open(str(api.create({"cart": 1}).token))
    assert gauges(usage) == (0, 7, 0)
    session.prefetch("cart")
    assert gauges(usage) == (1, 7, 0)
    session.get("cart")
    assert gauges(usage) == (0, 7, 0)


def test_breaker(monkeypatch: pytest.MonkeyPatch) -> None:
    """While nobody tries to connect it is open, and closed when the time is over."""
    server = valkey()
    api: SessionAPI = measured(server.url).registry.getUtility(ISessionAPI)
    server.stop()
    monkeypatch.setattr(breaker, "PAUSE", 1e6)
    with pytest.raises(StoreUnavailable):
        api.create()
    (usage,) = api.pool_usage()
    assert (usage.away, gauges(usage)[2]) == (True, 1)
    monkeypatch.setattr(breaker, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + 2e6))
    assert gauges(usage)[2] == 0


def test_pool_of_two_applications(own_server: Server) -> None:
    """Two applications of a process on one server are one pool to who reads the page: their
    connections are added, and the breaker of one is enough."""
    first, second = (
        measured(own_server.url, **{"altsession.redis.max_connections": limit}) for limit in (3, 4)
    )
    api: SessionAPI = first.registry.getUtility(ISessionAPI)
    assert second.registry is not first.registry
    assert gauges(api.pool_usage()[0]) == (0, 7, 0)


def test_pool_of_a_cluster(cluster_server: Cluster) -> None:
    """One pool for each node that was asked."""
    api: SessionAPI = measured(cluster_server.url).registry.getUtility(ISessionAPI)
    assert api.pool_usage() == []
    api.check()
    used = api.pool_usage()
    assert used
    ports = {str(node.port) for node in cluster_server.alive}
    assert {each.server.rpartition(":")[2] for each in used} <= ports
    assert [each.in_use for each in used] == [0] * len(used)


def test_pool_after_a_fork(own_server: Server) -> None:
    """The parent's connections are not the child's."""
    api = SessionAPI.from_settings({"redis.url": own_server.url})
    session = api.open(str(api.create({"cart": 1}).token))
    session.prefetch("cart")
    assert api.pool_usage()[0].in_use == 1
    child = os.fork()
    if child == 0:
        os._exit(api.pool_usage()[0].in_use)
    assert os.waitpid(child, 0)[1] == 0
    session.get("cart")


def test_memory_has_no_pool() -> None:
    api = SessionAPI.from_settings({"redis.url": "memory://"})
    assert list(api.pool_usage()) == []


# -- OpenTelemetry


@pytest.fixture(scope="session")
def exporter() -> Iterator[InMemorySpanExporter]:
    """A process has one tracer provider."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    yield exporter
    provider.shutdown()


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> Callable[[], list[ReadableSpan]]:
    exporter.clear()
    return lambda: list(exporter.get_finished_spans())


def test_spans_of_one_request(server: Server, spans: Callable[[], list[ReadableSpan]]) -> None:
    """A span for each operation, below the application's own, with what it took; no value, cookie,
    key or user is in it."""
    shop = measured(server.url, "opentelemetry")
    shop.registry.getUtility(ISessionAPI).check()
    before = len(spans())
    with trace.get_tracer("test").start_as_current_span("GET /cart") as outer:
        shop.get("/cart")
        shop.get("/login")
    written, read, *_, signed_in, above = spans()[before:]
    assert above.name == "GET /cart"
    assert [each.name for each in (written, read, signed_in)] == [
        "altsession create",
        "altsession read",
        "altsession login",
    ]
    for each in (written, read, signed_in):
        assert each.parent is not None
        assert each.parent.span_id == outer.get_span_context().span_id
        assert each.kind is SpanKind.CLIENT
        assert each.status.status_code is StatusCode.UNSET
        attributes = dict(each.attributes or {})
        assert attributes.pop("altsession.bytes_sent") > 0  # type: ignore[operator]
        assert attributes.pop("altsession.bytes_received") > 0  # type: ignore[operator]
        assert attributes == {
            "db.system.name": "redis",
            "db.operation.name": each.name.removeprefix("altsession "),
            "altsession.outcome": "ok",
            "altsession.keys": 0 if each is signed_in else 1,
            "altsession.round_trips": 1,
        }
        assert (each.start_time or 0) < (each.end_time or 0)
    told = "".join([each.to_json() for each in (written, read, signed_in)])
    id, _, verifier = str(shop.token).partition(".")
    assert [secret for secret in ("tea", "ann", "cart", id, verifier) if secret in told] == []


def test_span_of_a_failure(spans: Callable[[], list[ReadableSpan]]) -> None:
    """It is an error by the name of its class; the message, which names the server, is left out."""
    api: SessionAPI = measured("unix:///nowhere", "opentelemetry").registry.getUtility(ISessionAPI)
    with pytest.raises(StoreUnavailable):
        api.create()
    (span,) = spans()
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description is None
    assert dict(span.attributes or {})["error.type"] == "StoreUnavailable"
    assert "nowhere" not in span.to_json()


def test_awaited(server: Server, spans: Callable[[], list[ReadableSpan]]) -> None:
    """The observers serve the awaitable utility too; its spans are below the task's own."""
    before = samples()

    async def create() -> trace.Span:
        async with AsyncSessionAPI.from_settings({"redis.url": server.url}) as api:
            api.observe(prometheus.count_operation)
            api.observe(opentelemetry.trace_operation)
            with trace.get_tracer("test").start_as_current_span("task") as outer:
                await api.create({"cart": 1})
        return outer

    outer = asyncio.run(create())
    created = 'altsession_operations_total{operation="create",outcome="ok"}'
    assert samples()[created] == before.get(created, 0) + 1
    span, above = spans()
    assert (span.name, above.name) == ("altsession create", "task")
    assert span.parent is not None
    assert span.parent.span_id == outer.get_span_context().span_id


def test_both(server: Server, spans: Callable[[], list[ReadableSpan]]) -> None:
    """Both may be on, in any order, and before the package itself."""
    before = samples()
    measured(server.url, "opentelemetry", "prometheus").get("/cart")
    assert "altsession create" in [span.name for span in spans()]
    created = 'altsession_operations_total{operation="create",outcome="ok"}'
    assert samples()[created] == before.get(created, 0) + 1


@pytest.mark.parametrize("module", ["prometheus", "opentelemetry"])
def test_included_before_the_package(module: str) -> None:
    """One of them includes the package, and an include of it may follow."""
    config = Configurator(settings={"altsession.redis.url": "memory://"})
    config.include(f"pyramid_altsession.{module}")
    config.include("pyramid_altsession")
    config.make_wsgi_app()
    assert config.registry.queryUtility(ISessionAPI) is not None


# -- what an operation is called

CLAIM = Claim("id", b"")
TIMING = Timing.of(read_settings({}).session)


def write(*verbs: Verb, **named: Any) -> Write:
    return Write(CLAIM, verbs, TIMING, **named)


@pytest.mark.parametrize(
    ("operation", "kind", "keys"),
    [
        (Read((CLAIM,), ("a", "b", "@u"), TIMING), "read", 2),
        (Read((CLAIM,), None, TIMING), "read", 3),
        (write(Set("a", b"1"), Get("a"), Get("b")), "write", 2),
        (write(Everything()), "write", 0),
        (write(create=True), "create", 0),
        (write(Set("a", b"1"), life=Touch()), "write", 1),
        (write(life=Renew("new")), "renew", 0),
        (write(life=Rotate("new", 1)), "renew", 0),
        (write(life=Invalidate(b"nonce")), "invalidate", 0),
        (write(life=Login("new", "ann", None, 1), create=True), "login", 0),
        (Listing("ann"), "listing", 0),
        (Revoke("ann", None), "revoke", 0),
        (Scan(0), "scan", 0),
        (Prune("ann", (("id", 1),)), "prune", 1),
        (End("ann", ("id", "other"), b"nonce", TIMING), "end", 2),
        (Describe(("id",)), "describe", 1),
        (Inspect(("id",)), "inspect", 1),
    ],
)
def test_kinds(operation: Operation, kind: str, keys: int) -> None:
    """Each operation has one of a few names, and keys are counted, not named."""
    held = {"a": b"1", "b": b"2", "c": b"3", "@v": b"proof"}
    seen = Observation(operation, Reply(State.LIVE, held), None, 1, 1, 1, 0.1)
    assert Summary.of(seen) == (kind, "ok", keys)


@pytest.mark.parametrize(
    ("reply", "error", "outcome"),
    [
        (Reply(State.REJECTED), None, "rejected"),
        (Reply(State.LIVE, confirmed=False), None, "unconfirmed"),
        (None, StoreFull("full"), "StoreFull"),
        (None, None, "unused"),
    ],
)
def test_outcomes(reply: Reply | None, error: Exception | None, outcome: str) -> None:
    """What the server said, the error's class, or that nobody took the answer."""
    seen = Observation(Read((CLAIM,), None, TIMING), reply, error, 1, 1, 1, 0.1)
    assert Summary.of(seen) == ("read", outcome, 0)


# -- without them


@pytest.mark.process
def test_nothing_is_imported() -> None:
    """An application that does not include them imports neither. (redis-py itself imports
    OpenTelemetry's API where it is installed.)"""
    code = (
        "import sys; from pyramid.config import Configurator\n"
        "config = Configurator(settings={'altsession.redis.url': 'memory://'})\n"
        "config.include('pyramid_altsession'); config.make_wsgi_app()\n"
        "own = ['pyramid_altsession.prometheus', 'pyramid_altsession.opentelemetry']\n"
        "print([name for name in ('prometheus_client', *own) if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("module", "library", "missing"),
    [
        ("admin.views", "jinja2", "jinja2"),
        ("prometheus", "prometheus_client", "prometheus_client"),
        ("opentelemetry", "opentelemetry-api", "opentelemetry.trace"),
    ],
)
def test_library_that_is_missing(
    module: str, library: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says what to install."""
    monkeypatch.delitem(sys.modules, f"pyramid_altsession.{module}", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    extra = module.partition(".")[0]
    with pytest.raises(ConfigurationError, match=rf"{library}; pip install .*\[{extra}\]"):
        importlib.import_module(f"pyramid_altsession.{module}")
