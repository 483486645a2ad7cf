"""What browsers see: cookies, headers, error pages, retries, subrequests; on a real server."""

import base64
import gc
import itertools
import json
import logging
import pickle
import re
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from random import Random
from typing import Any

import pytest
from apps import Browser, Site, View, cookie_of, site
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from inside import state_in
from pyramid.config import Configurator
from pyramid.events import NewResponse
from pyramid.request import Request
from pyramid.response import Response
from pyramid.scripting import prepare
from pyramid_retry import RetryableException
from servers import Server, valkey
from workers import eventually

from pyramid_altsession import CorruptValue, ISessionAPI, SessionGone, StoreUnavailable
from pyramid_altsession.events import (
    SessionCreated,
    SessionInvalidated,
    SessionRenewed,
    TokenRejected,
)
from pyramid_altsession.protocol.state import SessionState
from pyramid_altsession.protocol.steps import TooManyConflicts
from pyramid_altsession.protocol.token import Token
from pyramid_altsession.session import AltSession
from pyramid_altsession.web.tween import NAME

Make = Callable[..., Site]


@pytest.fixture(params=["plain", "retried"])
def make(request: pytest.FixtureRequest, server: Server) -> Make:
    """Makes sites on an empty server; once plainly, and once under pyramid_retry, where each
    request has a first attempt that gets hold of its session and is discarded."""

    def make(views: dict[str, View], url: str = server.url, **more: Any) -> Site:
        return site(url, views, retried=request.param == "retried", **more)

    return make


@pytest.fixture
def mortal() -> Iterator[Server]:
    """A server that the test may kill."""
    server = valkey()
    yield server
    server.stop()


def get(request: Request) -> Any:
    return request.altsession.get("name")


def put(request: Request) -> None:
    request.altsession.set("name", request.params.get("name", "Ann"))


def renew(request: Request) -> bool:
    return request.altsession.renew()


def logout(request: Request) -> bool:
    return request.altsession.invalidate()


def untouched(request: Request) -> str:
    return "hello"


BASIC: dict[str, View] = {
    "get": get,
    "put": put,
    "renew": renew,
    "logout": logout,
    "untouched": untouched,
}


def set_cookies(response: Any) -> list[str]:
    return response.headers.getall("Set-Cookie")


def keys(server: Server) -> list[str]:
    return sorted(key.decode() for key in server.client.keys("*"))


def id_of(app: Site) -> str:
    assert app.token is not None
    return app.token.partition(".")[0]


def unknown_token() -> str:
    return f"{'A' * 22}.{'B' * 43}"


# -- headers


def test_untouched_request(make: Make) -> None:
    """A request that does not use its session costs no command, and its answer says nothing."""
    app = make(BASIC)
    app.get("/put")
    with app.watched.costs(0):
        response = app.get("/untouched")
    assert sorted(response.headers) == ["Content-Length", "Content-Type"]


def test_reading_request(make: Make) -> None:
    """A request that reads says Vary: Cookie, sets no cookie and leaves caching to the view."""
    app = make(BASIC)
    app.get("/put")
    with app.watched.costs(1):
        response = app.get("/get")
    assert (response.json, response.headers["Vary"], set_cookies(response)) == ("Ann", "Cookie", [])
    assert "Cache-Control" not in response.headers


def test_first_write_sets_the_cookie(make: Make) -> None:
    """Creation sets one cookie with all its attributes, and forbids caching."""
    response = make(BASIC).get("/put")
    (header,) = set_cookies(response)
    value, *attributes = header.split("; ")
    assert re.fullmatch(r"sid=[\w-]{22}\.[\w-]{43}", value)
    assert sorted(attributes) == ["HttpOnly", "Path=/", "SameSite=Lax", "secure"]
    assert (response.headers["Cache-Control"], response.headers["Vary"]) == ("no-store", "Cookie")


def test_later_write_sets_no_cookie(make: Make) -> None:
    """A write into a live session costs one command and sets no cookie."""
    app = make(BASIC)
    app.get("/put")
    with app.watched.costs(1):
        response = app.get("/put?name=Bob")
    assert (set_cookies(response), app.get("/get").json) == ([], "Bob")


def test_renew_sets_another_cookie(make: Make) -> None:
    """renew sends one new cookie for the same id, and forbids caching."""
    app = make(BASIC)
    app.get("/put")
    old = app.token
    response = app.get("/renew")
    (header,) = set_cookies(response)
    assert cookie_of(header) == app.token != old
    assert str(old)[:22] == id_of(app)
    assert response.headers["Cache-Control"] == "no-store"
    assert app.get("/get").json == "Ann"


def test_logout_drops_the_cookie(make: Make, server: Server) -> None:
    """invalidate drops the cookie under the attributes it was set with, and forbids caching."""
    app = make(BASIC)
    app.get("/put")
    id = id_of(app)
    response = app.get("/logout")
    (header,) = set_cookies(response)
    assert header.startswith("sid=; ")
    assert {"Path=/", "secure", "HttpOnly", "SameSite=Lax", "Max-Age=0"} <= set(header.split("; "))
    assert (response.headers["Cache-Control"], app.token) == ("no-store", None)
    assert keys(server) == [f"sess:{id}"]
    assert list(server.client.hgetall(f"sess:{id}")) == [b"@x"]


def cached(said: str | None) -> View:
    def view(request: Request) -> Response:
        request.altsession.increment("n")
        response = Response("page")
        if said is None:
            response.cache_expires(3600)
        else:
            response.headers["Cache-Control"] = said
        return response

    return view


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("max-age=60", "no-store"),
        ("public, max-age=60", "no-store"),
        ("private, max-age=60", "private, max-age=60"),
        ("no-cache", "no-store"),  # a shared cache may keep it, and ask whether it still holds
        ("No-Store", "No-Store"),
    ],
)
def test_answer_with_a_cookie_is_not_shared(make: Make, said: str, expected: str) -> None:
    """An answer that sets the cookie is no-store unless its view already keeps it private."""
    app = make({"page": cached(said)})
    assert app.get("/page").headers["Cache-Control"] == expected
    assert app.get("/page").headers["Cache-Control"] == said


