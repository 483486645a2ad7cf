"""The helpers for Pyramid: security policy, CSRF protection, and views that want a fresh login."""

from typing import Any

import pytest
from accounts import Books
from apps import Site, site
from pyramid.authentication import SessionAuthenticationHelper
from pyramid.config import Configurator
from pyramid.csrf import get_csrf_token, new_csrf_token
from pyramid.exceptions import ConfigurationError
from pyramid.httpexceptions import HTTPForbidden
from pyramid.request import Request
from pyramid.response import Response
from pyramid.security import Allowed, Denied, forget, remember
from servers import Server
from workers import in_threads

from pyramid_altsession import FreshLoginRequired
from pyramid_altsession.testing import fail
from pyramid_altsession.web.security import (
    AltSessionAuthenticationHelper,
    AltSessionCSRFStoragePolicy,
)


class Policy(AltSessionAuthenticationHelper):
    def identity(self, request: Request) -> str | None:
        return self.authenticated_userid(request)

    def permits(self, request: Request, context: Any, permission: str) -> Allowed | Denied:
        return Allowed("yes") if self.identity(request) else Denied("no")


VIEWS: dict[str, Any] = {
    "login": lambda r: list(remember(r, r.params.get("user", "ann"), info={"ip": "::1"})),
    "logout": lambda r: list(forget(r)),
    "who": lambda r: r.authenticated_userid,
    "put": lambda r: r.altsession.set("k", 1),
    "token": get_csrf_token,
    "new_token": new_csrf_token,
}


@pytest.fixture(params=["plain", "retried"])
def retried(request: pytest.FixtureRequest) -> bool:
    """Every test once plainly, and once after a first attempt that pyramid_retry discards."""
    found: bool = request.param == "retried"
    return found


@pytest.fixture
def app(server: Server, retried: bool) -> Site:
    def configure(config: Configurator) -> None:
        config.set_security_policy(Policy())
        config.set_csrf_storage_policy(AltSessionCSRFStoragePolicy())
        for name, options in {
            "secret": {"permission": "see"},
            "form": {"require_csrf": True},
            "fresh": {"fresh_login": 300},
            "fresh_secret": {"fresh_login": 300, "permission": "see"},
            "fresh_form": {"fresh_login": 300, "require_csrf": True},
        }.items():
            config.add_route(name, f"/{name}")
            config.add_view(lambda r: "done", route_name=name, renderer="json", **options)

    return site(server.url, VIEWS, configure=configure, retried=retried)


def age(app: Site, server: Server, seconds: float) -> None:
    """Let the login be so long ago."""
    books = Books(app.watched.store, server.client)
    books.pass_time(str(app.token).partition(".")[0], seconds)


ORIGIN = {"Origin": "https://localhost"}


def post(app: Site, path: str, token: str, status: int = 200) -> Any:
    return app.post(path, {"csrf_token": token}, headers=ORIGIN, status=status)


# -- the security policy


def test_policy(app: Site) -> None:
    """A policy that asks the helper knows who signed in, and who signed out."""
    seen = [app.get("/who").json]
    for path in ("/login", "/logout"):
        assert app.get(path).json == []  # no headers: the session sends its cookie
        seen.append(app.get("/who").json)
    assert seen == [None, "ann", None]


def test_policy_costs_one_round_trip(app: Site) -> None:
    """Permission check, view and userid together cost one read."""
    app.get("/login")
    with app.watched.costs(1):
        assert app.get("/secret").json == "done"


def test_policy_without_a_cookie(app: Site) -> None:
    """Visitors without a session cost nothing and are refused."""
    with app.watched.costs(0):
        app.get("/secret", status=403)


def test_remember_passes_its_arguments(server: Server, retried: bool) -> None:
    """remember of the helper takes what login takes."""
    helper = AltSessionAuthenticationHelper()
    app = site(
        server.url,
        {"in": lambda r: helper.remember(r, "ann", remember=600, info={"ip": "::1"})},
        retried=retried,
    )
    response = app.get("/in")
    assert "Max-Age=600" in response.headers["Set-Cookie"]
    assert [known.info for known in app.api.sessions_of("ann")] == [{"ip": "::1"}]


# -- CSRF


def test_csrf_token_is_kept(app: Site) -> None:
    """The token is made once and stays; new_csrf_token replaces it."""
    first, second = app.get("/token").json, app.get("/token").json
    third = app.get("/new_token").json
    assert (first == second, third != first, app.get("/token").json == third) == (True, True, True)
    assert len(third) == 40


def test_csrf_token_of_racing_requests(app: Site) -> None:
    """Two tabs that ask at once in a live session get the same token."""
    app.get("/put")
    for _ in range(10):
        tokens = set(in_threads(8, lambda number: app.other().get("/token").json))
        assert len(tokens) == 1
        app.get("/login")  # which removes it


def test_csrf_view(app: Site) -> None:
    """A view with require_csrf wants the token, in the form or in the header."""
    token = app.get("/token").json
    assert post(app, "/form", token).json == "done"
    by_header = {**ORIGIN, "X-CSRF-Token": token}
    assert app.post("/form", headers=by_header).json == "done"
    for wrong in (token[:-1], "ü", ""):
        post(app, "/form", wrong, status=400)


