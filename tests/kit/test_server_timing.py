"""The header Server-Timing."""

import re

import pytest
from apps import Site, site
from pyramid.request import Request
from pyramid.response import Response
from servers import Server

from pyramid_altsession import ISessionAPI
from pyramid_altsession.stores.observed import ObservedStore
from pyramid_altsession.stores.traffic import Traffic


def untouched(request: Request) -> Response:
    return Response()


def used(request: Request) -> Response:
    request.altsession.set("a", 1)
    request.altsession.get("b", fresh=True)
    return Response(headerlist=[("Server-Timing", "db;dur=2")])


def nested(request: Request) -> Response:
    request.altsession.set("a", 1)
    return request.invoke_subrequest(Request.blank("/used"), use_tweens=True)


def failing(request: Request) -> Response:
    request.altsession.set("a", 1)
    raise ZeroDivisionError


def answered(request: Request) -> Response:
    request.add_response_callback(lambda request, response: request.altsession.get("late"))
    return Response()


VIEWS = {view.__name__: view for view in (untouched, used, nested, failing, answered)}


@pytest.fixture
def timed(server: Server) -> Site:
    made = site(server.url, VIEWS, settings={"altsession.server_timing": "true"})
    made.api.check()
    made.watched.operations.clear()
    return made


def timings(browser: Site, path: str) -> list[tuple[int, float]]:
    """Round trips and milliseconds of each of the package's entries in the answer."""
    found = []
    for header in browser.get(path).headers.getall("Server-Timing"):
        match = re.fullmatch(r'altsession;desc="(\d+) round trips?";dur=(\d+\.\d{3})', header)
        if match:
            found.append((int(match[1]), float(match[2])))
    return found


def test_round_trips_and_time(timed: Site) -> None:
    """The answer says how many round trips its request took, and for how long; other entries
    stay."""
    ((trips, took),) = timings(timed, "/used")
    assert trips == 2
    assert took > 0
    assert timed.get("/used").headers.getall("Server-Timing")[0] == "db;dur=2"


def test_further_sessions(server: Server) -> None:
    """The header counts what is asked of all of them."""

    def two(request: Request) -> Response:
        request.altsession.set("a", 1)
        request.altsession_admin.set("b", 2)
        return Response()

    settings = {"altsession.server_timing": "true", "altsession.sessions": "admin"}
    made = site(server.url, {"two": two}, settings=settings)
    made.api.check()
    admin = made.registry.getUtility(ISessionAPI, "admin")
    admin.check()
    assert [trips for trips, _ in timings(made, "/two")] == [2]
    admin.close()


def test_unused(timed: Site) -> None:
    """A request that leaves its session alone has no such header."""
    assert "Server-Timing" not in timed.get("/untouched").headers


def test_subrequest(timed: Site) -> None:
    """What a subrequest asks belongs to the browser's request, and is said once."""
    ((trips, _),) = timings(timed, "/nested")
    assert trips == 3


def test_late(timed: Site) -> None:
    """What response callbacks ask is counted."""
    timed.get("/used")
    ((trips, _),) = timings(timed, "/answered")
    assert trips == 1


def test_after_a_failure(timed: Site) -> None:
    """A request that failed leaves nothing to the next one in its thread."""
    with pytest.raises(ZeroDivisionError):
        timed.get("/failing")
    assert [trips for trips, _ in timings(timed, "/answered")] == []
    assert [trips for trips, _ in timings(timed, "/used")] == [2]


def test_outside_of_requests(timed: Site) -> None:
    """What is asked between requests belongs to none."""
    timed.get("/used")
    timed.api.create({"a": 1})
    assert [trips for trips, _ in timings(timed, "/used")] == [2]


def test_off(server: Server) -> None:
    """By default there is no header, no tween, and nobody observes the store."""
    made = site(server.url, VIEWS)
    assert timings(made, "/used") == []
    assert not isinstance(made.api.store, ObservedStore)
    assert Traffic.measured is False
