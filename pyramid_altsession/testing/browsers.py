"""Browsers for tests: WebTest's ``TestApp``, which sends what real browsers send."""

from typing import TYPE_CHECKING, Any

from pyramid.request import Request
from pyramid.response import Response

from ..api import OpenSession
from .steering import api_of, registry_of, steer

if TYPE_CHECKING:
    from webtest import TestApp


def make_browser(app: object, *, scheme: str = "https", host: str = "localhost") -> "TestApp":
    """A WebTest ``TestApp`` whose requests come over ``scheme``, for ``host``, and say so in
    ``Origin``: cookies are ``Secure``, and over https Pyramid's check of CSRF tokens asks for the
    origin. Each browser is another visitor."""
    from webtest import TestApp

    steer(app)
    origin = f"{scheme}://{host}"
    environ = {"wsgi.url_scheme": scheme, "HTTP_HOST": host, "HTTP_ORIGIN": origin}
    return TestApp(app, extra_environ=environ)


def sign_in(browser: "TestApp", userid: str, **options: Any) -> None:
    """Sign a user in, as a view that calls ``request.altsession.login(userid, **options)`` does:
    the browser has its cookie afterwards. The session's data stays.

    LookupError if the browser does not send the cookie back: it is ``Secure``, and the requests are
    plain http, or it has a domain, and the browser's host is in another one.
    """
    api, app, registry = api_of(browser), browser.app, registry_of(browser)
    name = api.settings.session.cookie_name

    def login(environ: Any, start_response: Any) -> Any:
        request, response = Request(environ), Response()
        request.registry = registry
        api.session(request).login(userid, **options)
        while request.response_callbacks:
            request.response_callbacks.popleft()(request, response)
        return response(environ, start_response)

    def look(environ: Any, start_response: Any) -> Any:
        if name not in Request(environ).cookies:
            raise LookupError(
                f"wanted a browser that sends the cookie {name!r} back: a Secure cookie needs"
                " scheme https, and a cookie with a domain needs a host in it"
            )
        return Response()(environ, start_response)

    try:
        for view in (login, look):
            browser.app = view
            browser.get(api.settings.session.path)
    finally:
        browser.app = app


def session_of(browser: "TestApp") -> OpenSession:
    """The session of the browser's cookie, to look into it or to prepare it. No round trip.

    LookupError if it has no such cookie.
    """
    api = api_of(browser)
    name = api.settings.session.cookie_name
    token = browser.cookies.get(name)
    if not token:
        raise LookupError(f"wanted a browser with the cookie {name!r}: it has no session")
    return api.open(token)
