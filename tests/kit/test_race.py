"""The explorer of interleavings, on sample views with and without a race."""

import pickle
import re
from collections.abc import Callable
from threading import Lock
from typing import Any

import pytest
from apps import site
from pyramid.config import Configurator
from pyramid.request import Request
from servers import Server
from webtest import TestApp, TestResponse

from pyramid_altsession import ISessionAPI
from pyramid_altsession.testing import (
    RaceFound,
    make_browser,
    race,
    races,
    session_of,
    sign_in,
    steer,
)
from pyramid_altsession.testing.steering import api_of

# -- a shop with one planted fault


def get_then_set(request: Request) -> dict[str, Any]:
    """The planted one: what somebody else adds between the two calls is lost."""
    sold = request.altsession.get("sold", 0)
    request.altsession.set("sold", sold + 1)
    return {}


def by_increment(request: Request) -> dict[str, Any]:
    return {"sold": request.altsession.increment("sold")}


def by_modify(request: Request) -> dict[str, Any]:
    return {"sold": request.altsession.modify("sold", lambda sold: sold + 1, 0)}


def log_out(request: Request) -> dict[str, Any]:
    request.altsession.logout()
    return {}


def untouched(request: Request) -> dict[str, Any]:
    return {}


def look(request: Request) -> dict[str, Any]:
    return {"sold": request.altsession.get("sold")}


def erring(request: Request) -> dict[str, Any]:
    raise ZeroDivisionError(request.altsession.get("sold"))


def end_by_id(request: Request) -> dict[str, Any]:
    """End the user's other sessions, one by one."""
    api = request.registry.getUtility(ISessionAPI)
    found = [each.id for each in api.sessions_of("ann") if not each.current]
    return {"ended": [api.invalidate_id(id, "ann") for id in found]}


def log_in(request: Request) -> dict[str, Any]:
    request.altsession.login("ann")
    return {}


VIEWS = (
    *(get_then_set, by_increment, by_modify, log_out, untouched, look, erring, end_by_id, log_in),
)


def shop(url: str = "memory://", **settings: str) -> Any:
    named = {f"altsession.session.{name}": value for name, value in settings.items()}
    return site(url, {view.__name__: view for view in VIEWS}, settings=named).app


def ann(app: Any) -> TestApp:
    browser = make_browser(app)
    sign_in(browser, "ann")
    return browser


def get(path: str) -> Callable[[TestApp], TestResponse]:
    return lambda browser: browser.get(path)


def both_sold(browser: TestApp, *answers: TestResponse) -> None:
    assert session_of(browser).get("sold") == len(answers)


def all_counted(browser: TestApp, *answers: TestResponse) -> None:
    """Of the further session: two requests, and one of setup."""
    api = browser.app.registry.getUtility(ISessionAPI, "admin")
    assert api.open(browser.cookies["sid_admin"]).get("sold") == 3


def test_lost_update_is_found() -> None:
    """A view that gets, then sets, loses an update; the message has the interleaving, and its
    schedule runs it again."""
    app = shop()
    buy = get("/get_then_set")
    with pytest.raises(RaceFound) as caught:
        race(buy, buy, setup=lambda: ann(app), check=both_sold)
    found = caught.value
    assert found.steps == [
        "A: read get 'sold'",
        "B: read get 'sold'",
        "A: write set 'sold'",
        "B: write set 'sold'",
    ]
    assert found.schedule == "ABAB"
    assert str(found).startswith("AssertionError: assert 1 == 2")
    assert "\n  B: read get 'sold'\n" in str(found)
    assert 'race(…, schedule="ABAB")' in str(found)
    assert str(pickle.loads(pickle.dumps(found))) == str(found)  # from another process
    with pytest.raises(RaceFound) as again:
        race(buy, buy, setup=lambda: ann(app), check=both_sold, schedule="ABAB")
    assert again.value.steps == found.steps
    assert race(buy, buy, setup=lambda: ann(app), check=both_sold, schedule="AABB") == ["AABB"]


@pytest.mark.parametrize("path", ["/by_increment", "/by_modify"])
def test_no_lost_update(path: str) -> None:
    """With increment, or with modify, nothing is lost in any interleaving."""
    app = shop()
    tried = race(get(path), get(path), setup=lambda: ann(app), check=both_sold)
    assert len(set(tried)) == len(tried)
    assert len(tried) == (2 if path == "/by_increment" else 6)


def test_on_a_server(server: Server) -> None:
    """The same, on a server."""
    app = shop(server.url)
    buy = get("/get_then_set")
    with pytest.raises(RaceFound):
        race(buy, buy, setup=lambda: ann(app), check=both_sold)
    assert len(race(*[get("/by_increment")] * 3, setup=lambda: ann(app), check=both_sold)) == 6


