"""What happens to the session of a request, from the tween's first look to the answer."""

import logging
import re
import secrets
import time
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pyramid.request import Request
from pyramid.response import Response
from zope.interface import implementer

from ..config.table import Settings
from ..driver import Driver
from ..errors import AltSessionError, SessionGone, StoreUnavailable
from ..interfaces import IAltSession
from ..protocol.commands import Commands
from ..protocol.fields import Timing
from ..protocol.state import SessionState
from ..protocol.token import Claim
from ..session import AltSession
from ..stores.memory import warn_of_processes
from .cookie import SessionCookie
from .visits import Visit, innermost, under_way

log = logging.getLogger("pyramid_altsession")

Tell = Callable[..., None]


def turn_into(
    response: Response, error: SessionGone | StoreUnavailable, environ: Mapping[str, Any]
) -> None:
    """Turn an answer into an error's page."""
    error.prepare(environ)
    response.status = error.status
    response.headerlist = error.headerlist
    response.app_iter = error.app_iter


def vary_on_cookie(response: Response) -> None:
    """Caches have to know that the answer depends on the cookie."""
    headers = response.headerlist
    found = [value for name, value in headers if name.lower() == "vary"]
    if not found:
        headers.append(("Vary", "Cookie"))
        return
    vary = ", ".join(found)
    if not {"*", "cookie"} & set(re.split(r"[\s,]+", vary.lower())):
        response.headers["Vary"] = f"{vary}, Cookie"


@implementer(IAltSession)
class RequestSession(AltSession):
    """``request.altsession``."""

    __slots__ = ()