def test_csrf_check_makes_nothing(app: Site, server: Server) -> None:
    """A check without a session creates none, and without a token in it makes none."""
    post(app, "/form", "None", status=400)
    assert (server.client.keys("*"), app.token) == ([], None)
    app.get("/put")
    post(app, "/form", "None", status=400)
    post(app, "/form", "", status=400)
    assert [known.id for known in app.api.scan()] == [str(app.token).partition(".")[0]]
    assert app.api.open(str(app.token)).keys() == ["k"]


def test_csrf_token_of_before_the_login(app: Site) -> None:
    """The token that whoever planted the session knows is worth nothing after the login."""
    token = app.get("/token").json
    app.get("/login")
    post(app, "/form", token, status=400)


def test_csrf_token_of_a_page_that_signs_in(server: Server, retried: bool) -> None:
    """The page gets a token that is good for its form, and the one of before is not."""

    def sign_in(request: Request) -> str:
        SessionAuthenticationHelper().remember(request, "ann")
        return str((new_csrf_token if request.params else get_csrf_token)(request))

    def configure(config: Configurator) -> None:
        config.set_csrf_storage_policy(AltSessionCSRFStoragePolicy())
        config.add_route("form", "/form")
        config.add_view(lambda r: "done", route_name="form", renderer="json", require_csrf=True)

    app = site(
        server.url,
        VIEWS | {"sign_in": sign_in},
        settings={"altsession.sync.enabled": "true"},
        configure=configure,
        retried=retried,
    )
    before = app.get("/token").json
    for path in ("/sign_in", "/sign_in?new=1"):
        token = app.get(path).json
        assert token != before
        post(app, "/form", token)
        post(app, "/form", before, status=400)


def test_csrf_check_of_a_view_that_can_do_without_the_session(
    server: Server, retried: bool
) -> None:
    """While the server is away, nobody can tell whether the token is right."""

    def configure(config: Configurator) -> None:
        config.set_csrf_storage_policy(AltSessionCSRFStoragePolicy())
        config.add_route("form", "/form")
        config.add_view(
            lambda r: "done",
            route_name="form",
            renderer="json",
            require_csrf=True,
            altsession_optional=True,
        )

    app = site(server.url, VIEWS, configure=configure, retried=retried)
    token = app.get("/token").json
    with fail(app.api, "read"):
        post(app, "/form", token, status=503)
    post(app, "/form", token)


# -- fresh logins


def test_fresh_login(app: Site, server: Server) -> None:
    """The view opens for logins of the last 300 seconds, and again after another one."""
    app.get("/login")
    seen = []
    for seconds in (0, 295, 10):
        age(app, server, seconds)
        seen.append(app.get("/fresh", status="*").status_int)
    app.get("/login")
    assert [*seen, app.get("/fresh").status_int] == [200, 200, 403, 200]


@pytest.mark.parametrize("limit", ["300", True])
def test_fresh_login_of_another_type(limit: object) -> None:
    """A mistake of the programmer is found when the application starts."""

    def configure(config: Configurator) -> None:
        config.add_route("page", "/page")
        config.add_view(lambda r: "done", route_name="page", renderer="json", fresh_login=limit)

    with pytest.raises(ConfigurationError, match=f"fresh_login: .* not {limit!r}"):
        site("memory://", {}, configure=configure)


def test_fresh_login_without_one(app: Site) -> None:
    """Without a login, and without a session, it does not; nothing is made for asking."""
    first = app.get("/fresh", status=403)
    app.get("/put")
    app.get("/fresh", status=403)
    assert (first.headers["Cache-Control"], "sign in again" in first.text) == ("no-store", True)


def test_fresh_login_and_a_clock_set_back(app: Site, server: Server) -> None:
    """A login in the future, as a clock set back leaves it, is not fresh."""
    app.get("/login")
    age(app, server, -3600)
    app.get("/fresh", status=403)


def test_fresh_login_comes_after_the_permission(app: Site) -> None:
    """Who may not see the view is told so, and not asked for a password."""
    with app.watched.costs(0):
        assert "sign in again" not in app.get("/fresh_secret", status=403).text


def test_fresh_login_comes_before_csrf(app: Site, server: Server) -> None:
    """A stale login is told before a wrong CSRF token is; with a fresh one the token counts."""
    app.get("/login")
    post(app, "/fresh_form", "", status=400)
    age(app, server, 301)
    post(app, "/fresh_form", "", status=403)


def test_exception_view(server: Server, retried: bool) -> None:
    """An exception view can turn FreshLoginRequired into a password prompt; it goes before one
    for HTTPForbidden."""

    def configure(config: Configurator) -> None:
        config.add_route("fresh", "/fresh")
        config.add_view(lambda r: Response("done"), route_name="fresh", fresh_login=300)
        config.add_exception_view(lambda r: Response("no", 403), context=HTTPForbidden)
        config.add_exception_view(lambda r: Response("password?", 401), context=FreshLoginRequired)

    app = site(server.url, {}, configure=configure, retried=retried)
    assert app.get("/fresh", status=401).text == "password?"


def test_views_without_the_option(app: Site) -> None:
    """Other views ask nothing."""
    with app.watched.costs(0):
        app.get("/who")


def test_messages_are_for_the_log() -> None:
    """What was wanted stands in the message, not on the visitor's page."""
    error = FreshLoginRequired("the view wants a login of the last 300 seconds")
    assert str(error) == "the view wants a login of the last 300 seconds"
    assert "300" not in Request.blank("/").get_response(error).text
