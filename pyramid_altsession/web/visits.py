"""Which request is being served, and which one it is a part of.

A context variable tells: each thread, greenlet and task has its own value, whatever runs it. A
thread-local would be shared by greenlets if gevent patches after Pyramid was imported.
"""

from contextvars import ContextVar, Token
from typing import TYPE_CHECKING

from pyramid.request import Request

from ..protocol.state import SessionState

if TYPE_CHECKING:
    from .requests import RequestSessions


class Visit:
    """A request as the browser sent it, to one application.

    It is kept in the request's environ, so that the attempts of pyramid_retry and requests made
    from that environ find it, under another name for each application. ``request`` is the attempt
    that the tween is serving, None before and after.
    """

    # One is made for every request, and most requests do not use their session. So it has no
    # __init__, and attributes that seldom change stay in the class.
    sessions: "RequestSessions"
    began: float  # monotonic seconds
    request: Request | None = None
    outer: "Visit | None" = None
    state: SessionState | None = None
    unwatched = False  # the tween is over, and has left no response callback
    home = 0  # with a state: the id of its environ, to tell it from copies

    def open(self, request: Request) -> "Token[Visit | None]":
        """Called when the tween begins. At its end the tween resets the context variable with the
        returned token, and clears ``request`` and ``outer``, so that code that goes on in a copy of
        the context does not count as a part of the request any more.
        """
        self.request = request
        self.outer = serving.get()
        return serving.set(self)

    def over(self, environ: dict[str, object]) -> bool:
        """Whether a request with this environ may take over the visit: another attempt, or a
        request after the answer, such as one for an error page.
        """
        answered = self.state is not None and self.state.answered
        return answered or self.home == id(environ)


serving: ContextVar[Visit | None] = ContextVar("pyramid_altsession.visit", default=None)
innermost = serving.get
"""The visit that this context serves, of any application; None outside of a request."""


def under_way(sessions: "RequestSessions") -> list[Visit]:
    """The visits that this context serves for one application, the innermost first."""
    found: list[Visit] = []
    visit = serving.get()
    while visit is not None:
        if visit.sessions is sessions and visit.request is not None:
            found.append(visit)
        visit = visit.outer
    return found