class RequestLife:
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
        self._commands = commands
        self._driver = driver
        self._cookie = cookie
        self._tell = tell
        self._timing = Timing.of(settings.session)
        # What is kept with a request has a name of its own for each application: one may be
        # mounted in another, and see its environ or a copy of it.
        self.key = f"pyramid_altsession.{secrets.token_hex(8)}"
        self._answered = f"{self.key}.answered"
        self._warned = False
        self._warned_of_memory = False

    def session(self, request: Request) -> AltSession:
        """The session of a request: ``request.altsession`` itself. No round trip."""
        known = request.__dict__.get("altsession")
        if known is None:
            known = request.__dict__["altsession"] = self.attach(request)
        return known

    def visit(self, request: Request) -> Visit:
        """What the request is a part of: the browser's request to this application. Its attempts
        share that, and so do subrequests for the same visitor."""
        known: Visit | None = request.environ.get(self.key)
        if known is not None and known.request is request:
            return known
        visit = None
        if known is not None or innermost() is not None:
            visit = self._shared(request.environ, known)
        if visit is None:
            visit = Visit()
            visit.life = self
            visit.began = time.monotonic() if known is None else known.began
        request.environ[self.key] = visit
        return visit

    def _shared(self, environ: dict[str, Any], known: Visit | None) -> Visit | None:
        """A visit of the same visitor that this environ belongs to: it carries the same token, or
        it was made from that one's and carries none either. No cookie is nobody's."""
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
        """What the browser sent, whatever became of it since."""
        if visit.state is not None:
            return visit.state.claims
        assert visit.request is not None  # it is under way
        return self._claims(visit.request.environ)

    def state_of(self, request: Request) -> SessionState | None:
        """What is known of the request's session; None when it was not used."""
        visit: Visit | None = request.environ.get(self.key)
        return None if visit is None else visit.state

    def attach(self, request: Request) -> AltSession:
        """A view of the request's session; its cookie goes with the outermost answer.

        What is known of it outlives an attempt that pyramid_retry discards, and is shared with
        subrequests: a session made there is not lost.
        """
        return self.attach_to(self.visit(request), request)

    def attach_to(self, visit: Visit, request: Request) -> AltSession:
        """The same, where what the request is a part of is known."""
        outermost = request if visit.request is None else visit.request
        if outermost is not request:
            self.session(outermost)
        state = visit.state
        if state is None or outermost is request:
            state = self._begin_attempt(visit, outermost)
        # A weak reference: the request holds its session, and a circle would outlive both.
        tell = partial(self._tell, of=weakref.ref(request))
        driver = self._driver(state, tell)
        return RequestSession(driver, self._commands, self._settings.session)

    def _begin_attempt(self, visit: Visit, request: Request) -> SessionState:
        state, answered = visit.state, self._answered in request.__dict__
        if state is None:
            visit.home = id(request.environ)
            tokens = self._cookie.candidates(request.environ)
            state = visit.state = SessionState(tokens, self._timing, began=visit.began)
            state.wanted = self._settings.session.prefetch
            state.root, state.answered = id(request), answered
        else:
            state.begin_attempt(id(request), answered)
        if visit.request is not request:  # our tween does not have it in hand
            request.add_response_callback(self.answer)
        return state

    def answer(self, request: Request, response: Response) -> None:
        """The response callback: what the answer has to say about the session.

        It runs after all others, which may still use the session. It may run once for each
        attempt that pyramid_retry discards, and then says the same again.
        """
        waiting = request.response_callbacks
        if waiting:
            if self.answer not in waiting:
                request.add_response_callback(self.answer)
            return
        if self._answered in request.__dict__:  # a view handed its own request on
            return
        request.__dict__[self._answered] = True
        state = request.environ[self.key].state
        if state is None or state.root != id(request):
            return
        if state.sent is not None:
            state.abandon()
        if state.changes is not None:
            self._write_back_late(request, response)
            state.changes = None
        if state.renewal_due:
            self._renew(request, state)
        state.answered = True
        if state.used:
            vary_on_cookie(response)
        if state.cookie is not None:
            self._warn_of_http(request)
            self._warn_of_memory(request)
            self._cookie.send(response, state.cookie or None, age=state.cookie_age)

    def _warn_of_memory(self, request: Request) -> None:
        """Workers that load the application each have a store of their own."""
        several = request.environ.get("wsgi.multiprocess")
        if several and self._settings.redis.scheme == "memory" and not self._warned_of_memory:
            self._warned_of_memory = True
            warn_of_processes()

    def _warn_of_http(self, request: Request) -> None:
        if (
            self._settings.session.secure
            and request.environ.get("wsgi.url_scheme") == "http"
            and not self._warned
        ):
            self._warned = True
            log.warning(
                "sessions: the cookie is Secure and this request came over plain http, so the"
                " browser may never send it back; behind a proxy let the server know the scheme,"
                " for development set altsession.session.secure = false"
            )

    def _write_back_late(self, request: Request, response: Response) -> None:
        """What the tween has done already, or has not, where the application left it out: then
        the page is made, and becomes another if that fails."""
        try:
            self.write_back(request, response)
        except (SessionGone, StoreUnavailable) as error:
            turn_into(response, error, request.environ)

    def write_back(self, request: Request, response: Response) -> None:
        """Write what changed in ``request.session``, unless the answer is a failure, or says
        already that the session is gone."""
        state = self.state_of(request)
        if state is None or state.changes is None or state.root != id(request):
            return
        if response.status_int >= 500 or isinstance(
            getattr(request, "exception", None), SessionGone
        ):
            return
        try:
            driver = self.session(request).driver
            driver.run(driver.dialogue.write_back(state.changes))
        except SessionGone:
            if self._settings.sync.on_gone == "error":
                raise
            state.reported = True
            log.warning("session %s is gone: what changed in request.session is lost", state.token)

    def report(self, request: Request) -> None:
        """The answer is made. Where it tells of a failure of ours, reading ``request.session``
        finds what is known, and does not fail once more."""
        state = self.state_of(request)
        if state is not None and state.root == id(request):
            state.reported = state.reported or isinstance(request.exception, AltSessionError)

    def abandon(self, request: Request) -> None:
        """There is no answer: what a prefetch brings is nobody's."""
        state = self.state_of(request)
        if state is not None and state.root == id(request):
            state.abandon()

    def _renew(self, request: Request, state: SessionState) -> None:
        """The periodic renewal, if it is due: the last thing before the answer leaves, so that a
        login meanwhile is not undone by an older cookie that arrives later."""
        try:
            self.session(request).driver.execute(state.renewal())
        except AltSessionError:
            state.cookie = None  # the page is made: it goes out, and a later request renews
