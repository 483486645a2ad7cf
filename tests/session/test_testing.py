"""What applications use in their own tests."""

from collections.abc import Iterator
from typing import Any

import pytest
from inside import store_in
from pyramid import testing
from pyramid.config import Configurator
from pyramid.request import Request
from webtest import TestApp

from pyramid_altsession import AltSession, IAltSession, ISessionAPI
from pyramid_altsession.events import SessionCreated
from pyramid_altsession.stores.memory import MemoryStore


def add_to_cart(request: Request) -> dict[str, Any]:
    """A view as an application has it."""
    cart = request.altsession.modify("cart", lambda cart: [*cart, "tea"], [])
    return {"cart": cart}


@pytest.fixture
def config() -> Iterator[Configurator]:
    config = testing.setUp()
    config.include("pyramid_altsession")
    yield config
    testing.tearDown()


def test_view_with_a_dummy_request(config: Configurator) -> None:
    """A view runs with a DummyRequest and a session in memory; the test sees what it stored."""
    session = config.testing_altsession({"cart": ["cup"]})
    answer = add_to_cart(testing.DummyRequest(altsession=session))
    assert answer == {"cart": ["cup", "tea"]}
    assert session.get("cart") == ["cup", "tea"]


def test_session_without_data(config: Configurator) -> None:
    """Without data the session is alive and empty."""
    session = config.testing_altsession()
    assert isinstance(session, AltSession)
    assert IAltSession.providedBy(session)
    assert (session.exists(), session.all()) == (True, {})


def test_api_of_the_registry(config: Configurator) -> None:
    """The registry's API and every later request use the same memory."""
    session = config.testing_altsession({"name": "Ann"})
    api = config.registry.getUtility(ISessionAPI)
    request = testing.DummyRequest(altsession=session)
    assert isinstance(store_in(store_in(api)), MemoryStore)
    assert api.session(request) is session
    assert api.open(session.token).get("name") == "Ann"


def test_dummy_request_gets_a_session(config: Configurator) -> None:
    """The API makes a session for a DummyRequest that was given none."""
    config.testing_altsession()
    request = testing.DummyRequest()
    session = config.registry.getUtility(ISessionAPI).session(request)
    session.set("k", 1)
    assert (session.get("k"), request.altsession is session) == (1, True)


def test_events_are_sent(config: Configurator) -> None:
    """Subscribers of the registry hear of the sessions in memory."""
    told: list[Any] = []
    config.add_subscriber(told.append, SessionCreated)
    session = config.testing_altsession()
    assert [event.id for event in told] == [session.id]


def test_settings_hold() -> None:
    """The application's settings hold for sessions in memory."""
    settings = {"altsession.session.max_value_bytes": 10}
    with testing.testConfig(settings=settings) as config:
        config.include("pyramid_altsession")
        session = config.testing_altsession()
        with pytest.raises(ValueError, match="max_value_bytes is 10"):
            session.set("k", "x" * 20)


def test_whole_application_in_memory() -> None:
    """Called on an application's own configurator, its functional tests run in memory as well,
    although a server is configured."""
    config = Configurator(settings={"altsession.redis.url": "unix:///nowhere"})
    config.include("pyramid_altsession")
    config.commit()
    session = config.testing_altsession({"cart": []})
    config.add_route("add", "/add")
    config.add_view(add_to_cart, route_name="add", renderer="json")
    app = TestApp(config.make_wsgi_app())
    cookie = {"Cookie": f"sid={session.token}"}
    assert app.get("/add", headers=cookie).json == {"cart": ["tea"]}
    assert session.get("cart", fresh=True) == ["tea"]


def test_before_the_configuration_is_committed() -> None:
    """The same holds when the include was not committed yet."""
    config = Configurator(settings={"altsession.redis.url": "unix:///nowhere"})
    config.include("pyramid_altsession")
    session = config.testing_altsession({"cart": []})
    config.add_route("add", "/add")
    config.add_view(add_to_cart, route_name="add", renderer="json")
    app = TestApp(config.make_wsgi_app())
    cookie = {"Cookie": f"sid={session.token}"}
    assert app.get("/add", headers=cookie).json == {"cart": ["tea"]}
