"""The pages. They show ids, users, times, sizes and names of keys; never a value or a token."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from pyramid.csrf import check_csrf_origin, check_csrf_token, get_csrf_token
from pyramid.exceptions import ConfigurationError
from pyramid.httpexceptions import HTTPBadRequest, HTTPNotFound, HTTPSeeOther
from pyramid.request import Request
from pyramid.response import Response

from ..api import SessionAPI, SessionInfo
from ..interfaces import ISessionAPI

try:
    from jinja2 import Environment, PackageLoader, StrictUndefined
except ImportError as error:
    raise ConfigurationError(
        "pyramid_altsession.admin: needs the library jinja2;"
        ' pip install "pyramid_altsession[admin]"'
    ) from error

TOKEN = "csrf_token"
"""The field of the forms that holds the CSRF token."""
NUMBER = re.compile(r"[0-9]{1,15}")

pages = Environment(
    loader=PackageLoader("pyramid_altsession.admin"), autoescape=True, undefined=StrictUndefined
)


def to_search(request: Request) -> HTTPSeeOther:
    """The same address with a slash at its end."""
    return HTTPSeeOther(location=request.route_path("altsession_admin", _query=_asked(request)))


def search(request: Request) -> Response:
    """The form, and the sessions of the user, or with the id, that it asks for.

    Blanks around it may be a part of the name, or were copied with it: they are left out if nobody
    has the name with them.
    """
    query = _asked(request)
    asked = query.get("q", "")
    api = _api(request)
    found: list[SessionInfo] = []
    for name in dict.fromkeys([asked, asked.strip()]):
        if name and not found:
            by_id = api.describe(name, keys=True)
            found = [by_id] if by_id is not None else api.sessions_of(name, keys=True)
    users = {info.userid for info in found if info.userid is not None}
    ended = query.get("ended", "")
    return _page(
        "search", request, asked=asked, sessions=found, users=sorted(users),
        ended=int(ended) if NUMBER.fullmatch(ended) else None,
    )  # fmt: skip


def session(request: Request) -> Response:
    """One session, and the names and sizes of its keys."""
    info = _api(request).describe(request.matchdict["id"], keys=True)
    if info is None:
        raise HTTPNotFound("There is no such session.")
    return _page("session", request, info=info)


def end(request: Request) -> HTTPSeeOther:
    """End one session, those of a user, or all."""
    check_csrf_origin(request)
    check_csrf_token(request, token=TOKEN)
    api, form = _api(request), request.POST
    if form.get("id"):
        number = int(api.invalidate_id(form["id"]))
    elif form.get("user"):
        # Quoted in the form, because browsers send every line feed as CR LF.
        number = api.invalidate_user(unquote(form["user"]))
    elif form.get("all") and form.get("sure"):
        number = api.invalidate_all()
    else:
        raise HTTPBadRequest("The form does not say which sessions to end.")
    there = request.route_path("altsession_admin", _query={"ended": number})
    return HTTPSeeOther(location=there)


def _asked(request: Request) -> Mapping[str, str]:
    """What stands behind the question mark."""
    try:
        return request.GET
    except UnicodeDecodeError:
        raise HTTPBadRequest("The address is not UTF-8.") from None


def _api(request: Request) -> SessionAPI:
    api: SessionAPI = request.registry.getUtility(ISessionAPI)
    return api


def _page(name: str, request: Request, **shown: Any) -> Response:
    body = pages.get_template(f"{name}.jinja2").render(
        request=request,
        field=TOKEN,
        token=get_csrf_token(request),
        style=request.static_path("pyramid_altsession.admin:static/admin.css"),
        **shown,
    )
    response = Response(body, content_type="text/html", charset="utf-8")
    # Within another page, an operator could be led to press a button that cannot be seen. The
    # Content-Security-Policy is left to the application.
    response.headers["X-Frame-Options"] = "DENY"
    return response
