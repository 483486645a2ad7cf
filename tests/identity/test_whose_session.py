"""Whose session a request gets: its own, whatever runs it and whatever handed it on."""

import asyncio
import contextvars
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from apps import Site, View, cookie_of, site
from greenlet import getcurrent, greenlet
from pyramid.request import Request
from pyramid.response import Response
from pyramid.wsgi import wsgiapp, wsgiapp2
from servers import Server
from webtest import TestApp
from workers import in_threads

from pyramid_altsession import SessionGone
from pyramid_altsession.events import SessionCreated
from pyramid_altsession.interfaces import ISessionAPI
from pyramid_altsession.web import tween, visits
from pyramid_altsession.web.requests import RequestSessions

VISITORS = 20
EXPLICIT = {"pyramid.tweens": "pyramid.tweens.excview_tween_factory"}


def set_cookies(response: Any) -> list[str]:
    found: list[str] = response.headers.getall("Set-Cookie")
    return found


def ask(app: Any, path: str, token: str | None = None) -> Response:
    """One request, without a browser around it."""
    headers = {} if token is None else {"Cookie": f"sid={token}"}
    application = app.app if isinstance(app, Site) else app
    return Request.blank(f"https://localhost{path}", headers=headers).get_response(application)


def token_in(response: Response) -> str:
    (header,) = set_cookies(response)
    token = cookie_of(header)
    assert token is not None
    return token


# -- whatever runs it. Pyramid's thread-locals are not patched here, as where gevent patches after
# -- Pyramid was imported: all greenlets share them.


def mine(request: Request) -> Any:
    """Write one's own, let the others go on, and look what is there."""
    name = request.params["name"]
    request.altsession.set("name", name)
    switch()
    return request.altsession.get("name", fresh=True)


def signs_in(request: Request) -> Any:
    request.altsession.login(request.params["name"])
    switch()
    return request.altsession.userid()


def looks_first(request: Request) -> Any:
    request.altsession.get("name")
    switch()
    return mine(request)


class Served(greenlet):
    """A request that is served in a greenlet."""


def switch() -> None:
    """Others go on meanwhile."""
    here = getcurrent()
    if isinstance(here, Served):
        here.parent.switch()
    else:
        time.sleep(0)


VIEWS: dict[str, View] = {"mine": mine, "in": signs_in, "looks": looks_first}