def test_http_cache_view(make: Make) -> None:
    """A view with http_cache that makes a session answers no-store, without Expires; once the
    session is there its caching is its own."""

    def configure(config: Configurator) -> None:
        config.add_route("cached", "/cached")
        config.add_view(put, route_name="cached", renderer="json", http_cache=3600)

    app = make({}, configure=configure)
    first, second = app.get("/cached"), app.get("/cached")
    assert (first.headers["Cache-Control"], "Expires" in first.headers) == ("no-store", False)
    assert (second.headers["Cache-Control"], "Expires" in second.headers) == ("max-age=3600", True)
    assert second.headers["Vary"] == "Cookie"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (["Accept"], ["Accept, Cookie"]),
        (["*"], ["*"]),
        (["Accept, cookie"], ["Accept, cookie"]),
        (["X-Cookie-Law"], ["X-Cookie-Law, Cookie"]),
        (["Cookie", "Accept"], ["Cookie", "Accept"]),
        (["Accept", "Accept-Language"], ["Accept, Accept-Language, Cookie"]),
    ],
    ids=str,
)
def test_vary_of_the_view_stays(make: Make, said: list[str], expected: list[str]) -> None:
    """What the view says in Vary stays, in however many headers; Cookie comes once."""

    def view(request: Request) -> Response:
        request.altsession.get("name")
        response = Response("page")
        for value in said:
            response.headers.add("Vary", value)
        return response

    assert make({"page": view}).get("/page").headers.getall("Vary") == expected


# -- the table of promises


def test_read_without_cookie(make: Make) -> None:
    """No cookie: a read gives the default, no command, no cookie."""
    app = make(BASIC)
    with app.watched.costs(0):
        response = app.get("/get")
    assert (response.json, set_cookies(response)) == (None, [])


MALFORMED = ["x", "a.b", f"{'A' * 22}.{'B' * 42}", f"{'A' * 22}.{'B' * 43}.{'C' * 43}"]


@pytest.mark.parametrize("value", MALFORMED)
def test_malformed_cookie(make: Make, value: str, server: Server) -> None:
    """A malformed cookie costs no command when read and is left alone; a write starts a session
    under a token of ours."""
    app = make(BASIC)
    app.token = value
    with app.watched.costs(0):
        assert set_cookies(app.get("/get")) == []
    with app.watched.costs(1):
        app.get("/put")
    assert app.get("/get").json == "Ann"
    assert keys(server) == [f"sess:{id_of(app)}"]


def test_forged_cookie(make: Make, server: Server) -> None:
    """With session.secret a cookie that we did not sign costs no command, even with the id and
    verifier of a live session."""
    app = make(BASIC, settings={"altsession.session.secret": "s" * 16})
    app.get("/put")
    id, verifier, signature = str(app.token).split(".")
    thief = app.other(f"{id}.{verifier}.{signature[::-1]}")
    with app.watched.costs(0):
        assert thief.get("/get").json is None
    thief.token = f"{id}.{verifier}"
    with app.watched.costs(0):
        assert thief.get("/get").json is None
    thief.get("/put?name=Eve")
    assert app.get("/get").json == "Ann"


def test_unknown_cookie(make: Make, server: Server) -> None:
    """A well-formed cookie of no session: a read costs one command, gives the default and leaves
    the cookie; a write starts a session under another token with two."""
    app = make(BASIC)
    app.token = unknown_token()
    with app.watched.costs(1):
        response = app.get("/get")
    assert (response.json, set_cookies(response)) == (None, [])
    with app.watched.costs(2):
        app.get("/put")
    assert app.token != unknown_token()
    assert keys(server) == [f"sess:{id_of(app)}"]


def end_under(way: str) -> View:
    """A view whose session another request ends half-way."""

    def view(request: Request) -> Any:
        session = request.altsession
        session.get("name")
        other = request.registry.getUtility(ISessionAPI).open(request.cookies["sid"])
        getattr(other, way)()
        if request.params["then"] == "set":
            session.set("name", "Eve")
        return session.get("other", "default")

    return view


@pytest.mark.parametrize("way", ["renew", "invalidate"])
@pytest.mark.parametrize("then", ["get", "set"])
def test_gone_under_the_request(make: Make, server: Server, way: str, then: str) -> None:
    """Seen alive and then renewed or ended by another request: 409 for reads and writes, no
    cookie, and nothing comes back."""
    app = make(BASIC | {"slow": end_under(way)})
    app.get("/put")
    before = keys(server)
    response = app.get(f"/slow?then={then}", status=409)
    assert set_cookies(response) == []
    assert keys(server) == before
    assert b"Eve" not in b"".join(server.client.hgetall(before[0]).values())


@pytest.mark.parametrize("way", ["renew", "logout"])
def test_cookie_replaced_just_now(make: Make, server: Server, way: str) -> None:
    """With a cookie renewed or invalidated within gone_window by another request reads find
    nothing, and a write is 409: never a new session, never a cookie."""
    app = make(BASIC)
    app.get("/put")
    slow = app.other()
    app.get(f"/{way}")
    before = keys(server)
    assert slow.get("/get").json is None
    response = slow.get("/put", status=409)
    assert (set_cookies(response), keys(server)) == ([], before)


def test_logout_with_a_renewed_cookie(make: Make) -> None:
    """invalidate with a cookie renewed within the window is 409: the logout did not happen, and
    the cookie stays."""
    app = make(BASIC)
    app.get("/put")
    slow = app.other()
    app.get("/renew")
    assert set_cookies(slow.get("/logout", status=409)) == []
    assert app.get("/get").json == "Ann"


def test_wrong_verifier(make: Make, server: Server) -> None:
    """A wrong verifier is one without a session, and harms nothing."""
    app = make(BASIC)
    app.get("/put")
    thief = app.other(f"{id_of(app)}.{'B' * 43}")
    assert thief.get("/get").json is None
    thief.get("/put?name=Eve")
    thief.get("/logout")
    assert app.get("/get").json == "Ann"


