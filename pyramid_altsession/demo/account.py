"""Signing in, and what only who is signed in may see."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime

from pyramid.httpexceptions import HTTPBadRequest, HTTPSeeOther
from pyramid.request import Request
from pyramid.security import forget, remember
from pyramid.view import exception_view_config, forbidden_view_config, view_config

from ..api import SessionAPI, SessionInfo
from ..errors import FreshLoginRequired
from ..interfaces import ISessionAPI
from .recorder import see_other
from .views import SHOWN, Page, shop

ADDRESS = "address"
"""Key of the session."""
REMEMBERED = 30 * 86400
"""Seconds that a sign-in lasts whose visitor asks to be remembered."""
LONGEST_NAME, LONGEST_ADDRESS = 40, 300
LANDINGS = ("catalogue", "cart", "counter", "account", "address")
"""Names of the pages that a sign-in may lead to."""
BROWSERS = {
    "Edg": "Edge",
    "OPR": "Opera",
    "Firefox": "Firefox",
    "FxiOS": "Firefox",
    "Chrome": "Chrome",
    "CriOS": "Chrome",
    "Safari": "Safari",
}
SYSTEMS = {
    "Android": "Android",
    "iPhone": "iPhone",
    "iPad": "iPad",
    "Windows": "Windows",
    "Mac OS": "macOS",
    "Linux": "Linux",
}
"""What a user agent contains, the telling one first, and what we call it."""


# -- signing in and out


def asking(request: Request, why: str, to: str | None) -> Page:
    """A sign-in form that leads to the page ``to``."""
    return shop(request) | {
        "why": why,
        "to": to if to in LANDINGS else LANDINGS[0],
        "longest": LONGEST_NAME,
    }


@view_config(route_name="sign_in", request_method="GET", renderer="templates/sign_in.jinja2")
def ask(request: Request) -> Page:
    return asking(request, "sign_in_text", request.GET.get("to"))


@forbidden_view_config(renderer="templates/sign_in.jinja2")
def ask_first(request: Request) -> Page:
    request.response.status = 403
    return asking(request, "account_text", "account")


@exception_view_config(FreshLoginRequired, renderer="templates/sign_in.jinja2")
def ask_again(request: Request) -> Page:
    request.response.status = 403
    why = "fresh_text" if request.authenticated_userid else "account_text"
    return asking(request, why, request.matched_route.name)


@view_config(route_name="sign_in", request_method="POST")
def sign_in(request: Request) -> HTTPSeeOther:
    """Any name will do. The cart stays; another user's does not."""
    name = request.POST.get("name", "").strip()
    if not (name.isprintable() and 1 <= len(name) <= LONGEST_NAME):
        raise HTTPBadRequest()
    seconds = REMEMBERED if "remember" in request.POST else None
    remember(request, name, remember=seconds, info=device(request))
    # A sign-in removes the CSRF token. The next page would make one: this goes with the message.
    request.session.new_csrf_token()
    request.session.flash({"text": "welcome", "name": name})
    to = request.POST.get("to")
    return see_other(request, request.route_path(to if to in LANDINGS else LANDINGS[0]))


@view_config(route_name="sign_out", request_method="POST")
def sign_out(request: Request) -> HTTPSeeOther:
    """No message: it would begin a new session."""
    forget(request)
    return see_other(request, request.route_path("catalogue"))


def device(request: Request) -> dict[str, str | int]:
    """What a sign-in notes for the list of devices: nothing longer than that list needs."""
    agent = request.user_agent or ""
    return {
        "agent": ", ".join(filter(None, (first(BROWSERS, agent), first(SYSTEMS, agent)))),
        "address": request.client_addr or "",
        "at": int(time.time()),
    }


def first(names: Mapping[str, str], agent: str) -> str | None:
    return next((name for sign, name in names.items() if sign in agent), None)


# -- devices


def sessions_api(request: Request) -> SessionAPI:
    api: SessionAPI = request.registry.getUtility(ISessionAPI)
    return api


def listed(info: SessionInfo, t: dict[str, str]) -> Page:
    """A session as the list shows it."""
    noted = info.info
    return {
        "id": info.id,
        "current": info.current,
        "agent": noted.get("agent") or t["some_browser"],
        "address": noted.get("address"),
        "signed_in": ago(datetime.fromtimestamp(noted.get("at", 0), UTC), t),
        "seen": t["ago_now"] if info.current else ago(info.last_seen, t),
    }


def ago(then: datetime, t: dict[str, str]) -> str:
    """How long ago that was, in the one unit that tells most."""
    minutes = int((datetime.now(UTC) - then).total_seconds()) // 60
    if minutes < 1:
        return t["ago_now"]
    if minutes < 120:
        return t["ago_minutes"].format(minutes)
    hours = minutes // 60
    return t["ago_hours"].format(hours) if hours < 48 else t["ago_days"].format(hours // 24)


@view_config(
    route_name="account",
    request_method="GET",
    permission="account",
    altsession=SHOWN,  # asked for before it is known who is signed in, which comes along
    http_cache=0,  # what only its owner may see is not shown again after the sign-out
    renderer="templates/account.jinja2",
)
def account(request: Request) -> Page:
    page = shop(request)
    sessions = sessions_api(request).sessions_of(page["userid"])
    return page | {"sessions": [listed(info, page["t"]) for info in sessions]}


@view_config(route_name="end", request_method="POST", permission="account")
def end(request: Request) -> HTTPSeeOther:
    """End another session of the same user, whatever id the form names."""
    id, userid = request.matchdict["id"], request.authenticated_userid
    here = id == request.altsession.id
    ended = not here and sessions_api(request).invalidate_id(id, userid=userid)
    request.session.flash({"text": "ended" if ended else "ended_before"})
    return see_other(request, request.route_path("account"))


@view_config(route_name="end_others", request_method="POST", permission="account")
def end_others(request: Request) -> HTTPSeeOther:
    number = request.altsession.end_others()
    request.session.flash({"text": "ended_others", "number": number})
    return see_other(request, request.route_path("account"))


@view_config(route_name="end_all", request_method="POST", permission="account")
def end_all(request: Request) -> HTTPSeeOther:
    """The change itself comes last, so that a visitor who is told that it failed can try again."""
    request.altsession.end_others()
    forget(request)
    return see_other(request, request.route_path("catalogue"))


# -- a page that wants a fresh sign-in


@view_config(
    route_name="address",
    request_method="GET",
    fresh_login=60,
    altsession=(*SHOWN, ADDRESS),
    http_cache=0,
    renderer="templates/address.jinja2",
)
def address(request: Request) -> Page:
    page = shop(request, ADDRESS)
    return page | {"address": page["held"][ADDRESS] or "", "longest": LONGEST_ADDRESS}


@view_config(route_name="address", request_method="POST", fresh_login=600)
def change_address(request: Request) -> HTTPSeeOther:
    """Typing takes its time: the form is good for longer than the page that shows it."""
    given = request.POST.get("address", "").strip()
    if len(given) > LONGEST_ADDRESS:
        raise HTTPBadRequest()
    request.altsession.set(ADDRESS, given)
    request.session.flash({"text": "saved"})
    return see_other(request, request.route_path("account"))