@pytest.fixture(params=["memory", "valkey"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return "memory://"
    server: Server = request.getfixturevalue("server")
    return server.url


def visited(app: Site, path: str) -> list[tuple[str, Any, str]]:
    """Visitors without a cookie who all come at once: name, answer and token of each."""
    seen: list[tuple[str, Any, str]] = []

    def visit(name: str) -> None:
        try:
            response = ask(app, f"/{path}?name={name}")
            seen.append((name, response.json, token_in(response)))
        except Exception as error:
            seen.append((name, type(error), ""))

    going_on = [Served(visit) for _ in range(VISITORS)]
    for number, work in enumerate(going_on):
        work.switch(f"v{number}")
    while going_on := [work for work in going_on if not work.dead]:
        for work in going_on:
            work.switch()
    return seen


@pytest.mark.parametrize("path", VIEWS)
@pytest.mark.parametrize("settings", [{}, EXPLICIT], ids=["tween", "no tween"])
def test_greenlets(url: str, path: str, settings: Mapping[str, object]) -> None:
    """Of visitors without a cookie who are served by greenlets at once, each has a session of its
    own."""
    answers = visited(site(url, VIEWS, settings=settings), path)
    assert [seen for _, seen, _ in answers] == [name for name, _, _ in answers]
    assert len({token for _, _, token in answers}) == VISITORS


@pytest.mark.parametrize("path", VIEWS)
def test_threads(url: str, path: str) -> None:
    """The same of visitors who are served by threads."""
    app = site(url, VIEWS)
    answers = in_threads(VISITORS, lambda number: ask(app, f"/{path}?name=v{number}").json)
    assert answers == [f"v{number}" for number in range(VISITORS)]


@pytest.mark.parametrize("path", VIEWS)
def test_tasks(url: str, path: str) -> None:
    """The same of visitors who are served by tasks of asyncio, each with a greenlet for what
    cannot wait otherwise."""
    app = site(url, VIEWS)

    async def visit(number: int) -> Any:
        work = Served(lambda: ask(app, f"/{path}?name=v{number}").json)
        while True:
            answer = work.switch()
            if work.dead:
                return answer
            await asyncio.sleep(0)

    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*[visit(number) for number in range(VISITORS)])

    assert asyncio.run(all_at_once()) == [f"v{number}" for number in range(VISITORS)]


def test_request_of_an_event(url: str) -> None:
    """An event's request is the one that made it happen, while other greenlets are served."""
    told: list[tuple[str, str]] = []

    def note(event: SessionCreated) -> None:
        assert event.request is not None
        told.append((event.request.params["name"], event.id))

    def view(request: Request) -> Any:
        switch()
        return mine(request)

    app = site(url, {"view": view}, configure=lambda c: c.add_subscriber(note, SessionCreated))
    answers = visited(app, "view")
    assert dict(told) == {name: token.partition(".")[0] for name, _, token in answers}


class SharedByGreenlets:
    """The thread-local that the context variable stands in for."""

    def __init__(self) -> None:
        self.stack: list[Any] = [None]

    def get(self) -> Any:
        return self.stack[-1]

    def set(self, visit: Any) -> Any:
        self.stack.append(visit)
        return SimpleNamespace(old_value=self.stack[-2])

    def reset(self, token: Any) -> None:
        self.stack.pop()


@pytest.mark.parametrize("path", VIEWS)
def test_what_thread_locals_did(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """With a thread-local in its place, and "no cookie" taken for an equal one, the test of
    greenlets sees sessions of others."""
    shared = SharedByGreenlets()
    for module in (visits, tween):
        monkeypatch.setattr(module, "serving", shared)
    monkeypatch.setattr("pyramid_altsession.web.requests.innermost", shared.get)
    monkeypatch.setattr(RequestSessions, "_shared", lambda self, environ, known: stranger(self))
    answers = visited(site("memory://", VIEWS), path)
    assert [seen for _, seen, _ in answers] != [name for name, _, _ in answers]


def stranger(sessions: RequestSessions) -> Any:
    return next(iter(visits.under_way(sessions)), None)


# -- subrequests


def get(request: Request) -> Any:
    return request.altsession.get("name")


def put(request: Request) -> Any:
    request.altsession.set("name", request.params["name"])


def userid(request: Request) -> Any:
    return request.altsession.userid()


BASIC: dict[str, View] = {"get": get, "put": put, "userid": userid}


def fragment(
    request: Request, path: str, cookie: str | None, *, use_tweens: bool = True
) -> Response:
    """The answer to a subrequest that carries this cookie and nothing else of the request."""
    headers = {} if cookie is None else {"Cookie": cookie}
    inner = Request.blank(path, base_url="https://localhost", headers=headers)
    return request.invoke_subrequest(inner, use_tweens=use_tweens)


tweens = pytest.mark.parametrize("use_tweens", [True, False], ids=["tweens", "bare"])
acts = pytest.mark.parametrize("act", ["set", "renew", "login", "invalidate"])


@tweens
@acts
@pytest.mark.parametrize("header", ["sid={}", "lang=en; sid={}; x=1", "xsid=a; sid={}"])
def test_subrequest_with_our_cookie(
    server: Server, use_tweens: bool, act: str, header: str
) -> None:
    """A subrequest that carries our cookie, whatever else, has the request's session, also when
    its cookie was replaced, or the session ended, earlier in the request."""

    def view(request: Request) -> Any:
        session, cookie = request.altsession, header.format(request.cookies["sid"])
        {
            "set": lambda: session.set("name", "Eve"),
            "renew": lambda: session.renew(),
            "login": lambda: session.login("ann"),
            "invalidate": lambda: session.invalidate(),
        }[act]()
        seen = fragment(request, "/get", cookie, use_tweens=use_tweens).json
        inner = fragment(request, "/put?name=Bob", cookie, use_tweens=use_tweens)
        return [seen, len(set_cookies(inner)), session.get("name")]

    app = site(server.url, BASIC | {"page": view})
    app.get("/put?name=Ann")
    other = {"Cookie": f"theme=dark; sid={app.token}"}
    response = app.get("/page", headers=other)
    first = {"set": "Eve", "invalidate": None}.get(act, "Ann")
    assert response.json == [first, 0, "Bob"]
    assert len(set_cookies(response)) == (act != "set")
    assert app.get("/get").json == "Bob"


@tweens
def test_subrequest_for_everybody(server: Server, use_tweens: bool) -> None:
    """What a subrequest without a cookie shows has nothing of the visitor who signs in meanwhile,
    whether he came with a cookie or without."""

    def view(request: Request) -> Any:
        request.altsession.login("ann")
        copied = request.copy()
        copied.environ.pop("HTTP_COOKIE", None)
        copied.path_info = "/userid"
        return [
            fragment(request, "/userid", None, use_tweens=use_tweens).json,
            fragment(request, "/userid", "sid=", use_tweens=use_tweens).json,
            request.invoke_subrequest(copied, use_tweens=use_tweens).json,
        ]

    app = site(server.url, BASIC | {"page": view})
    assert app.get("/page").json == [None, None, "ann"]  # the last one is a copy, cookie or none
    assert app.get("/page").json == [None, None, None]


@tweens
def test_subrequest_with_a_strangers_cookie(server: Server, use_tweens: bool) -> None:
    """A subrequest with another visitor's cookie has that one's session, even in a copy of the
    request's environ."""

    def view(request: Request) -> Any:
        cookie = f"sid={request.params['token']}"
        request.altsession.get("name")
        copied = request.copy()
        copied.headers["Cookie"] = cookie
        copied.path_info = "/get"
        return [
            fragment(request, "/get", cookie, use_tweens=use_tweens).json,
            request.invoke_subrequest(copied, use_tweens=use_tweens).json,
            get(request),
        ]

    app = site(server.url, BASIC | {"page": view})
    bob = token_in(ask(app, "/put?name=Bob"))
    app.get("/put?name=Ann")
    assert app.get(f"/page?token={bob}").json == ["Bob", "Bob", "Ann"]


def test_subrequest_of_a_subrequest(server: Server) -> None:
    """Subrequests of subrequests: each finds its visitor's session among those around it."""

    def inner(request: Request) -> Any:
        request.altsession.set("name", "Bob")
        outer = request.params["outer"]
        return [fragment(request, "/get", f"sid={outer}").json, get(request)]

    def view(request: Request) -> Any:
        token = request.cookies["sid"]
        request.altsession.renew()
        return [fragment(request, f"/inner?outer={token}", None).json, get(request)]

    app = site(server.url, BASIC | {"page": view, "inner": inner})
    app.get("/put?name=Ann")
    assert app.get("/page").json == [["Ann", "Bob"], "Ann"]


def test_session_that_the_application_chose(server: Server) -> None:
    """Where the application puts another session in the place of the request's, a subrequest with
    the request's cookie has the cookie's, and the outermost answer carries the cookie."""

    def view(request: Request) -> Any:
        api = request.registry.getUtility(ISessionAPI)
        request.altsession = api.create({"name": "token"})
        cookie = request.headers["Cookie"]
        seen = [fragment(request, path, cookie).json for path in ("/get", "/renew", "/get")]
        return [*seen, get(request)]

    def renew(request: Request) -> Any:
        return request.altsession.renew()

    app = site(server.url, BASIC | {"page": view, "renew": renew})
    app.get("/put?name=Ann")
    response = app.get("/page")
    assert (response.json, len(set_cookies(response))) == (["Ann", True, "Ann", "token"], 1)
    assert app.get("/get").json == "Ann"


def test_context_that_outlives_the_request(server: Server) -> None:
    """What a view starts and what goes on after the answer, as a task of asyncio does in a copy of
    the context, is no part of the request any more; nor does it keep the request alive."""
    kept: list[Any] = []

    def view(request: Request) -> Any:
        kept[:] = [contextvars.copy_context(), weakref.ref(request)]
        return put(request)

    app = site(server.url, BASIC | {"page": view})
    app.get("/page?name=Ann")
    context, request = kept
    assert request() is None
    response = context.run(ask, app, "/put?name=Bob", app.token)
    assert (set_cookies(response), app.get("/get").json) == ([], "Bob")
    assert len(set_cookies(context.run(ask, app, "/put?name=Bob"))) == 1


def test_copy_in_another_thread(server: Server) -> None:
    """A copy of the request that another thread serves meanwhile has its own view of the session:
    an AltSession belongs to one thread."""

    def view(request: Request) -> Any:
        put(request)
        copied = request.copy()
        copied.path_info = "/get"
        copied.environ.pop("HTTP_COOKIE", None)
        answers: list[Any] = []
        for inner in (copied, request.copy()):
            inner.path_info = "/get"
            thread = threading.Thread(
                target=lambda inner=inner: answers.append(ask_again(app, inner.environ))
            )
            thread.start()
            thread.join()
        return [[a.json for a in answers], get(request)]

    app = site(server.url, BASIC | {"page": view})
    app.get("/put?name=Ann")
    response = app.get("/page?name=Eve")
    assert (response.json, app.get("/get").json) == ([[None, "Eve"], "Eve"], "Eve")


def ask_again(app: Site, environ: dict[str, Any]) -> Response:
    """The application's answer to this environ."""
    return Request(environ).get_response(app.app)


@pytest.mark.parametrize("settings", [{}, EXPLICIT], ids=["tween", "no tween"])
@pytest.mark.parametrize("first", ["set", "get", "nothing"])
def test_error_page(server: Server, settings: Mapping[str, object], first: str) -> None:
    """Middleware that asks for an error page with a copy of the environ, after the answer: the
    page has the visitor's session, one made for the first answer included, and its cookie."""

    def missing(request: Request) -> Any:
        if first != "nothing":
            getattr(request.altsession, first)("missing", request.path_qs)
        return Response(status=404)

    def page(request: Request) -> Any:
        request.altsession.set("seen", True)
        return request.altsession.get("missing")

    app = site(server.url, BASIC | {"missing": missing, "page": page}, settings=settings)

    def error_pages(environ: dict[str, Any], start_response: Any) -> Any:
        copied = dict(environ)
        response = ask_again(app, copied)
        if response.status_int == 404:
            response = ask_again(app, {**copied, "PATH_INFO": "/page"})
        return response(environ, start_response)

    app.app, inner = error_pages, app.app
    browser = app.other()
    app.app = inner
    response = browser.get("/missing")
    assert (response.json, len(set_cookies(response))) == (
        "/missing" if first == "set" else None,
        1,
    )
    assert len(server.client.keys("*")) == 1


def test_error_page_for_another_visitor(server: Server) -> None:
    """The same with a copy whose cookie was taken out: the page is nobody's."""
    app = site(server.url, BASIC)
    token = token_in(ask(app, "/put?name=Ann"))
    environ = Request.blank("https://localhost/get", headers={"Cookie": f"sid={token}"}).environ
    assert ask_again(app, environ).json == "Ann"
    del environ["HTTP_COOKIE"]
    assert ask_again(app, dict(environ)).json is None


# -- one application in another


def greet(request: Request) -> Any:
    """Read and write one's own through both views of the session."""
    name = request.registry.settings["name"]
    before = request.altsession.get("who"), request.session.get("n", 0)
    request.altsession.set("who", name)
    request.session["n"] = before[1] + 1
    return [*before, request.altsession.id]


def application(server: Server, name: str, **views: View) -> Site:
    settings = {
        "name": name,
        "altsession.session.prefix": name,
        "altsession.session.cookie_name": name,
        "altsession.sync.enabled": True,
    }
    return site(server.url, {"greet": greet, **views}, settings=settings)


def by_wsgiapp2(inner: Any, request: Request) -> Response:
    request.subpath = ("greet",)
    return wsgiapp2(inner)(None, request)


def by_wsgiapp(inner: Any, request: Request) -> Response:
    request.path_info = "/greet"
    return wsgiapp(inner)(None, request)


def by_copy(inner: Any, request: Request) -> Response:
    copied = request.copy_get()
    copied.path_info = "/greet"
    return copied.get_response(inner)


def by_blank(inner: Any, request: Request) -> Response:
    cookies = {"Cookie": request.headers.get("Cookie", "")}
    return Request.blank("https://localhost/greet", headers=cookies).get_response(inner)


MOUNTS = [by_wsgiapp2, by_wsgiapp, by_copy, by_blank]


@pytest.mark.parametrize("mount", MOUNTS)
@pytest.mark.parametrize("explicit", [False, True], ids=["tween", "no tween"])
def test_mounted_application(
    server: Server, mount: Callable[[Any, Request], Response], explicit: bool
) -> None:
    """An application mounted in another one has its own session and cookie, and the changes of
    both are written."""
    inner = site(
        server.url,
        {"greet": greet},
        settings={
            "name": "inner",
            "altsession.session.prefix": "inner",
            "altsession.session.cookie_name": "inner",
            "altsession.sync.enabled": True,
            **(EXPLICIT if explicit else {}),
        },
    )

    def page(request: Request) -> Response:
        outer = greet(request)
        response = mount(inner.app, request)
        request.session["after"] = True
        response.json_body = [outer, response.json, greet(request)]
        return response

    outer = application(server, "outer", page=page)
    browser = TestApp(outer.app, extra_environ={"wsgi.url_scheme": "https"})
    first = browser.get("/page")
    assert len(set_cookies(first)) == 2
    ids = [answer[2] for answer in first.json]
    assert ids[0] == ids[2] != ids[1]
    assert sorted(browser.cookies) == ["inner", "outer"]
    second = browser.get("/page")
    assert set_cookies(second) == []
    assert second.json == [
        ["outer", 2, ids[0]],
        ["inner", 1, ids[1]],
        ["outer", 3, ids[0]],
    ]


def test_mounted_application_that_fails(server: Server) -> None:
    """The inner application's error is the inner one's: the outer session goes on."""

    def gone(request: Request) -> None:
        raise SessionGone

    inner = application(server, "inner", gone=gone)

    def page(request: Request) -> Any:
        request.session["n"] = 1
        copied = request.copy_get()
        copied.path_info = "/gone"
        return [copied.get_response(inner.app).status_int, request.session["n"]]

    outer = application(server, "outer", page=page)
    browser = TestApp(outer.app, extra_environ={"wsgi.url_scheme": "https"})
    assert browser.get("/page").json == [409, 1]
    assert browser.get("/greet").json[1] == 1


def test_application_that_asks_itself(server: Server) -> None:
    """An application that asks itself by a copy of the environ, through another one, has the
    visitor's session."""
    apps: dict[str, Site] = {}

    def page(request: Request) -> Any:
        request.altsession.set("who", "me")
        copied = request.copy_get()
        copied.path_info = "/back"
        return copied.get_response(apps["inner"].app).json

    def back(request: Request) -> Any:
        copied = request.copy_get()
        copied.path_info = "/greet"
        return copied.get_response(apps["outer"].app).json

    apps["inner"] = application(server, "inner", back=back)
    apps["outer"] = application(server, "outer", page=page)
    browser = TestApp(apps["outer"].app, extra_environ={"wsgi.url_scheme": "https"})
    response = browser.get("/page")
    assert (response.json[0], len(set_cookies(response))) == ("me", 1)


# -- which of a user's sessions is the one that asks


def currents(request: Request) -> Any:
    """What the lists say, before and after the session was used."""
    api = request.registry.getUtility(ISessionAPI)

    def listed() -> Any:
        listing = [known.id for known in api.sessions_of("ann") if known.current]
        described = [k.id for k in api.sessions_of("ann") if api.describe(k.id).current]
        return [listing, described, [known.id for known in api.scan() if known.current]]

    before = listed()
    request.altsession.exists()
    return [before, listed()]


def sign_in(request: Request) -> None:
    request.altsession.login("ann")


LISTS: dict[str, View] = {"in": sign_in, "currents": currents} | BASIC


def id_in(token: str | None) -> str:
    assert token is not None
    return token.partition(".")[0]


@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "sealed"])
def test_current(url: str, sealed: bool) -> None:
    """The lists mark the session of the request that asks, used or not, and no other."""
    settings = {"altsession.session.secret": "s" * 32}
    if sealed:
        settings |= {
            "altsession.session.codec": "pyramid_altsession.codecs.encrypted",
            "altsession.session.codec_secret": "c" * 32,
        }
    app = site(url, LISTS, settings=settings)
    app.get("/in")
    other = app.other("")
    other.get("/in")
    for browser in (app, other):
        own = [id_in(browser.token)]
        assert browser.get("/currents").json == [[own] * 3] * 2
    assert ask(app, "/currents").json == [[[]] * 3] * 2


