"""The end of a request: what becomes of the session and of the answer, moment by moment."""

import logging
import re
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from pyramid.httpexceptions import HTTPException
from pyramid.request import Request
from pyramid.response import Response

from ..config.table import Settings
from ..errors import AltSessionError, SessionFull, SessionGone, StoreUnavailable
from ..protocol.state import SessionState
from ..session import AltSession
from ..stores.memory import warn_of_processes
from .cookie import SessionCookie, keep_from_caches

log = logging.getLogger("pyramid_altsession")


class Moment(Enum):
    """When the end of a request is looked at, in the order in which they come."""

    VOTE = "pyramid_tm is about to commit"
    ANSWERED = "the application has answered"
    RAISED = "an error of this package came up to the tween"
    FAILED = "another error came up to the tween: there is no answer"
    LEAVING = "every other response callback has run"


class Ending:
    """The ends of the requests to one application. ``session`` gives the session of a request."""

    def __init__(
        self,
        settings: Settings,
        cookie: SessionCookie,
        session: Callable[[Request], AltSession],
    ) -> None:
        self._settings = settings
        self._cookie = cookie
        self._session = session
        self._warned = False
        self._warned_of_memory = False

    def at(
        self,
        moment: Moment,
        request: Request,
        state: SessionState | None,
        response: Any = None,
    ) -> Any:
        """Do what is due at this moment; returns the answer, which may be another one now. It may
        be any object that provides IResponse, as views need not return Pyramid's class. ``state``:
        that of the session, None if it was not used. A request that shares another request's
        session leaves everything to that request.
        """
        if moment is Moment.RAISED:
            try:
                response = render(request)
            except BaseException:
                self.at(Moment.FAILED, request, state)
                raise
        if state is None or state.root != id(request):
            return response
        match moment:
            case Moment.RAISED:
                self._note_error(request, state)
            case Moment.FAILED:
                state.abandon()
                if state.changes is not None:
                    state.changes.forget()  # a tween above may still answer
            case Moment.VOTE:
                self._write_back(request, response, state)
            case Moment.ANSWERED:
                try:
                    self._write_back(request, response, state)
                except TypeError:  # a value that JSON cannot carry
                    response = render(request)
                if request.exception is not None:
                    self._note_error(request, state)
            case _:  # LEAVING
                if state.sent is not None:
                    state.abandon()
                if state.changes is not None:  # only if the application left out the tween
                    self._write_back_late(request, response, state)
                if state.renewal_due:
                    self._renew(request, state)
                if state.cookie is not None:
                    self._warn(request)
                send_off(response, state, self._cookie)
        return response

    def _write_back(self, request: Request, response: Response, state: SessionState) -> None:
        """Write the changes of ``request.session``, unless the answer is a failure, already says
        that the session is gone, or is discarded for another attempt. Those of a failure are
        dropped, because a tween above may put another answer in its place.
        """
        changes = state.changes
        if changes is None or not changes.possible:
            return
        raised = getattr(request, "exception", None)
        if response.status_int >= 500 or isinstance(raised, SessionGone):
            changes.forget()
            return
        if raised is not None and tried_again(request, raised):
            return
        if not changes.due():
            return
        driver = self._session(request).driver
        try:
            driver.run(driver.dialogue.write_back(changes))
        except SessionGone:
            if self._settings.sync.on_gone == "error":
                raise
            state.reported = True
            log.warning("session %s is gone: what changed in request.session is lost", state.id)

    def _write_back_late(self, request: Request, response: Response, state: SessionState) -> None:
        """Write back after the page was made; if writing fails, the page is replaced by the
        error's.
        """
        try:
            self._write_back(request, response, state)
        except (SessionFull, SessionGone, StoreUnavailable) as error:
            turn_into(response, error, request.environ)
        state.changes = None

    def _note_error(self, request: Request, state: SessionState) -> None:
        """If the answer reports an error of this package, a later use of ``request.session`` shows
        what is known, and does not raise the error again.
        """
        state.reported = state.reported or isinstance(request.exception, AltSessionError)

    def _renew(self, request: Request, state: SessionState) -> None:
        """The periodic renewal. It comes last, just before the answer is sent, so that its cookie
        does not replace that of a login which took place meanwhile.
        """
        try:
            self._session(request).driver.execute(state.renewal())
        except AltSessionError:
            state.cookie = None  # the page is ready: send it, and let a later request renew

    def _warn(self, request: Request) -> None:
        """Warn once if the scheme or the store makes sessions useless."""
        environ, settings = request.environ, self._settings
        plain = settings.session.secure and environ.get("wsgi.url_scheme") == "http"
        if plain and not self._warned:
            self._warned = True
            warn_of_plain_http()
        several = environ.get("wsgi.multiprocess") and settings.redis.scheme == "memory"
        if several and not self._warned_of_memory:  # each process has a store of its own
            self._warned_of_memory = True
            warn_of_processes()


def tried_again(request: Request, raised: BaseException) -> bool:
    """Whether pyramid_retry discards this answer, an exception view's, for another attempt."""
    if "retry.attempts" not in request.environ:
        return False
    from pyramid_retry import is_error_retryable

    return bool(is_error_retryable(request, raised))


def warn_of_plain_http() -> None:
    log.warning(
        "sessions: the cookie is Secure and this request came over plain http, so the"
        " browser may never send it back; behind a proxy let the server know the scheme,"
        " for development set altsession.session.secure = false"
    )


def send_off(response: Response, state: SessionState, cookie: SessionCookie) -> None:
    """Put the session's headers into the answer; after that no new session can be made."""
    state.answered = True
    if state.used:
        vary_on_cookie(response)
    if state.away is not None:
        keep_from_caches(response)  # the page shows defaults
    if state.cookie is not None:
        cookie.send(response, state.cookie or None, age=state.cookie_age)


def render(request: Request) -> Response:
    """The application's exception view for an error raised above EXCVIEW (by pyramid_tm, which
    reads the userid there, or by the write-back), or the error itself where that view needs the
    session as well."""
    try:
        return request.invoke_exception_view(reraise=True)
    except AltSessionError as raised:
        if isinstance(raised, HTTPException):
            return raised
        raise


def turn_into(response: Response, error: HTTPException, environ: Mapping[str, Any]) -> None:
    """Turn an answer into an error's page."""
    error.prepare(environ)
    response.status = error.status
    response.headerlist = error.headerlist
    response.app_iter = error.app_iter


def vary_on_cookie(response: Response) -> None:
    """Tell caches that the answer depends on the cookie."""
    headers = response.headerlist
    found = []
    for name, value in headers:
        if name[:1] in "Vv" and name.lower() == "vary":
            found.append(value)
    if not found:
        headers.append(("Vary", "Cookie"))
        return
    vary = ", ".join(found)
    if not {"*", "cookie"} & set(re.split(r"[\s,]+", vary.lower())):
        response.headers["Vary"] = f"{vary}, Cookie"