def test_token_counts_in_the_cookie_alone(make: Make) -> None:
    """A token in the URL, a form or another header is none, and nothing is asked for it."""
    app = make(BASIC)
    app.get("/put")
    token = str(app.token)
    stranger = app.other("")
    with app.watched.costs(0):
        found = [
            stranger.get(f"/get?sid={token}").json,
            stranger.post("/get", {"sid": token}).json,
            stranger.get("/get", headers={"sid": token, "Authorization": f"Bearer {token}"}).json,
        ]
    assert found == [None, None, None]


def test_logout_without_cookie(make: Make) -> None:
    """invalidate without a cookie is no error and drops none."""
    assert set_cookies(make(BASIC).get("/logout")) == []


def test_logout_twice(make: Make) -> None:
    """A second invalidate within the window is no error and leaves the cookie alone, as a newer
    login may just have set it; outside the window the dead cookie is dropped."""
    app = make(BASIC)
    app.get("/put")
    slow = app.other()
    app.get("/logout")
    response = slow.get("/logout")
    assert (response.json, set_cookies(response)) == (False, [])
    slow.token = unknown_token()
    response = slow.get("/logout")
    assert (response.json, len(set_cookies(response))) == (False, 1)
    assert slow.token is None


def test_logout_and_write(make: Make, server: Server) -> None:
    """invalidate and set in one request: one cookie, that of the new session."""

    def view(request: Request) -> None:
        request.altsession.invalidate()
        request.altsession.set("name", "new")

    app = make(BASIC | {"both": view})
    app.get("/put")
    old = id_of(app)
    (header,) = set_cookies(app.get("/both"))
    assert cookie_of(header) == app.token
    assert id_of(app) != old
    assert app.get("/get").json == "new"


def test_server_full(make: Make, server: Server) -> None:
    """On a full server a write is 503; reads, touches and logout still work."""
    app = make(BASIC)
    app.get("/put")
    server.client.config_set("maxmemory", "1")
    try:
        assert app.get("/put?name=Bob", status=503).headers["Retry-After"] == "2"
        assert app.get("/get").json == "Ann"
        assert app.get("/logout").json is True
    finally:
        server.client.config_set("maxmemory", "0")
    assert app.get("/get").json is None


def test_corrupt_value(make: Make, server: Server) -> None:
    """A corrupt key is an error of that key alone."""

    def broken(request: Request) -> Any:
        try:
            return request.altsession.get("name")
        except ValueError as error:
            return [str(error), request.altsession.get("other", "fine")]

    app = make(BASIC | {"broken": broken})
    app.get("/put")
    server.client.hset(f"sess:{id_of(app)}", "name", "{")
    assert app.get("/broken").json == ["the value stored under 'name' is not JSON", "fine"]


# -- a cookie sent twice


@pytest.mark.parametrize("place", [0, 1, 2])
def test_whichever_cookie_is_live(make: Make, place: int) -> None:
    """Of up to three cookies of one name the live one serves, in any order; one packet asks, and
    where the first call is a write, one packet more."""
    app = make(BASIC)
    app.get("/put")
    values = [f"{letter * 22}.{'B' * 43}" for letter in "CD"]
    values.insert(place, str(app.token))
    header = {"Cookie": "; ".join(f"sid={value}" for value in values)}
    browser = app.other(unknown_token())
    browser.reset()
    with app.watched.costs(1):
        assert browser.get("/get", headers=header).json == "Ann"
    with app.watched.costs(2):
        assert set_cookies(browser.get("/put?name=Bob", headers=header)) == []
    assert app.get("/get").json == "Bob"


def test_three_cookies_at_most(make: Make) -> None:
    """A fourth cookie of the name is not looked at."""
    app = make(BASIC)
    app.get("/put")
    values = [f"{letter * 22}.{'B' * 43}" for letter in "CDE"]
    header = {"Cookie": "; ".join(f"sid={value}" for value in [*values, app.token])}
    browser = app.other(unknown_token())
    browser.reset()
    assert browser.get("/get", headers=header).json is None


# -- after the response callbacks


def late(act: Callable[[AltSession], object], early: Callable[[AltSession], object]) -> View:
    def view(request: Request) -> Response:
        early(request.altsession)

        def body() -> Iterator[bytes]:
            act(request.altsession)
            yield b"done"

        return Response(app_iter=body(), content_type="text/plain")

    return view


def test_creating_in_app_iter(make: Make, server: Server) -> None:
    """A session first made while the body is sent is a RuntimeError: its cookie would be lost."""
    app = make({"late": late(lambda s: s.set("k", 1), lambda s: s.get("k"))})
    with pytest.raises(RuntimeError, match="response callbacks"):
        app.get("/late")
    assert keys(server) == []


def test_creating_in_app_iter_at_first_use(make: Make, server: Server) -> None:
    """The same holds when the body is the first to use the session at all."""

    def view(request: Request) -> Response:
        def body() -> Iterator[bytes]:
            request.altsession.set("k", 1)
            yield b"done"

        return Response(app_iter=body(), content_type="text/plain")

    app = make({"late": view})
    with pytest.raises(RuntimeError, match="response callbacks"):
        app.get("/late")
    assert keys(server) == []


def test_renewing_in_app_iter(make: Make) -> None:
    """renew while the body is sent is a RuntimeError, and the session stays as it is."""
    app = make(BASIC | {"late": late(lambda s: s.renew(), lambda s: s.get("name"))})
    app.get("/put")
    with pytest.raises(RuntimeError, match="response callbacks"):
        app.get("/late")
    assert app.get("/get").json == "Ann"


def test_writing_in_app_iter(make: Make) -> None:
    """A live session can be written while the body is sent."""
    app = make(BASIC | {"late": late(lambda s: s.set("name", "late"), lambda s: s.id)})
    app.get("/put")
    app.get("/late")
    assert app.get("/get").json == "late"


def test_creating_in_new_response(make: Make, server: Server) -> None:
    """A session made by a NewResponse subscriber is a RuntimeError."""

    def subscriber(event: NewResponse) -> None:
        event.request.altsession.set("k", 1)

    app = make(BASIC, configure=lambda config: config.add_subscriber(subscriber, NewResponse))
    with pytest.raises(RuntimeError, match="response callbacks"):
        app.get("/untouched")
    assert keys(server) == []


