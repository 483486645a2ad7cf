"""Whose session a request has, and when its end has come."""

import logging
import secrets
import time
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pyramid.request import Request
from pyramid.response import Response

from ..config.table import Settings
from ..interfaces import ISessionAPI
from ..protocol.commands import Commands
from ..protocol.fields import Timing
from ..protocol.state import SessionState
from ..protocol.token import Claim
from ..session import AltSession, Driver
from .cookie import SessionCookie
from .ending import Ending, Moment
from .visits import Visit, innermost, under_way

log = logging.getLogger("pyramid_altsession")

Tell = Callable[..., None]


class RequestSessions:
    """Sessions of the requests to one application."""

    def __init__(
        self,
        settings: Settings,
        commands: Commands,
        cookie: SessionCookie,
        driver: Callable[[SessionState, Tell], Driver],
        tell: Tell,
    ) -> None:
        self._settings = settings
        self.sync = settings.sync
        self.attribute = "altsession"  # of the request
        self._commands = commands
        self._driver = driver
        self._cookie = cookie
        self._tell = tell
        self._timing = Timing.of(settings.session)
        # The names of what is kept with a request differ between applications, because an
        # application that is mounted in another one sees the other's environ, or a copy of it.
        self.key = f"pyramid_altsession.{secrets.token_hex(8)}"
        self._answered = f"{self.key}.answered"
        self.ending = Ending(settings, cookie, self.session)

    def session(self, request: Request) -> AltSession:
        """The session of a request: ``request.altsession`` itself. No round trip."""
        known: AltSession | None = request.__dict__.get(self.attribute)
        if known is None:
            known = request.__dict__[self.attribute] = self.attach(request)
        return known

    def visit(self, request: Request) -> Visit:
        """The visit that this request is a part of: the browser's request to this application. All
        its attempts share the visit, and so do subrequests for the same visitor.
        """
        known: Visit | None = request.environ.get(self.key)
        if known is not None and known.request is request:
            return known
        visit = None
        if known is not None or innermost() is not None:
            visit = self._shared(request.environ, known)
        if visit is None:
            visit = Visit()
            visit.sessions = self
            visit.began = time.monotonic() if known is None else known.began
            visit.unwatched = known is not None and known.unwatched
        request.environ[self.key] = visit
        return visit

    def _shared(self, environ: dict[str, Any], known: Visit | None) -> Visit | None:
        """The visit that this environ belongs to: it carries the same token, or it was made from
        that visit's environ and neither carries a token. Otherwise a request without a cookie
        shares nothing.
        """
        around = under_way(self)
        claims = self._claims(environ)
        for visit in around:
            if (claims or visit is known) and self._sent_with(visit) == claims:
                return visit
        if known is None or known.state is None or not known.over(environ):
            return None
        if known.state.claims != claims:
            return None
        known.home = id(environ)
        return known

    def _claims(self, environ: Mapping[str, Any]) -> list[Claim]:
        return [token.claim for token in self._cookie.candidates(environ)]

    def _sent_with(self, visit: Visit) -> list[Claim]:
        """The claims that the browser sent, even if the cookie was replaced since."""
        if visit.state is not None:
            return visit.state.claims
        assert visit.request is not None  # because the visit is under way
        return self._claims(visit.request.environ)

    def state_of(self, request: Request) -> SessionState | None:
        """The state of the request's session; None if it was not used."""
        visit: Visit | None = request.environ.get(self.key)
        return None if visit is None else visit.state

    def attach(self, request: Request) -> AltSession:
        """A view of the request's session; its cookie goes with the outermost answer.

        Its state outlives an attempt that pyramid_retry discards, and is shared with subrequests,
        so that a session made there is not lost.
        """
        return self.attach_to(self.visit(request), request)

    def attach_to(self, visit: Visit, request: Request) -> AltSession:
        """The same for a visit that is known already."""
        outermost = request if visit.request is None else visit.request
        if outermost is not request:
            self.session(outermost)
        state = visit.state
        if state is None or outermost is request:
            state = self._begin_attempt(visit, outermost)
        # A weak reference, because the request refers to its session: a cycle would keep both
        # alive.
        tell = partial(self._tell, of=weakref.ref(request))
        driver = self._driver(state, tell)
        return AltSession(driver, self._commands, self._settings.session)

    def _begin_attempt(self, visit: Visit, request: Request) -> SessionState:
        state, answered = visit.state, self._answered in request.__dict__
        in_hand = visit.request is request  # the tween is serving it
        if visit.unwatched and not in_hand:
            # The tween added no callback, as there was no other one. Pyramid makes the empty list
            # when the router asks for it, so a list shows that the callbacks have run.
            answered = not request.__dict__.get("response_callbacks", True)
        if state is None:
            visit.home = id(request.environ)
            tokens = self._cookie.candidates(request.environ)
            state = visit.state = SessionState(tokens, self._timing, began=visit.began)
            state.wanted = self._settings.session.prefetch
            state.root, state.answered = id(request), answered
        else:
            state.begin_attempt(id(request), answered)
        if not in_hand and not answered:
            request.add_response_callback(self.answer)
        return state

    def answer(self, request: Request, response: Response) -> None:
        """The response callback.

        It runs after all others, which may still use the session. It may run once for each
        attempt that pyramid_retry discards, and then says the same again.
        """
        # Callbacks of the package's other sessions do not count: they would wait for this one in
        # turn.
        waiting = request.response_callbacks
        if waiting and not all(
            isinstance(getattr(each, "__self__", None), RequestSessions) for each in waiting
        ):
            request.add_response_callback(self.answer)
            return
        if self._answered in request.__dict__:  # a view passed its own request on
            return
        request.__dict__[self._answered] = True
        state = request.environ[self.key].state
        if state is not None:
            self.ending.at(Moment.LEAVING, request, state, response)


def request_sessions(request: Request) -> RequestSessions:
    """The RequestSessions of the application that serves this request."""
    visit = innermost()
    if visit is not None and visit.request is request:
        return visit.sessions
    sessions: RequestSessions = request.registry.getUtility(ISessionAPI).requests
    return sessions
