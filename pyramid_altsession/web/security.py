"""Pyramid's security policy, its CSRF protection, and views that want a fresh sign-in."""

import hmac
import logging
from collections.abc import Callable, Mapping
from typing import Any

from pyramid.authentication import SessionAuthenticationHelper
from pyramid.config import PHASE3_CONFIG, Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.interfaces import (
    IAuthenticationPolicy,
    ICSRFStoragePolicy,
    ISecurityPolicy,
    ISessionFactory,
    ITweens,
)
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response
from pyramid.settings import asbool
from pyramid.viewderivers import INGRESS, VIEW
from zope.interface import implementer

from ..errors import FreshLoginRequired
from ..protocol.fields import CSRF_TOKEN
from ..protocol.token import new_csrf_token
from .request_session import session_factory
from .transaction import TM

log = logging.getLogger("pyramid_altsession")

View = Callable[[Any, Request], Response]


class AltSessionAuthenticationHelper:
    """The part of a security policy that uses the session. It reads one key, with at most one round
    trip per request.

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
        token = new_csrf_token()
        request.altsession.set(CSRF_TOKEN, token)
        return token

    def get_csrf_token(self, request: Request) -> str:
        """The token; two tabs that ask at once get the same one, given a live session."""
        token = request.altsession.get(CSRF_TOKEN)
        if token is None:
            token = request.altsession.setdefault(CSRF_TOKEN, new_csrf_token())
        return str(token)

    def check_csrf_token(self, request: Request, supplied_token: str) -> bool:
        """Whether a form brought the session's token. It never makes one."""
        token = request.altsession.get(CSRF_TOKEN)
        away = request.altsession.driver.state.away
        if away is not None:  # in a view that can do without the session: nothing is known
            raise away
        return token is not None and hmac.compare_digest(
            str(token).encode(), str(supplied_token).encode()
        )


def fresh_login(view: View, info: Any) -> View:
    """View option ``fresh_login=300``: the sign-in may be at most this many seconds old, else
    :exc:`FreshLoginRequired` (403), which an exception view can turn into a password prompt."""
    limit = info.options.get("fresh_login")
    if limit is None:
        return view
    if isinstance(limit, bool) or not isinstance(limit, int | float):
        raise ConfigurationError(f"fresh_login: must be a number of seconds, not {limit!r}")

    def fresh(context: Any, request: Request) -> Response:
        age = request.altsession.login_age()
        if age is None or not 0 <= age < limit:
            raise FreshLoginRequired(f"the view wants a login of the last {limit} seconds")
        return view(context, request)

    return fresh


fresh_login.options = ("fresh_login",)  # type: ignore[attr-defined]


def add_view_options(config: Configurator) -> None:
    # Not placed relative to other derivers of Pyramid, which the application may have moved.
    config.add_view_deriver(fresh_login, under=("secured_view", INGRESS), over=VIEW)
    registry = config.registry
    config.action(
        "altsession annotate_user", lambda: warn_of_annotation(registry), order=PHASE3_CONFIG + 11
    )


def warn_of_annotation(registry: Registry) -> None:
    """pyramid_tm asks who is signed in before every view, for the transaction's note."""
    tweens = registry.queryUtility(ITweens)
    present = {name for name, _ in tweens.explicit or tweens.implicit()}
    if TM not in present or not asbool(registry.settings.get("tm.annotate_user", True)):
        return
    policies = [registry.queryUtility(kind) for kind in (ISecurityPolicy, IAuthenticationPolicy)]
    helpers: tuple[type, ...] = (AltSessionAuthenticationHelper,)
    if registry.queryUtility(ISessionFactory) is session_factory:
        helpers += (SessionAuthenticationHelper,)
    if any(_asks_session(policy, helpers) for policy in policies):
        log.warning(
            "pyramid_tm reads authenticated_userid before every view, and this security policy"
            " reads it from the session: every request, static files too, costs a round trip and"
            " is a 503 while the server is away; set tm.annotate_user = false"
        )


def _asks_session(policy: object, helpers: tuple[type, ...]) -> bool:
    """Whether the policy visibly asks the session: it holds one of the helpers, or its code names
    ``request.altsession``.
    """
    held = [policy, *getattr(policy, "__dict__", {}).values()]
    held += [value for kind in type(policy).__mro__ for value in vars(kind).values()]
    if any(isinstance(getattr(one, "__self__", one), helpers) for one in held):
        return True
    calls = [getattr(policy, name, None) for name in ("authenticated_userid", "identity")]
    codes = [getattr(call, "__code__", None) for call in calls]
    return any("altsession" in code.co_names for code in codes if code is not None)