@pytest.mark.parametrize("uses", [True, False])
def test_response_callback_may_use_the_session(make: Make, uses: bool) -> None:
    """A response callback, registered late, may make the session; the answer carries it."""

    def view(request: Request) -> None:
        if uses:
            request.altsession.get("name")
        request.add_response_callback(first)

    def first(request: Request, response: Response) -> None:
        request.add_response_callback(second)

    def second(request: Request, response: Response) -> None:
        request.altsession.set("name", "callback")

    app = make(BASIC | {"page": view})
    assert len(set_cookies(app.get("/page"))) == 1
    assert app.get("/get").json == "callback"


def late_tween(handler: Any, registry: Any) -> Any:
    def tween(request: Request) -> Response:
        response = handler(request)
        request.altsession.set("name", "tween")
        return response

    return tween


def test_a_tween_above_may_be_the_first_to_use_the_session(make: Make) -> None:
    """A tween above this package's may make the session, after a view that left it alone and added
    no response callback; the answer carries it."""
    app = make(
        BASIC, configure=lambda config: config.add_tween(f"{__name__}.late_tween", over=NAME)
    )
    assert len(set_cookies(app.get("/untouched"))) == 1
    assert app.get("/get").json == "tween"


# -- pyramid_retry


def attempts(first: View, second: View) -> View:
    """A view whose first attempt does one thing and is discarded, and whose second another."""

    def view(request: Request) -> Any:
        if request.environ["retry.attempt"] == 0:
            first(request)
            raise RetryableException
        return second(request)

    return view


def retrying(server: Server, view: View, *, rendered: bool = False, settings: Any = None) -> Site:
    """A site under pyramid_retry. ``rendered``: a catch-all exception view renders the first
    attempt's error, so that its response callbacks run as well."""

    def configure(config: Configurator) -> None:
        config.include("pyramid_retry")
        if rendered:
            config.add_exception_view(lambda error, request: Response(status=500))

    return site(server.url, BASIC | {"page": view}, configure=configure, settings=settings)


@pytest.fixture(params=[False, True], ids=["raised", "rendered"])
def retry(request: pytest.FixtureRequest, server: Server) -> Callable[[View], Site]:
    return lambda view: retrying(server, view, rendered=request.param)


def test_second_attempt_goes_on(retry: Callable[[View], Site], server: Server) -> None:
    """A session made by a discarded attempt is the next attempt's; the answer carries it once."""
    app = retry(attempts(put, lambda request: [get(request), put(request)]))
    response = app.get("/page")
    assert (response.json, len(set_cookies(response))) == (["Ann", None], 1)
    assert keys(server) == [f"sess:{id_of(app)}"]
    assert app.get("/get").json == "Ann"


def test_second_attempt_without_session(retry: Callable[[View], Site]) -> None:
    """The answer carries the cookie although the second attempt does not use the session."""
    app = retry(attempts(put, untouched))
    assert len(set_cookies(app.get("/page"))) == 1
    assert app.get("/get").json == "Ann"


def test_second_attempt_reads_anew(retry: Callable[[View], Site]) -> None:
    """What a discarded attempt has read is not remembered."""
    app = retry(attempts(get, get))
    app.get("/put")
    with app.watched.costs(2):
        assert app.get("/page").json == "Ann"


def test_renewed_by_a_discarded_attempt(retry: Callable[[View], Site]) -> None:
    """renew in a discarded attempt: the next one goes on under the new verifier, and the answer
    carries it."""
    app = retry(attempts(renew, get))
    app.get("/put")
    old = app.token
    assert app.get("/page").json == "Ann"
    assert app.token != old
    assert app.get("/get").json == "Ann"


def sign_in(request: Request) -> list[Any]:
    request.altsession.login("ann")
    return [request.altsession.userid(), get(request)]


def test_signed_in_by_a_discarded_attempt(retry: Callable[[View], Site]) -> None:
    """login in a discarded attempt: the next one goes on in the same session, with what was in
    it, or signs in once more; the answer carries the last cookie, once."""
    for second in (lambda r: [r.altsession.userid(), get(r)], sign_in):
        app = retry(attempts(sign_in, second))
        app.get("/put")
        old = str(app.token)
        response = app.get("/page")
        assert (response.json, len(set_cookies(response))) == (["ann", "Ann"], 1)
        assert (id_of(app), app.token == old) == (old.partition(".")[0], False)
        assert (app.get("/get").json, app.other(old).get("/get").json) == ("Ann", None)


def test_invalidated_by_a_discarded_attempt(retry: Callable[[View], Site]) -> None:
    """invalidate in a discarded attempt: the next one finds nothing, and the cookie is dropped."""
    app = retry(attempts(logout, lambda request: [get(request), logout(request)]))
    app.get("/put")
    assert app.get("/page").json == [None, False]
    assert app.token is None


def test_invalidated_and_started_anew(retry: Callable[[View], Site]) -> None:
    """invalidate in a discarded attempt, set in the next: one cookie, the new session's."""
    app = retry(attempts(logout, put))
    app.get("/put?name=old")
    old = id_of(app)
    assert len(set_cookies(app.get("/page"))) == 1
    assert (id_of(app) != old, app.get("/get").json) == (True, "Ann")


def test_gone_stays_gone(retry: Callable[[View], Site]) -> None:
    """A session that ended under a discarded attempt is gone for the next one too."""

    def first(request: Request) -> None:
        request.altsession.get("name")
        request.registry.getUtility(ISessionAPI).invalidate_id(request.altsession.id)
        with pytest.raises(SessionGone):
            request.altsession.get("other")

    app = retry(attempts(first, put))
    app.get("/put")
    assert set_cookies(app.get("/page", status=409)) == []