def test_current_with_a_wrong_cookie(url: str) -> None:
    """A cookie with a wrong verifier, or one that a login has replaced, marks nothing."""
    app = site(url, LISTS)
    app.get("/put?name=Ann")
    replaced = app.token
    app.get("/in")
    for token in (replaced, f"{id_in(app.token)}.{'B' * 43}"):
        assert ask(app, "/currents", token).json == [[[]] * 3] * 2


def test_current_after_a_periodic_renewal(url: str) -> None:
    """A cookie that a periodic renewal has just replaced still marks its session."""
    app = site(url, LISTS, settings={"altsession.session.renew_after": 0.001})
    app.get("/in")
    replaced = app.token
    own = [id_in(replaced)]
    while app.token == replaced:
        app.get("/get")
    assert ask(app, "/currents", replaced).json == [[own] * 3] * 2


def test_current_with_two_cookies(url: str) -> None:
    """Of two live sessions whose cookies come at once a list marks the one that serves."""
    app = site(url, LISTS)
    tokens = [token_in(ask(app, "/in")) for _ in range(2)]
    headers = {"Cookie": f"sid={'A' * 22}.{'B' * 43}; sid={tokens[0]}; sid={tokens[1]}"}
    request = Request.blank("https://localhost/currents", headers=headers)
    before, after = request.get_response(app.app).json
    assert before[0] == after[0] == [id_in(tokens[0])]


