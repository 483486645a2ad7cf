"""The small tween, always installed: it notes when a request begins, completes its answer, and
renders errors of this package that were raised above the exception views.
"""

import logging
import time
from contextvars import Token

from pyramid.config import PHASE1_CONFIG, PHASE3_CONFIG, Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.interfaces import ITweens
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response
from pyramid.tweens import EXCVIEW, INGRESS, MAIN

from ..api import SessionAPI
from ..errors import AltSessionError
from ..interfaces import ISessionAPI
from .ending import Moment
from .requests import RequestSessions
from .transaction import TM, TRANSACTION, Handler
from .visits import Visit, serving

log = logging.getLogger("pyramid_altsession")
NAME = "pyramid_altsession.tween.altsession_tween_factory"
NONE = (Token.MISSING, None)
"""The former value of the context variable, if this context serves no other request."""


def altsession_tween_factory(handler: Handler, registry: Registry) -> Handler:
    found: dict[str, SessionAPI] = dict(registry.getUtilitiesFor(ISessionAPI))
    handler = watching(handler, found.pop("").requests)  # the innermost one, which is needed most
    for further in found.values():
        handler = watching(handler, further.requests)
    return handler


def watching(handler: Handler, sessions: RequestSessions) -> Handler:
    """The tween of one session."""
    key, answer, at = sessions.key, sessions.answer, sessions.ending.at
    begin, end, monotonic = serving.set, serving.reset, time.monotonic

    def altsession_tween(request: Request) -> Response:
        # Most requests do not use their session. The code here runs for each of them, so it is
        # short.
        visit = Visit()
        visit.sessions = sessions
        visit.began = monotonic()
        visit.request = request
        began = begin(visit)
        token: Token[Visit | None] | None = began
        if key in request.environ or began.old_value not in NONE:  # it may be a part of another
            end(began)
            visit = sessions.visit(request)
            token = visit.open(request) if visit.request is None else None
        else:
            request.environ[key] = visit
        try:
            if visit.state is not None:  # another attempt of pyramid_retry
                sessions.session(request)
            response = handler(request)
            state = visit.state
            if state is not None and (state.changes is not None or request.exception is not None):
                response = at(Moment.ANSWERED, request, state, response)
            return response
        except AltSessionError:
            return at(Moment.RAISED, request, visit.state)
        except BaseException:
            at(Moment.FAILED, request, visit.state)
            raise
        finally:
            # A tween above or another callback may still use the session. If there is no callback
            # yet, the first use adds this package's, so that most requests need none.
            callbacks = "response_callbacks" in request.__dict__
            visit.unwatched = visit.state is None and token is not None and not callbacks
            if not visit.unwatched:
                request.response_callbacks += (answer,)
            if token is not None:
                end(token)
                visit.request = visit.outer = None

    return altsession_tween


def add_tween(config: Configurator) -> None:
    """The one placement that holds for every order of includes."""
    config.add_tween(
        NAME,
        under=("pyramid_debugtoolbar.toolbar_tween_factory", INGRESS),
        over=(TM, EXCVIEW, MAIN),
    )
    registry = config.registry

    def add_transaction() -> None:
        if registry.getUtility(ISessionAPI).settings.transactional:
            config.add_tween(TRANSACTION, under=(TM, NAME), over=(EXCVIEW, MAIN))

    config.action("altsession transaction", add_transaction, order=PHASE1_CONFIG + 1)
    config.action("altsession tweens", lambda: check(registry), order=PHASE3_CONFIG + 10)


def check(registry: Registry) -> None:
    """Warn if an explicit ``pyramid.tweens`` leaves out the tween: Pyramid drops it silently."""
    tweens = registry.queryUtility(ITweens)
    present = {name for name, _ in tweens.explicit or tweens.implicit()}
    settings = registry.getUtility(ISessionAPI).settings
    if settings.transactional:
        if not settings.sync.enabled:
            raise ConfigurationError(
                "altsession.transactional: concerns only request.session, which needs"
                " altsession.sync.enabled = true"
            )
        missing = [name for name in (NAME, TM, TRANSACTION) if name not in present]
        if missing:
            raise ConfigurationError(
                "altsession.transactional: needs pyramid_tm (config.include), and pyramid.tweens,"
                f" if the settings have it, has to list {', '.join(missing)}"
            )
    elif NAME not in present:
        log.warning(
            "pyramid.tweens does not list %s: what changes in request.session is written after"
            " everything else, errors above the exception views are not rendered, subrequests have"
            " sessions of their own, and SessionInfo.current is never true",
            NAME,
        )