@pytest.mark.parametrize("rendered", [False, True])
def test_attempts_without_the_tween(server: Server, rendered: bool) -> None:
    """Under an explicit pyramid.tweens a further attempt may still make and renew sessions."""
    tweens = {"pyramid.tweens": "pyramid.tweens.excview_tween_factory"}
    app = retrying(server, attempts(get, put), rendered=rendered, settings=tweens)
    assert len(set_cookies(app.get("/page"))) == 1
    assert app.get("/get").json == "Ann"


# -- subrequests


def sub(path: str, how: str, use_tweens: bool) -> View:
    """A view that answers with its subrequest's answer."""

    def view(request: Request) -> Any:
        if request.params.get("first"):
            getattr(request.altsession, request.params["first"])("before", 1)
        if how == "copy":
            inner = request.copy()
            inner.path_info = path
        else:
            inner = Request.blank(path, base_url="https://localhost")
            if how == "cookie" and "Cookie" in request.headers:
                inner.headers["Cookie"] = request.headers["Cookie"]
        response = request.invoke_subrequest(inner, use_tweens=use_tweens)
        return [response.json, len(set_cookies(response))]

    return view


SUBREQUESTS = [
    pytest.param(how, tweens, id=f"{how}-{'tweens' if tweens else 'bare'}")
    for how in ("cookie", "copy")
    for tweens in (True, False)
]
subrequests = pytest.mark.parametrize(("how", "use_tweens"), SUBREQUESTS)


@pytest.mark.parametrize("use_tweens", [True, False])
@pytest.mark.parametrize("first", ["", "?first=get", "?first=set"])
def test_session_made_in_a_subrequest(
    make: Make, server: Server, use_tweens: bool, first: str
) -> None:
    """A session made in a copy of the request of a visitor without a cookie is carried by the
    outermost answer, once, and only by it."""
    app = make(BASIC | {"page": sub("/put", "copy", use_tweens)})
    response = app.get(f"/page{first}")
    assert response.json == [None, 0]
    assert len(set_cookies(response)) == 1
    assert response.headers["Vary"] == "Cookie"
    assert keys(server) == [f"sess:{id_of(app)}"]
    assert app.get("/get").json == "Ann"


@pytest.mark.parametrize("use_tweens", [True, False])
@pytest.mark.parametrize("first", ["", "?first=get", "?first=set"])
def test_subrequest_without_a_cookie(make: Make, use_tweens: bool, first: str) -> None:
    """A subrequest without a cookie has no part in the session of a visitor without one: what it
    makes goes with its own answer."""
    app = make(BASIC | {"page": sub("/put?name=Bob", "cookie", use_tweens)})
    response = app.get(f"/page{first}")
    made = len(set_cookies(response))
    assert (response.json, made) == ([None, 1], first == "?first=set")
    assert app.get("/get").json is None


@pytest.mark.slow
@subrequests
@pytest.mark.parametrize("first", ["", "?first=get", "?first=set"])
def test_session_used_in_a_subrequest(make: Make, how: str, use_tweens: bool, first: str) -> None:
    """A subrequest with the same cookie has the same session; renewed there, the outermost answer
    carries the new cookie."""
    app = make(
        BASIC | {"read": sub("/get", how, use_tweens), "renewing": sub("/renew", how, use_tweens)}
    )
    app.get("/put")
    assert app.get(f"/read{first}").json == ["Ann", 0]
    response = app.get(f"/renewing{first}")
    assert (response.json, len(set_cookies(response))) == ([True, 0], 1)
    assert app.get("/get").json == "Ann"


@subrequests
def test_login_and_logout_in_a_subrequest(make: Make, how: str, use_tweens: bool) -> None:
    """A subrequest that signs in, or out, does so for the visitor: the outermost answer carries
    the new cookie, or drops it, once, and that alone."""
    views = {"in": sub("/login", how, use_tweens), "out": sub("/logout", how, use_tweens)}
    app = make(BASIC | {"login": sign_in} | views)
    app.get("/put")
    old = app.token
    response = app.get("/in")
    assert (response.json, len(set_cookies(response))) == ([["ann", "Ann"], 0], 1)
    assert (app.get("/get").json, app.other(old).get("/get").json) == ("Ann", None)
    response = app.get("/out")
    assert (response.json, len(set_cookies(response)), app.token) == ([True, 0], 1, None)


@pytest.mark.parametrize("use_tweens", [True, False])
def test_subrequest_with_another_cookie(make: Make, use_tweens: bool) -> None:
    """A subrequest without the visitor's cookie is another visitor: what it makes goes with its
    own answer, and the outer session is not in it."""
    app = make(BASIC | {"page": sub("/put?name=Bob", "none", use_tweens)})
    app.get("/put")
    token = app.token
    response = app.get("/page")
    assert (response.json, set_cookies(response)) == ([None, 1], [])
    assert (app.token, app.get("/get").json) == (token, "Ann")


@pytest.mark.parametrize("use_tweens", [True, False])
def test_subrequest_that_fails(make: Make, use_tweens: bool) -> None:
    """A session made in a subrequest that fails afterwards is still the visitor's."""

    def failing(request: Request) -> None:
        put(request)
        raise ZeroDivisionError

    def view(request: Request) -> Any:
        with suppress(ZeroDivisionError):
            inner = request.copy()
            inner.path_info = "/failing"
            request.invoke_subrequest(inner, use_tweens=use_tweens)
        return get(request)

    app = make(BASIC | {"failing": failing, "page": view})
    assert app.get("/page").json == "Ann"
    assert app.get("/get").json == "Ann"


@pytest.mark.parametrize("use_tweens", [True, False])
def test_the_same_request_again(make: Make, use_tweens: bool) -> None:
    """A view that hands its own request on, with another path, gets one answer with one cookie."""

    def view(request: Request) -> Any:
        request.path_info = "/put"
        return request.invoke_subrequest(request, use_tweens=use_tweens)

    app = make(BASIC | {"page": view})
    assert len(set_cookies(app.get("/page"))) == 1
    assert app.get("/get").json == "Ann"


def test_request_beside_the_router(make: Make) -> None:
    """A request that pyramid.scripting prepared, as test fixtures and shells do, is no outer
    request of those that the application serves meanwhile."""
    app = make(BASIC)
    with prepare(registry=app.registry) as env:
        env["request"].altsession.get("name")
        assert len(set_cookies(app.get("/put"))) == 1
    assert app.get("/get").json == "Ann"


