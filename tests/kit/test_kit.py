"""What applications get for their own tests: browsers, counted round trips, faults, a clock."""

import time
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from apps import Site, site
from parts import EVERY_VERB, Part
from pyramid import testing
from pyramid.config import Configurator
from pyramid.csrf import get_csrf_token
from pyramid.request import Request
from pyramid.response import Response
from servers import Server
from webtest import TestApp

from pyramid_altsession import ISessionAPI, SessionAPI, StoreFull
from pyramid_altsession.interfaces import ISessionCreated
from pyramid_altsession.protocol.lifecycle import LifeStep
from pyramid_altsession.security import AltSessionCSRFStoragePolicy
from pyramid_altsession.stores.memory import MemoryStore
from pyramid_altsession.testing import (
    Clock,
    delay,
    fail,
    lose_reply,
    make_browser,
    private_server,
    round_trips,
    serving,
    session_of,
    settable_clock,
    sign_in,
    steer,
)
from pyramid_altsession.testing.faults import VERBS


def main(**settings: object) -> Any:
    def cart(request: Request) -> dict[str, Any]:
        session = request.altsession
        session.increment("visits")
        return {"cart": session.get("cart"), "user": session.userid()}

    def token(request: Request) -> dict[str, str]:
        return {"token": get_csrf_token(request)}

    def save(request: Request) -> dict[str, str]:
        return {"saved": request.POST["name"]}

    def ahead(request: Request) -> Response:
        request.altsession.prefetch("cart")
        return Response(str(request.altsession.get("cart")))

    def both(request: Request) -> dict[str, Any]:
        request.altsession_admin.increment("visits")
        return {"user": request.altsession.userid()}

    given = {"altsession.redis.url": "memory://", **settings}
    config = Configurator(settings=given)
    config.include("pyramid_altsession")
    config.set_csrf_storage_policy(AltSessionCSRFStoragePolicy())
    config.set_default_csrf_options(require_csrf=True)
    for view in (cart, token, save, ahead, both):
        config.add_route(view.__name__, f"/{view.__name__}")
        config.add_view(view, route_name=view.__name__, renderer="json")
    return config.make_wsgi_app()


@pytest.fixture
def app() -> Any:
    return main()


# -- browsers


def test_browser(app: Any) -> None:
    """Its cookies come back, and its posts pass the check of the origin."""
    browser = make_browser(app)
    token = browser.get("/token").json["token"]
    assert browser.get("/token").json["token"] == token
    assert browser.post("/save", {"name": "Ann", "csrf_token": token}).json == {"saved": "Ann"}
    assert make_browser(app).get("/token").json["token"] != token


def test_browser_of_another_host() -> None:
    """A host of its own, for a cookie with a domain."""
    app = main(**{"altsession.session.domain": ".example.com"})
    browser = make_browser(app, host="shop.example.com")
    sign_in(browser, "ann")
    assert browser.get("/cart").json["user"] == "ann"


def test_plain_http() -> None:
    app = main(**{"altsession.session.secure": "false"})
    browser = make_browser(app, scheme="http")
    sign_in(browser, "ann")
    assert browser.get("/cart").json["user"] == "ann"


@pytest.mark.parametrize(
    ("settings", "scheme"),
    [({}, "http"), ({"altsession.session.domain": "example.com"}, "https")],
    ids=["Secure", "domain"],
)
def test_browser_that_keeps_its_cookie(settings: dict[str, str], scheme: str) -> None:
    """Nobody would be signed in, and the test would fail somewhere else, or prove nothing."""
    browser = make_browser(main(**settings), scheme=scheme)
    with pytest.raises(LookupError, match="wanted a browser that sends the cookie 'sid' back"):
        sign_in(browser, "ann")
    assert browser.get("/cart").json["user"] is None


def test_sign_in(app: Any) -> None:
    """The visitor is signed in, keeps what the session held, and has one cookie."""
    browser = make_browser(app)
    browser.get("/cart")
    session_of(browser).set("cart", ["tea"])
    before = browser.cookies["sid"]
    sign_in(browser, "ann", info={"device": "phone"})
    assert browser.cookies["sid"] != before
    assert browser.get("/cart").json == {"cart": ["tea"], "user": "ann"}
    api = app.registry.getUtility(ISessionAPI)
    assert [found.info for found in api.sessions_of("ann")] == [{"device": "phone"}]
    assert session_of(browser).get("visits") == 2
    assert len(browser.cookiejar) == 1


def test_session_of_a_browser_without_one(app: Any) -> None:
    with pytest.raises(LookupError, match=r"the cookie 'sid': it has no session"):
        session_of(make_browser(app))


# -- steering


class Middleware:
    def __init__(self, application: Any) -> None:
        self.application = application

    def __call__(self, environ: Any, start_response: Any) -> Any:
        return self.application(environ, start_response)


def test_every_way_to_name_an_application(app: Any) -> None:
    """The application, its registry, a browser, middleware around it and its utility are one."""
    api = app.registry.getUtility(ISessionAPI)
    ways = [app, app.registry, TestApp(app), make_browser(Middleware(app)), Middleware(app), api]
    assert {id(steer(way)) for way in ways} == {id(api.store)}


