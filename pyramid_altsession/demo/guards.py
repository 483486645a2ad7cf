"""What holds for every request of the shop: whose forms are taken, what a page may load."""

from urllib.parse import urlsplit

from pyramid.events import NewRequest, NewResponse, subscriber
from pyramid.exceptions import BadCSRFOrigin
from pyramid.request import Request

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self';"
        " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


@subscriber(NewRequest)
def refuse_foreign_forms(event: NewRequest) -> None:
    """The first half of the guard is the cookie's SameSite=Lax; this is the second.

    Pyramid's own check of the Origin needs no session either, but does nothing on plain http.
    """
    request = event.request
    origin = request.headers.get("Origin")
    if request.method == "POST" and origin not in (None, request.host_url):
        raise BadCSRFOrigin("the form was on another site")


@subscriber(NewResponse)
def add_headers(event: NewResponse) -> None:
    for name, value in HEADERS.items():
        event.response.headers.setdefault(name, value)


def came_from(request: Request, otherwise: str) -> str:
    """Path of our page that the visitor was on, or ``otherwise``; never another site's."""
    referrer = urlsplit(request.referrer or "")
    ours = f"{referrer.scheme}://{referrer.netloc}" == request.host_url
    return referrer.path if ours and referrer.path[:2] not in ("", "//") else otherwise