def test_session_of_a_request(make: Make) -> None:
    """ISessionAPI.session(request) is request.altsession itself, asked for in either order."""

    def view(request: Request) -> bool:
        api = request.registry.getUtility(ISessionAPI)
        return api.session(request) is request.altsession is api.session(request)

    assert make({"page": view}).get("/page").json is True


# -- an explicit pyramid.tweens


@pytest.fixture
def tweens(make: Make, request: pytest.FixtureRequest) -> dict[str, object]:
    """A list of tweens without ours."""
    retried = request.node.callspec.params["make"] == "retried"
    names = ["pyramid.tweens.excview_tween_factory", *["apps.discard_first_attempt"] * retried]
    return {"pyramid.tweens": "\n".join(names)}


def test_explicit_tweens(make: Make, tweens: dict[str, object]) -> None:
    """With pyramid.tweens listed without ours, cookies are set and dropped all the same."""
    app = make(BASIC, settings=tweens)
    response = app.get("/put")
    assert (len(set_cookies(response)), response.headers["Vary"]) == (1, "Cookie")
    app.get("/renew")
    assert app.get("/get").json == "Ann"
    assert set_cookies(app.get("/untouched")) == []
    app.get("/logout")
    assert app.token is None


def test_explicit_tweens_and_subrequests(make: Make, tweens: dict[str, object]) -> None:
    """With pyramid.tweens listed without ours a subrequest's session is one of its own, which
    goes with its own answer."""
    app = make(BASIC | {"page": sub("/put?name=Bob", "cookie", False)}, settings=tweens)
    response = app.get("/page")
    assert (response.json, set_cookies(response)) == ([None, 1], [])
    app.get("/put")
    assert (app.get("/page").json, app.get("/get").json) == ([None, 0], "Bob")


# -- errors as pages


def fails(error: Exception) -> View:
    def view(request: Request) -> None:
        raise error

    return view


ACCEPTS = [
    ("text/html", "text/html"),
    ("application/json", "application/json"),
    ("text/plain", "text/plain"),
    ("image/png", "text/plain"),
]


@pytest.mark.parametrize(("accept", "content_type"), ACCEPTS)
def test_gone_page(make: Make, accept: str, content_type: str) -> None:
    """SessionGone renders as 409 in the form the client accepts, with no view of the app's."""
    app = make(BASIC | {"page": end_under("invalidate")})
    app.get("/put")
    response = app.get("/page?then=set", headers={"Accept": accept}, status=409)
    assert (response.content_type, response.headers["Cache-Control"]) == (content_type, "no-store")
    assert "reload the page" in response.text


@pytest.mark.parametrize(("accept", "content_type"), ACCEPTS)
def test_outage_page(make: Make, mortal: Server, accept: str, content_type: str) -> None:
    """StoreUnavailable renders as 503 with Retry-After in the form the client accepts; it holds
    no host, key or value."""
    app = make(BASIC, url=mortal.url)
    app.get("/put?name=precious")
    mortal.kill()
    for path in ("/get", "/put?name=precious", "/renew", "/logout"):
        response = app.get(path, headers={"Accept": accept}, status=503)
        assert (response.content_type, response.headers["Retry-After"]) == (content_type, "2")
        assert response.headers["Cache-Control"] == "no-store"
        assert "try again" in response.text
        shown = response.text + str(response.headers)
        assert [w for w in (mortal.socket, "sess", "name", "precious") if w in shown] == []
        assert set_cookies(response) == []


@pytest.mark.slow
def test_outage_and_recovery(make: Make, mortal: Server) -> None:
    """When the server is back so are the answers."""
    app = make(BASIC, url=mortal.url)
    app.get("/put")
    mortal.kill()
    app.get("/get", status=503)
    mortal.start()
    assert eventually(lambda: app.get("/get", status="*").status_int == 200)
    app.get("/put")
    assert app.get("/get").json == "Ann"


def test_views_that_need_no_session(make: Make, mortal: Server) -> None:
    """With the server away a view that does not use its session answers as ever."""
    app = make(BASIC, url=mortal.url)
    app.get("/put")
    mortal.kill()
    assert app.get("/untouched").json == "hello"


@pytest.mark.parametrize("error", [SessionGone, StoreUnavailable])
def test_exception_view_takes_it(make: Make, error: type[Exception]) -> None:
    """An exception view of the application's takes our errors."""

    def configure(config: Configurator) -> None:
        config.add_exception_view(
            lambda exc, request: Response(f"own page: {exc}", status=418), context=error
        )

    app = make({"page": fails(error("some trouble"))}, configure=configure)
    assert app.get("/page", status=418).text == "own page: some trouble"


@pytest.mark.parametrize("error", [SessionGone, StoreUnavailable, CorruptValue, TooManyConflicts])
def test_an_error_in_another_process(error: type[Exception]) -> None:
    """It says the same there, whether it was pickled, or made again from its arguments, as task
    queues do that store results as JSON."""
    raised = error("some trouble")
    pickled = pickle.loads(pickle.dumps(raised))
    again = error(*json.loads(json.dumps(raised.args)))
    assert str(raised).startswith("some trouble")
    assert {str(pickled), str(again)} == {str(raised)}


class Policy:
    """A security policy on the session."""

    def identity(self, request: Request) -> Any:
        return None

    def authenticated_userid(self, request: Request) -> Any:
        return request.altsession.get("userid")

    def permits(self, request: Request, context: Any, permission: str) -> bool:
        return True


def above(config: Configurator) -> None:
    """pyramid_tm asks for the userid above the exception views."""
    config.include("pyramid_tm")
    config.set_security_policy(Policy())


OTHERS = ["pyramid_altsession", "pyramid_tm", "pyramid_retry", "pyramid_debugtoolbar"]