def test_sign_in_through_middleware(app: Any) -> None:
    """Subscribers get a request of the application."""
    asked: list[Any] = []
    app.registry.registerHandler(
        lambda event: asked.append(event.request.registry), (ISessionCreated,)
    )
    sign_in(make_browser(Middleware(app)), "ann")
    assert asked == [app.registry]


def test_steering_stands_next_to_the_sessions() -> None:
    """Below observers and below a codec that seals; what is counted there is what is sent."""
    api = SessionAPI.from_settings(
        {
            "redis.url": "memory://",
            "session.codec": "pyramid_altsession.codecs.encrypted",
            "session.codec_secret": "a-secret-of-enough-characters",
        }
    )
    api.observe(print)
    assert isinstance(steer(api).store, MemoryStore)
    with round_trips(api, max=1):
        session = api.create({"n": 1})
    with round_trips(api, max=2) as sent:
        session.increment("n")
    assert [str(step) for step in sent] == ["read get 'n'", "write expect set 'n' 'n'"]


@pytest.mark.parametrize("wrong", [None, "app", object(), Configurator()])
def test_no_application(wrong: object) -> None:
    with pytest.raises(TypeError, match=r"wanted an application that includes pyramid_altsession"):
        steer(wrong)


# -- round trips


def test_round_trips(app: Any) -> None:
    """More than the limit is an error that lists what was asked, in order."""
    browser = make_browser(app)
    browser.get("/cart")
    with round_trips(app, max=3) as sent:
        browser.get("/cart")
    assert len(sent) == 2
    with pytest.raises(AssertionError) as caught, round_trips(app):
        browser.get("/cart")
    assert str(caught.value) == (
        "2 round trips, at most 1 wanted:\n  1. write increment 'visits'\n  2. read get 'cart'"
    )


def test_round_trips_afterwards(app: Any) -> None:
    """Nothing is counted outside, and an error inside is the error."""
    browser = make_browser(app)
    with round_trips(app, max=0) as sent:
        pass
    browser.get("/cart")
    assert sent == []

    def failing() -> None:
        browser.get("/cart")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), round_trips(app, max=0):
        failing()


def test_a_prefetch_is_counted(app: Any) -> None:
    browser = make_browser(app)
    browser.get("/cart")
    with round_trips(app, max=1) as sent:
        browser.get("/ahead")
    assert [str(step) for step in sent] == ["read get 'cart'"]


def test_on_a_server(server: Server) -> None:
    """Connecting does not count, nor does the script's first journey."""
    shop = site(server.url, {"cart": lambda request: request.altsession.increment("visits")})
    with round_trips(shop, max=1):
        shop.get("/cart")


# -- faults


@pytest.fixture
def shop() -> Site:
    return site("memory://", {"cart": lambda request: {"n": request.altsession.increment("n")}})


def test_fail(shop: Site) -> None:
    """The third write fails, and is not done; so does every later one, until the end."""
    with fail(shop, "write", after=2):
        answers = [shop.get("/cart", expect_errors=True).status_int for _ in range(4)]
    assert answers == [200, 200, 503, 503]
    assert shop.get("/cart").json == {"n": 3}


def test_fail_a_few_times(shop: Site) -> None:
    shop.get("/cart")
    with fail(shop, "increment", times=1, error=StoreFull):
        answers = [shop.get("/cart", expect_errors=True).status_int for _ in range(2)]
    assert answers == [503, 200]


def test_lose_reply(shop: Site) -> None:
    """The visitor sees an error, and the write was done."""
    shop.get("/cart")
    with lose_reply(shop, "write"):
        shop.get("/cart", status=503)
    assert shop.get("/cart").json == {"n": 3}