def test_every_interleaving() -> None:
    """Of two requests with two operations each there are six."""
    app = shop()
    tried = race(
        get("/get_then_set"), get("/get_then_set"), setup=lambda: ann(app), check=lambda *_: None
    )
    assert sorted(tried) == ["AABB", "ABAB", "ABBA", "BAAB", "BABA", "BBAA"]


def test_two_browsers_and_a_logout() -> None:
    """Requests of two browsers; a logout in one does not harm the other."""
    app = shop()

    def check(browsers: list[TestApp], bought: TestResponse, left: TestResponse) -> None:
        assert bought.json == {"sold": 1}
        assert left.json == {}
        assert session_of(browsers[0]).userid() == "ann"

    tried = race(
        lambda browsers: browsers[0].get("/by_increment"),
        lambda browsers: browsers[1].get("/log_out"),
        setup=lambda: [ann(app), ann(app)],
        check=check,
    )
    assert len(tried) == 2


def test_views_that_end_sessions_by_id() -> None:
    """Each run has other ids, and explores the same."""

    def check(browsers: list[TestApp], left: TestResponse, bought: TestResponse) -> None:
        assert left.json == {"ended": [True]}

    def setup() -> list[TestApp]:
        app = shop()
        return [ann(app), ann(app)]

    tried = race(
        lambda browsers: browsers[0].get("/end_by_id"),
        lambda browsers: browsers[1].get("/by_increment", status="*"),
        setup=setup,
        check=check,
    )
    assert tried == ["AAABB", "AABA", "ABAA", "BAAA"]


def test_a_login_that_ends_the_oldest_session() -> None:
    """Among those that a login may end it draws some at random."""
    app = shop(max_sessions_per_user="1")

    def check(browsers: list[TestApp], *answers: TestResponse) -> None:
        assert [each.userid for each in api_of(app).sessions_of("ann")] == ["ann"]

    tried = race(
        lambda browsers: browsers[0].get("/log_in"),
        lambda browsers: browsers[1].get("/by_increment", status="*"),
        setup=lambda: [make_browser(app), ann(app)],
        check=check,
    )
    assert len(tried) > 2


def test_more_sessions_than_in_the_run_before() -> None:
    """A user's sessions that setup leaves behind make runs differ."""
    app = shop()
    with pytest.raises(RuntimeError, match=r"race: A: users describe .* in 'AA', and another one"):
        race(
            lambda browsers: browsers[0].get("/end_by_id"),
            lambda browsers: browsers[1].get("/by_increment", status="*"),
            setup=lambda: [ann(app), ann(app)],
            check=lambda *_: None,
        )


def test_a_further_session() -> None:
    """Its operations are interleaved as well."""

    def count(request: Request) -> dict[str, Any]:
        session = request.altsession_admin
        session.set("sold", session.get("sold", 0) + 1)
        return {}

    app = site("memory://", {"count": count}, settings={"altsession.sessions": "admin"}).app

    def setup() -> TestApp:
        browser = make_browser(app)
        browser.get("/count")
        return browser

    with pytest.raises(RaceFound, match=r"(?s)assert 2 == 3.*schedule=\"ABAB\""):
        race(get("/count"), get("/count"), setup=setup, check=all_counted)


def test_a_request_that_fails() -> None:
    """An error that a request raises breaks the run: here the 409 that WebTest raises for."""
    app = shop()
    with pytest.raises(RaceFound) as caught:
        race(get("/get_then_set"), get("/log_out"), setup=lambda: ann(app), check=lambda *_: None)
    assert "AppError: Bad response: 409" in str(caught.value)
    assert caught.value.schedule == "ABA"
    with pytest.raises(RaceFound, match=r"ZeroDivisionError: None"):
        race(get("/erring"), get("/log_out"), setup=lambda: ann(app), check=lambda *_: None)


def call(app: Any, path: str, cookie: str) -> str:
    """A request to a plain WSGI application."""
    environ = TestApp(app).get("/untouched").request.environ
    answer: list[str] = []
    environ |= {"PATH_INFO": path, "HTTP_COOKIE": cookie}
    b"".join(app(environ, lambda status, headers, exc_info=None: answer.append(status)))
    return answer[0]


def test_plain_wsgi() -> None:
    """WebTest is not needed: anything that calls the application will do."""
    app = shop()

    def setup() -> str:
        steer(app)
        return f"sid={api_of(app).create({'sold': 0}).token}"

    def check(cookie: str, *answers: str) -> None:
        assert answers == ("200 OK", "200 OK")
        assert api_of(app).open(cookie.removeprefix("sid=")).get("sold") == 2

    def buy(path: str) -> Callable[[str], str]:
        return lambda cookie: call(app, path, cookie)

    assert len(race(buy("/by_increment"), buy("/by_increment"), setup=setup, check=check)) == 2
    with pytest.raises(RaceFound, match=r"assert 1 == 2"):
        race(buy("/get_then_set"), buy("/by_increment"), setup=setup, check=check)