@pytest.mark.parametrize("order", list(itertools.permutations(OTHERS)), ids="-".join)
def test_outage_above_the_exception_views(server: Server, order: tuple[str, ...]) -> None:
    """A userid read by pyramid_tm above the exception views is a 503 page when the server is
    away, whatever the order of the includes; with the server it is read."""
    seen = []

    def page(request: Request) -> str:
        seen.append(request.authenticated_userid)
        return "page"

    for url, status in ((f"unix://{server.directory}/nowhere", 503), (server.url, 200)):
        config = Configurator(settings={"altsession.redis.url": url})
        for name in order:
            config.include(name)
        config.set_security_policy(Policy())
        config.add_route("page", "/page")
        config.add_view(page, route_name="page", renderer="json")
        app = Site(config.make_wsgi_app(), config.registry)
        app.extra_environ["REMOTE_ADDR"] = "127.0.0.1"
        app.token = (
            str(app.api.create({"userid": "ann"}).token) if status == 200 else (unknown_token())
        )
        response = app.get("/page", status=status)
        assert response.headers.get("Retry-After") == ("2" if status == 503 else None)
    assert seen == ["ann"]


def test_view_for_errors_above_the_exception_views(make: Make, server: Server) -> None:
    """The application's exception view takes an error raised above EXCVIEW too; the page of one
    that needs the session itself is ours."""

    def configure(config: Configurator) -> None:
        above(config)
        config.add_exception_view(own, context=StoreUnavailable)

    def own(exc: Exception, request: Request) -> Response:
        if request.path_info == "/get":
            request.altsession.get("name")
        return Response("own page", status=418)

    app = make(BASIC, url=f"unix://{server.directory}/nowhere", configure=configure)
    app.token = unknown_token()
    assert app.get("/untouched", status=418).text == "own page"
    assert app.get("/get", status=503).headers["Retry-After"] == "2"


def test_other_errors_above_the_exception_views(make: Make, server: Server) -> None:
    """An error of ours that is no HTTP exception goes on as it is where no view takes it."""

    def configure(config: Configurator) -> None:
        above(config)

    app = make(BASIC, configure=configure)
    app.token = str(app.api.create({"userid": "ann"}).token)
    server.client.hset(f"sess:{id_of(app)}", "userid", "{")
    with pytest.raises(ValueError, match="'userid'"):
        app.get("/untouched")


# -- events


def test_events(make: Make) -> None:
    """Creation, renewal and ending are told with id and request once the session's own state is
    final."""
    told: list[Any] = []

    def subscriber(event: Any) -> None:
        session = event.request.altsession
        told.append((type(event), event.id, event.request.path, session.id))

    def configure(config: Configurator) -> None:
        for kind in (SessionCreated, SessionRenewed, SessionInvalidated, TokenRejected):
            config.add_subscriber(subscriber, kind)

    app = make(BASIC, configure=configure)
    app.get("/put")
    id = id_of(app)
    app.get("/renew")
    app.other(f"{id}.{'A' * 43}").get("/get")
    app.get("/logout")
    assert told == [
        (SessionCreated, id, "/put", id),
        (SessionRenewed, id, "/renew", id),
        (TokenRejected, id, "/get", None),
        (SessionInvalidated, id, "/logout", None),
    ]


def test_rejection_is_told_once(make: Make) -> None:
    """TokenRejected is sent once per request, however often the session is used."""
    told: list[Any] = []

    def busy(request: Request) -> None:
        get(request)
        request.altsession.pop("a")
        put(request)

    app = make(
        BASIC | {"busy": busy}, configure=lambda c: c.add_subscriber(told.append, TokenRejected)
    )
    app.get("/put")
    app.other(f"{id_of(app)}.{'A' * 43}").get("/busy")
    assert [event.id for event in told] == [id_of(app)]


def test_no_event_where_nothing_happened(make: Make) -> None:
    """Expired and unknown cookies, and one replaced just now, are no TokenRejected."""
    told: list[Any] = []
    app = make(BASIC, configure=lambda c: c.add_subscriber(told.append, TokenRejected))
    app.get("/put")
    slow = app.other()
    app.get("/renew")
    slow.get("/get")
    slow.get("/put", status=409)
    app.other(unknown_token()).get("/get")
    app.get("/logout")
    slow.get("/get")
    assert told == []


def test_event_without_a_request(make: Make) -> None:
    """The events of sessions without a request have none."""
    told: list[Any] = []
    app = make(BASIC, configure=lambda c: c.add_subscriber(told.append, SessionCreated))
    app.api.create()
    assert [event.request for event in told] == [None]


# -- the property


def test_property_is_always_there(make: Make, mortal: Server) -> None:
    """hasattr and getattr find the session with the server away; no AttributeError ever leaves
    it."""

    def view(request: Request) -> Any:
        found = [hasattr(request, "altsession"), getattr(request, "altsession", None) is not None]
        try:
            request.altsession.get("name")
        except StoreUnavailable:
            return found

    app = make({"page": view}, url=mortal.url)
    app.token = unknown_token()
    mortal.kill()
    assert app.get("/page").json == [True, True]


def use_altsession(request: Request) -> None:
    request.altsession.increment("n")
    get(request)


def use_session(request: Request) -> None:
    request.session["name"] = "Ann"
    request.session.setdefault("list", []).append(1)


@pytest.mark.parametrize("use", [use_altsession, use_session])
def test_requests_are_not_kept(server: Server, use: View) -> None:
    """What a request knew of its session is freed with it, without the cycle collector."""
    kept: list[weakref.ref[SessionState]] = []

    def view(request: Request) -> None:
        kept.append(weakref.ref(state_in(request.altsession)))
        use(request)

    app = Bare(server.url, {"page": view}, {"altsession.sync.enabled": "true"})
    app.visit("/page", "")  # NOSCRIPT, an error, keeps its frames for a while
    del kept[:]
    gc.disable()
    try:
        app.visit("/page", "")
        assert [reference() for reference in kept] == [None]
    finally:
        gc.enable()


# -- hostile cookies

