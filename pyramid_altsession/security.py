"""For Pyramid's security policy, CSRF protection, and views that want a fresh sign-in.

class Policy:
    def __init__(self):
        self.helper = AltSessionAuthenticationHelper()

    def authenticated_userid(self, request):
        return self.helper.authenticated_userid(request)
    …
"""

import hmac
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from pyramid.config import Configurator
from pyramid.interfaces import ICSRFStoragePolicy
from pyramid.request import Request
from pyramid.response import Response
from pyramid.viewderivers import INGRESS, VIEW
from zope.interface import implementer

from .errors import FreshLoginRequired
from .operations import CSRF_TOKEN

View = Callable[[Any, Request], Response]


class AltSessionAuthenticationHelper:
    """What a security policy needs of the session: one key, at most one round trip per request.

    The headers that ``remember`` and ``forget`` return are empty: the session sends its cookie.
    """

    def authenticated_userid(self, request: Request) -> str | None:
        """The signed-in user, or None."""
        userid: str | None = request.altsession.userid()
        return userid

    def remember(
        self,
        request: Request,
        userid: str,
        *,
        remember: float | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> list[tuple[str, str]]:
        """Sign in; the arguments are those of ``AltSession.login``."""
        request.altsession.login(userid, remember=remember, info=info)
        return []

    def forget(self, request: Request) -> list[tuple[str, str]]:
        """Sign out: the session ends, data and all."""
        request.altsession.logout()
        return []


@implementer(ICSRFStoragePolicy)
class AltSessionCSRFStoragePolicy:
    """CSRF tokens under one key of the session, without ``request.session``:
    ``config.set_csrf_storage_policy(AltSessionCSRFStoragePolicy())``."""

    def new_csrf_token(self, request: Request) -> str:
        """A new token in place of the old one. One round trip."""
        token = secrets.token_hex(20)
        request.altsession.set(CSRF_TOKEN, token)
        return token

    def get_csrf_token(self, request: Request) -> str:
        """The token; two tabs that ask at once get the same one, given a live session."""
        token = request.altsession.get(CSRF_TOKEN)
        if token is None:
            token = request.altsession.setdefault(CSRF_TOKEN, secrets.token_hex(20))
        return str(token)

    def check_csrf_token(self, request: Request, supplied_token: str) -> bool:
        """Whether a form brought the session's token. It never makes one."""
        token = request.altsession.get(CSRF_TOKEN)
        return token is not None and hmac.compare_digest(
            str(token).encode(), str(supplied_token).encode()
        )


def fresh_login(view: View, info: Any) -> View:
    """View option ``fresh_login=300``: a sign-in at most so many seconds old, else
    :exc:`FreshLoginRequired` (403), which an exception view can turn into a password prompt."""
    limit = info.options.get("fresh_login")
    if limit is None:
        return view

    def fresh(context: Any, request: Request) -> Response:
        age = request.altsession.login_age()
        if age is None or not 0 <= age < limit:
            raise FreshLoginRequired(f"the view wants a login of the last {limit} seconds")
        return view(context, request)

    return fresh


fresh_login.options = ("fresh_login",)  # type: ignore[attr-defined]


def add_view_options(config: Configurator) -> None:
    # Under and over nothing else of Pyramid's, which the application may have moved.
    config.add_view_deriver(fresh_login, under=("secured_view", INGRESS), over=VIEW)