# -- where it shows nothing, it says so


def test_a_request_without_operations() -> None:
    app = shop()
    with pytest.raises(RuntimeError, match=r"request B asked nothing of a session, or its"):
        race(get("/by_increment"), get("/untouched"), setup=lambda: ann(app), check=print)


def test_an_application_that_is_unknown() -> None:
    app = shop()
    cookie = f"sid={api_of(app).create({'sold': 0}).token}"

    def buy(_: None) -> str:
        return call(app, "/by_increment", cookie)

    with pytest.raises(RuntimeError, match=re.escape("call steer(app), or make_browser(app)")):
        race(buy, buy, setup=lambda: None, check=print)


def test_runs_that_differ() -> None:
    """A state that setup does not make anew cannot be explored."""
    app = shop()
    left = ["/get_then_set"]

    def other(browser: TestApp) -> TestResponse:
        return browser.get(left.pop(0) if left else "/by_increment")

    with pytest.raises(
        RuntimeError, match=r"race: A: write increment 'sold' in 'A', and another one"
    ):
        race(other, get("/by_increment"), setup=lambda: ann(app), check=lambda *_: None)


def test_more_than_the_limit() -> None:
    app = shop()
    buy = get("/get_then_set")
    with pytest.raises(RuntimeError, match=r"more than 5 orders"):
        race(buy, buy, setup=lambda: ann(app), check=lambda *_: None, limit=5)


@pytest.mark.parametrize("number", [0, 1, 27])
def test_number_of_requests(number: int) -> None:
    with pytest.raises(TypeError, match=f"wanted 2 to 26 requests, got {number}"):
        race(*[get("/")] * number, setup=lambda: None, check=print)


def test_requests_that_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that waits for what another one holds is no hang but an error, after a while."""
    monkeypatch.setattr(races, "PATIENCE", 0.2)
    row = Lock()

    def locked(request: Request) -> dict[str, Any]:
        with row:
            return {"sold": request.altsession.increment("sold")}

    app = site("memory://", {"locked": locked}).app
    with pytest.raises(
        RuntimeError, match=r"request B came to no operation .* its beginning; does"
    ):
        race(get("/locked"), get("/locked"), setup=lambda: ann(app), check=print)


def test_later_operations_of_an_abandoned_request() -> None:
    """A request that goes on after its run is over does nothing more."""
    seen: list[object] = []

    def stubborn(request: Request) -> dict[str, Any]:
        for _ in range(2):
            try:
                seen.append(request.altsession.increment("sold"))
            except BaseException as error:
                seen.append(type(error).__name__)
        return {}

    def configure(config: Configurator) -> None:
        config.add_route("untouched", "/untouched")
        config.add_view(untouched, route_name="untouched", renderer="json")

    app = site("memory://", {"stubborn": stubborn}, configure=configure).app
    with pytest.raises(RuntimeError, match=r"request B asked nothing"):
        race(get("/stubborn"), get("/untouched"), setup=lambda: ann(app), check=print)
    assert seen == ["_Abandoned", "_Abandoned"]


def test_schedule_of_another_race() -> None:
    """A schedule that does not fit is an error, which says where it does not."""
    app = shop()
    buy = get("/by_increment")
    with pytest.raises(RuntimeError, match=r"schedule='AAB' .*: request A was over after 'A'$"):
        race(buy, buy, setup=lambda: ann(app), check=both_sold, schedule="AAB")


@pytest.mark.parametrize("schedule", ["AXB", "ABC", "aabb", "A B"])
def test_schedule_of_other_requests(schedule: str) -> None:
    """A letter that stands for no request is an error before anything runs."""
    app = shop()
    buy = get("/by_increment")
    with pytest.raises(ValueError, match=f"schedule='{schedule}' must have one letter of AB for"):
        race(buy, buy, setup=lambda: ann(app), check=both_sold, schedule=schedule)


def test_schedule_with_letters_left_over() -> None:
    """A schedule that names more operations than there were is an error: it ran another order."""
    app = shop()
    buy = get("/by_increment")
    with pytest.raises(RuntimeError, match=r"schedule='ABAB'.* over after 'AB'"):
        race(buy, buy, setup=lambda: ann(app), check=both_sold, schedule="ABAB")


def test_fewer_operations_than_in_the_run_before() -> None:
    """Requests that ask less than before are noticed, even if the rest is the same."""
    app = shop()
    paths = ["/get_then_set"] * 4 + ["/look"] * 2

    def buy_or_look(browser: TestApp) -> TestResponse:
        return browser.get(paths.pop(0))

    with pytest.raises(RuntimeError, match=r"race: no operation of B in 'AB', and another one"):
        race(buy_or_look, buy_or_look, setup=lambda: ann(app), check=lambda *_: None)
    assert paths == []