GOOD = re.compile(r"[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}")
cookies = st.one_of(
    st.text(st.characters(max_codepoint=255), max_size=90),
    st.text('A.-_0 ;=,"\\\0\r\n\t', max_size=90),
    st.from_regex(GOOD, fullmatch=True),
    st.from_regex(GOOD, fullmatch=True).map(lambda value: f" {value}\t; sid=x"),
    st.sampled_from(["", " ", '""', "\xc3\xa9" * 66, "=" * 66, "A" * 8192, "\xff" * 8192]),
)


class Bare:
    """An application without WebTest around it; ``statuses`` are what it answered."""

    def __init__(
        self, url: str, views: dict[str, View] = BASIC, settings: dict[str, str] | None = None
    ) -> None:
        self.site = site(url, views, settings=settings)
        self.statuses: set[str] = set()
        self.blank = Request.blank("/", base_url="https://localhost").environ

    def visit(self, path: str, header: str) -> None:
        environ = {**self.blank, "PATH_INFO": path, "HTTP_COOKIE": header}
        self.site.app(environ, lambda status, headers, exc=None: self.statuses.add(status))


@pytest.fixture
def bare(server: Server) -> Bare:
    return Bare(server.url)


@pytest.mark.volume
@hypothesis_settings(
    max_examples=100,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(values=st.lists(cookies, min_size=1, max_size=5), seed=st.integers(0, 2**32))
def test_fuzzed_cookies(bare: Bare, server: Server, values: list[str], seed: int) -> None:
    """10,000 cookies of any bytes, and what becomes of good ones when they are damaged: never an
    error, no command for a malformed one, no key on the server under a name from a client."""
    random = Random(seed)
    values += [damaged(random, f"{t.id}.{t.verifier}") for t in map(new, range(100 - len(values)))]
    commands = bare.site.watched.costs
    for value in values:
        sent = [v.partition(";")[0] for v in re.split("; ?sid *= *", value)]
        good = [v for v in sent if GOOD.fullmatch(v.strip(" \t"))]
        with commands(1 if good else 0):
            bare.visit("/get", f"sid={value}")
    for value in values[:10]:
        bare.visit("/put", f"a=b; sid={value}; c=d")
    assert bare.statuses == {"200 OK"}
    chosen = {f"sess:{found.partition('.')[0]}" for found in GOOD.findall(" ".join(values))}
    assert set(keys(server)) & chosen == set()


def new(_: int) -> Token:
    return Token.new()


def damaged(random: Random, value: str) -> str:
    """A good cookie with one piece taken out, put in twice or replaced."""
    start, end = sorted(random.choices(range(len(value) + 1), k=2))
    piece = random.choice(["", value[start:end] * 2, "\0", "\r\n", "\xe9", ".", "=", ";", " ", '"'])
    return value[:start] + piece + value[end:]


@pytest.mark.volume
def test_chosen_tokens_never_become_keys(server: Server) -> None:
    """Of 10,000 tokens that clients chose and wrote with none becomes a key."""
    api = site(server.url, {}).api
    chosen = [Token.new() for _ in range(10_000)]
    for token in chosen:
        Browser(api, f"{token.id}.{token.verifier}").visit().set("k", 1)
    found = {key.removeprefix("sess:") for key in keys(server)}
    assert len(found) == 10_000
    assert found & {token.id for token in chosen} == set()


@pytest.mark.parametrize("blank", [" ", "\t", "sid=", "; ", "=", ";sid= "])
def test_long_cookies_cost_no_time(bare: Bare, blank: str) -> None:
    """A header of 256 kB is looked through in linear time."""
    header = f"sid=x{blank * (262144 // len(blank))}y"
    began = time.process_time()
    bare.visit("/get", header)
    assert time.process_time() - began < 0.5
    assert bare.statuses == {"200 OK"}


# -- secrets


def of_ours(thing: object) -> bool:
    return str(type(thing).__module__).startswith("pyramid_altsession")


@pytest.mark.slow
def test_verifier_is_nowhere(make: Make, server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """The verifier is neither on the server (keys, values, SLOWLOG) nor in logs nor in the repr
    of anything of ours; the id may be."""
    caplog.set_level(logging.DEBUG)
    server.client.slowlog_reset()
    server.client.config_set("slowlog-log-slower-than", 0)
    # What other tests left behind, perhaps half made, is kept, so that no new object has its id.
    others = [o for o in gc.get_objects() if of_ours(o)]
    known = set(map(id, others))
    found: list[Any] = []

    def inspect(request: Request) -> None:
        put(request)
        renew(request)
        get(request)
        found.extend(o for o in gc.get_objects() if of_ours(o) and id(o) not in known)

    app = make(BASIC | {"page": inspect})
    tokens = []
    for path in ("/put", "/page", "/renew", "/get"):
        app.get(path)
        tokens.append(app.token)
    verifiers = {str(token).partition(".")[2] for token in tokens}
    assert len(verifiers) == 3
    pieces = [v[at : at + 12] for v in verifiers for at in (0, 15, 31)]
    pieces += [repr(base64.urlsafe_b64decode(v + "=")[:12])[2:-1] for v in verifiers]
    operations = [repr(operation) for operation in app.watched.operations]
    server.client.config_set("slowlog-log-slower-than", 10_000)
    slow = repr(server.client.slowlog_get(1000))
    app.get("/logout")
    dump = [server.client.dump(key) for key in server.client.keys("*")]
    fields = [server.client.hgetall(key) for key in server.client.keys("*")]
    assert ("renew" in slow, len(found) > 5) == (True, True)
    text = "\n".join([repr(dump), repr(fields), slow, caplog.text, *operations, *map(repr, found)])
    assert [piece for piece in pieces if piece in text] == []
    assert id_of(app.other(tokens[0])) in text


def test_outage_is_logged_without_secrets(
    make: Make, mortal: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """What is logged in an outage names the server, and no value, key or verifier."""
    caplog.set_level(logging.DEBUG)
    app = make(BASIC, url=mortal.url)
    app.get("/put?name=precious")
    mortal.kill()
    app.get("/get", status=503)
    assert mortal.socket in caplog.text
    verifier = str(app.token).partition(".")[2]
    assert [word for word in (verifier, "precious") if word in caplog.text] == []
