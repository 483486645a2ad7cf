"""The shop's pages and forms.

A page asks its session once, for all it shows. A form does one thing to the session and sends
the visitor on to a page.
"""

from pathlib import Path
from typing import Any

from pyramid.csrf import get_csrf_token
from pyramid.httpexceptions import HTTPBadRequest, HTTPException, HTTPNotFound, HTTPSeeOther
from pyramid.request import Request
from pyramid.response import FileResponse
from pyramid.view import exception_view_config, notfound_view_config, view_config

from ..errors import SessionGone, StoreUnavailable, TooManySessions
from .guards import came_from
from .products import PRODUCTS, Product, price
from .recorder import see_other
from .texts import TEXTS

LANGUAGE, COUNTER = "language", "counter"
"""Keys of the session, beside those of the products."""
SHOWN = (LANGUAGE, *(product.key for product in PRODUCTS.values()))
"""Keys that every page of the shop shows."""
DOCUMENTS = {
    "why": "Why",
    "quickstart": "Quickstart",
    "tutorial": "Tutorial",
    "semantics": "Semantics",
}
"""Pages of the documentation that the catalogue links to, by the names of their files."""

Page = dict[str, Any]


def plain(request: Request, language: str | None = None) -> Page:
    """What a page without a session shows: texts, in the language that the browser wants."""
    if language not in TEXTS:
        request.response.vary = ["Accept-Language"]
        language = request.accept_language.lookup(list(TEXTS), default="en")
    return {"language": language, "languages": TEXTS, "t": TEXTS[language], "price": price}


def shop(request: Request, *keys: str) -> Page:
    """What every page of the shop shows, and what the session holds for ``keys``: one read.

    Who is signed in comes with every read, the CSRF token and the messages with this one, as
    ``altsession.session.prefetch`` says. Messages cost a second step, if there are any.
    """
    held = request.altsession.mget([*SHOWN, *keys])
    cart = [(product, held[product.key]) for product in PRODUCTS.values() if held[product.key]]
    page = plain(request, held[LANGUAGE])
    userid = request.authenticated_userid
    return page | {
        "held": held,
        "cart": cart,
        "count": sum(number for _, number in cart),
        "userid": userid,
        "token": get_csrf_token(request) if userid else None,
        "messages": [said(m, page["language"]) for m in request.session.pop_flash()],
    }


def said(message: dict[str, Any], language: str) -> str:
    """A flash message in words: what is kept names the text, for the language of the page."""
    words = dict(message)
    if "product" in words:
        words["product"] = PRODUCTS[words["product"]].name[language]
    return TEXTS[language][words.pop("text")].format(**words)


# -- pages


@view_config(route_name="catalogue", request_method="GET", renderer="templates/catalogue.jinja2")
def catalogue(request: Request) -> Page:
    documents = {name: title for name, title in DOCUMENTS.items() if file_of(request, name)}
    return shop(request) | {"products": PRODUCTS.values(), "documents": documents}


@view_config(
    route_name="product",
    request_method="GET",
    altsession_optional=True,  # what is for sale can be told while the server is away
    renderer="templates/product.jinja2",
)
def product(request: Request) -> Page:
    """Without the server it says so, and has no form: that would need the session."""
    found = wanted_product(request)
    page = shop(request)
    away = any(step.answer == StoreUnavailable.__name__ for step in request.trace.steps)
    return (plain(request) if away else page) | {"product": found, "away": away}


@view_config(route_name="cart", request_method="GET", renderer="templates/cart.jinja2")
def cart(request: Request) -> Page:
    page = shop(request)
    return page | {
        "total": sum(product.cents * number for product, number in page["cart"]),
        "live": request.registry.settings.get("demo.live"),
    }


@view_config(route_name="counter", request_method="GET", renderer="templates/counter.jinja2")
def counter(request: Request) -> Page:
    page = shop(request, COUNTER)
    return page | {"counted": page["held"][COUNTER] or 0}


@view_config(route_name="about", request_method="GET", renderer="templates/about.jinja2")
def about(request: Request) -> Page:
    """It does not use the session, so it costs no command and sets no cookie."""
    return plain(request)


def file_of(request: Request, name: str) -> Path | None:
    """Where that page of the documentation is; None where the shop does not run in a checkout."""
    folder = request.registry.settings.get("demo.docs")
    file = Path(folder, f"{name}.rst") if folder and name in DOCUMENTS else None
    return file if file and file.is_file() else None


@view_config(route_name="document", request_method="GET")
def document(request: Request) -> FileResponse:
    """A page of the documentation, as its source has it."""
    file = file_of(request, request.matchdict["name"])
    if file is None:
        raise HTTPNotFound()
    return FileResponse(file, request, content_type="text/plain")


# -- forms


def wanted_product(request: Request) -> Product:
    try:
        return PRODUCTS[request.matchdict["product"]]
    except KeyError:
        raise HTTPNotFound() from None


@view_config(route_name="add", request_method="POST")
def add(request: Request) -> HTTPSeeOther:
    product = wanted_product(request)
    request.altsession.increment(product.key)
    request.session.flash({"text": "added", "product": product.id})
    return see_other(request, request.route_path("cart"))


@view_config(route_name="remove", request_method="POST")
def remove(request: Request) -> HTTPSeeOther:
    product = wanted_product(request)
    if request.altsession.remove(product.key):  # else there may be no session to tell it in
        request.session.flash({"text": "removed", "product": product.id})
    return see_other(request, request.route_path("cart"))


@view_config(route_name="counter", request_method="POST")
def count(request: Request) -> HTTPSeeOther:
    request.altsession.increment(COUNTER)
    return see_other(request, request.route_path("counter"))


@view_config(route_name="language", request_method="POST")
def choose_language(request: Request) -> HTTPSeeOther:
    chosen = request.POST.get("language")
    if chosen not in TEXTS:
        raise HTTPBadRequest()
    request.altsession.set(LANGUAGE, chosen)
    return see_other(request, came_from(request, otherwise=request.route_path("catalogue")))


# -- what went wrong, told without the session


def failure(request: Request, error: HTTPException, name: str) -> Page:
    """A page with the error's status and headers, and a link to try again."""
    request.response.status = error.status
    for header in ("Cache-Control", "Retry-After"):
        if header in error.headers:
            request.response.headers[header] = error.headers[header]
    catalogue = request.route_path("catalogue")
    again = request.path if request.method == "GET" else came_from(request, otherwise=catalogue)
    return plain(request) | {"name": name, "again": again}


@exception_view_config(SessionGone, renderer="templates/failure.jinja2")
def gone(request: Request) -> Page:
    return failure(request, request.exception, "gone")


@exception_view_config(StoreUnavailable, renderer="templates/failure.jinja2")
def unavailable(request: Request) -> Page:
    return failure(request, request.exception, "unavailable")


@exception_view_config(TooManySessions, renderer="templates/failure.jinja2")
def crowded(request: Request) -> Page:
    return failure(request, request.exception, "crowded")


@exception_view_config(HTTPBadRequest, renderer="templates/failure.jinja2")
def refused(request: Request) -> Page:
    return failure(request, request.exception, "refused")


@exception_view_config(UnicodeDecodeError)
def unreadable(request: Request) -> HTTPBadRequest:
    """An address that is no UTF-8; a page of the shop would want to read it, too."""
    return HTTPBadRequest()


@notfound_view_config(renderer="templates/failure.jinja2")
def not_found(request: Request) -> Page:
    return failure(request, request.exception, "not_found") | {
        "again": request.route_path("catalogue")
    }