def test_current_of_another_request(url: str) -> None:
    """While another visitor's greenlet asks, the lists mark that one's session."""

    def view(request: Request) -> Any:
        sign_in(request)
        switch()
        api = request.registry.getUtility(ISessionAPI)
        (own,) = [known.id for known in api.sessions_of("ann") if known.current]
        return own == request.altsession.id

    assert {seen for _, seen, _ in visited(site(url, {"view": view}), "view")} == {True}


def test_current_of_a_session_that_the_application_chose(url: str) -> None:
    """Where the application puts another session in the place of the request's, that one is
    current."""

    def view(request: Request) -> Any:
        api = request.registry.getUtility(ISessionAPI)
        request.altsession = api.open(request.params["token"])
        return currents(request)

    app = site(url, LISTS | {"page": view})
    app.get("/in")
    own = [id_in(app.token)]
    assert ask(app, f"/page?token={app.token}").json == [[own] * 3] * 2


def test_current_without_a_request(url: str) -> None:
    """Outside of a request nothing is current; with pyramid.tweens listed without ours neither."""
    app = site(url, LISTS, settings=EXPLICIT)
    app.get("/in")
    assert app.get("/currents").json == [[[]] * 3] * 2
    assert [known.current for known in app.api.sessions_of("ann")] == [False]


def test_time_of_login(url: str) -> None:
    """SessionInfo tells the time of the last login; None without one."""
    app = site(url, LISTS)
    app.get("/put?name=Ann")
    known = app.api.describe(id_in(app.token))
    assert known is not None
    assert known.login is None
    app.get("/in")
    (first,) = app.api.sessions_of("ann")
    assert first.login is not None
    assert known.created <= first.login <= first.last_seen
    app.get("/in")
    (second,) = app.api.sessions_of("ann")
    assert second.login is not None
    assert first.login <= second.login