def test_delay(shop: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    with delay(shop, seconds=0.5):
        shop.get("/cart")
    assert slept == [0.5]


def test_a_prefetch_fails(app: Any) -> None:
    """Sent or answered, a prefetch that fails is asked again by the call that needs it."""
    browser = make_browser(app)
    browser.get("/cart")
    for fault in (fail, lose_reply):
        with fault(app, "read", times=1):
            assert browser.get("/ahead").text == "None"
        with fault(app, "read"):
            browser.get("/ahead", status=503)


def test_a_prefetch_whose_reply_is_lost(app: Any) -> None:
    """Nobody takes its reply: it is dropped, so that its connection can serve others."""
    browser = make_browser(app)
    browser.get("/cart")
    with lose_reply(app, "read", times=1), round_trips(app, max=2) as sent:
        browser.get("/ahead")
    assert [step.answer for step in sent] == ["", "live"]


def test_a_fault_that_never_happens(shop: Site) -> None:
    """A plan that was not carried out shows nothing, and says so."""
    with (
        pytest.raises(AssertionError, match=r"'read' after 0; asked was:\n  1\. create increment"),
        fail(shop, "read"),
    ):
        shop.get("/cart")
    with pytest.raises(AssertionError, match=r"asked was:\n  nothing"), fail(shop, "read"):
        pass


def test_unknown_fault(shop: Site) -> None:
    with (
        pytest.raises(ValueError, match=r"wanted one of any, read, .*; got 'reed'"),
        fail(shop, "reed"),
    ):
        pass


def test_every_verb_has_a_name() -> None:
    """What a plan can be about are all verbs and steps of a session's life."""
    sample = {"verifier": "v", "nonce": b"", "after": 0, "user": "u", "tti": None, "lifetime": 0}
    parts: list[Part] = [*EVERY_VERB]
    for kind in LifeStep.__subclasses__():
        given = {n: sample[n] for n in signature(kind).parameters if n in sample}
        parts.append(kind(**given))  # type: ignore[arg-type]
    assert {"all", *[part.wire()[0].decode() for part in parts]} <= set(VERBS)


# -- the clock


def test_clock(app: Any) -> None:
    """Sessions end when the test lets their time pass, and not before."""
    browser, clock = make_browser(app), settable_clock(app)
    browser.get("/cart")
    clock.advance(1319)  # the tti and the touch_interval
    assert session_of(browser).ttl() == 1
    clock.advance(1)
    assert browser.get("/cart").json["user"] is None
    assert session_of(browser).get("visits") == 1
    assert settable_clock(app) is clock


def test_clock_starts_now(app: Any) -> None:
    before = time.time()
    assert before <= settable_clock(app).now <= time.time()
    assert Clock().now == Clock()() == 1_700_000_000.0


def test_clock_of_a_server(server: Server) -> None:
    api = SessionAPI.from_settings({"redis.url": server.url})
    with pytest.raises(TypeError, match=r"needs altsession.redis.url = memory://, got <RedisStore"):
        settable_clock(api)


# -- further sessions


@pytest.fixture
def two() -> Any:
    """An application with two sessions."""
    return main(**{"altsession.sessions": "admin"})


def test_round_trips_of_further_sessions(two: Any) -> None:
    """They count, unless the test names the utility of one."""
    browser = make_browser(two)
    sign_in(browser, "ann")
    first = two.registry.getUtility(ISessionAPI)
    admin = two.registry.getUtility(ISessionAPI, "admin")
    with round_trips(two, max=2) as sent, round_trips(first), round_trips(admin):
        browser.get("/both")
    assert [str(step) for step in sent] == ["create increment 'visits'", "read get userid"]
    with pytest.raises(AssertionError, match="2 round trips, at most 1 wanted"), round_trips(two):
        browser.get("/both")


@pytest.mark.parametrize("fault", [fail, lose_reply])
def test_faults_of_further_sessions(fault: Any, two: Any) -> None:
    """Faults count the operations of all sessions together."""
    browser = make_browser(two)
    sign_in(browser, "ann")
    browser.get("/both")
    with fault(two, "write"):
        assert browser.get("/both", status=503).status_int == 503
    with fault(two, "any", after=1):
        assert browser.get("/both", status=503).status_int == 503


def test_clock_of_further_sessions(two: Any) -> None:
    browser, clock = make_browser(two), settable_clock(two)
    browser.get("/both")
    clock.advance(1320)
    assert browser.get("/both").headers.getall("Set-Cookie")
    stores = [steer(api).store for _, api in two.registry.getUtilitiesFor(ISessionAPI)]
    assert [getattr(store, "clock", None) for store in stores] == [clock, clock]


# -- DummyRequest


def test_current() -> None:
    """A view that lists a user's sessions finds the one of its DummyRequest, inside only."""
    with testing.testConfig() as config:
        config.include("pyramid_altsession")
        session = config.testing_altsession()
        session.login("ann")
        api = config.registry.getUtility(ISessionAPI)
        api.create().login("ann")
        request = testing.DummyRequest(altsession=session)

        def current() -> list[str]:
            return [found.id for found in api.sessions_of("ann") if found.current]

        with serving(request) as served:
            assert served is request
            assert current() == [session.id]
            assert session.end_others() == 1
        assert current() == []


def test_dummy_request_without_a_session() -> None:
    """It gets that of a visitor without a cookie."""
    with testing.testConfig() as config:
        config.include("pyramid_altsession")
        config.testing_altsession()
        with serving(testing.DummyRequest()) as request, round_trips(config, max=1):
            request.altsession.set("cart", ["tea"])
            assert request.altsession.get("cart") == ["tea"]


# -- a server


def test_private_server() -> None:
    """It starts when it is used, can be emptied, and is gone afterwards, whatever is connected."""
    with private_server() as server:
        api = SessionAPI.from_settings({"redis.url": server.url})
        token = str(api.create({"a": 1}).token)
        assert api.open(token).get("a") == 1
        server.empty()
        with round_trips(api, max=2):
            assert api.open(token).exists() is False
    assert not Path(server.url.removeprefix("embedded://")).parent.exists()
    api.close()


def test_private_server_that_nobody_used() -> None:
    with private_server() as server:
        assert server.url.startswith("embedded:///")
