"""What holds for every request of the shop: who is signed in, whose forms are taken, what a page
may load."""

from typing import Any
from urllib.parse import urlsplit

from pyramid.events import NewRequest, NewResponse, subscriber
from pyramid.exceptions import BadCSRFOrigin
from pyramid.httpexceptions import HTTPBadRequest
from pyramid.request import Request

from ..web.security import AltSessionAuthenticationHelper

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self';"
        " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


SESSIONS, ADMINISTRATOR = "sessions", "admin"
"""The permission to see and end all sessions, and the name of who has it."""


class Policy:
    """Who is signed in is who the session says; the account is for everybody who is."""

    def __init__(self) -> None:
        helper = AltSessionAuthenticationHelper()
        self.authenticated_userid = self.identity = helper.authenticated_userid
        self.remember, self.forget = helper.remember, helper.forget

    def permits(self, request: Request, context: Any, permission: str) -> bool:
        userid = self.authenticated_userid(request)
        return userid == ADMINISTRATOR if permission == SESSIONS else userid is not None


def signed_in(request: Request) -> bool:
    """Whose forms need a CSRF token: those of who is signed in.

    A token is kept in a session, so a page for everybody that showed one would have to make a
    session, with a cookie, for everybody who looks in. And a tab that was opened before the first
    session has none. Without a sign-in there is nothing that a forged form could do in somebody's
    name; that forms come from our own pages :func:`refuse_foreign_forms` sees to, for everybody.
    """
    return request.authenticated_userid is not None


@subscriber(NewRequest)
def refuse_foreign_forms(event: NewRequest) -> None:
    """The form of another site is refused for every visitor: not the first one, which makes a
    session, and not a sign-in under another's name.

    Pyramid's own check of the Origin needs no session either, but does nothing on plain http.
    """
    request = event.request
    if request.content_type == "multipart/form-data":
        raise HTTPBadRequest()  # a file where a field of text is expected
    origin = request.headers.get("Origin")
    if request.method == "POST" and origin not in (None, request.host_url):
        raise BadCSRFOrigin("the form was on another site")


@subscriber(NewResponse)
def add_headers(event: NewResponse) -> None:
    for name, value in HEADERS.items():
        event.response.headers.setdefault(name, value)


def came_from(request: Request, otherwise: str) -> str:
    """Path of our page that the visitor was on, or ``otherwise``; never another site's."""
    try:
        referrer = urlsplit(request.referrer or "")
    except ValueError:  # no address at all, such as "http://[/"
        return otherwise
    ours = f"{referrer.scheme}://{referrer.netloc}" == request.host_url
    return referrer.path if ours and referrer.path[:2] not in ("", "//") else otherwise
