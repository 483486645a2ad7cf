"""Which request is being served, and which one it is a part of.

Found by a context variable: threads, greenlets and tasks each have one of their own, whatever runs
them. A thread-local is shared by greenlets where gevent patches after Pyramid was imported.
"""

from contextvars import ContextVar, Token
from typing import TYPE_CHECKING

from pyramid.request import Request

from ..protocol.state import SessionState

if TYPE_CHECKING:
    from .requests import RequestLife


class Visit:
    """A request as the browser sent it, to one application.

    It lies in the request's environ, so that the attempts of pyramid_retry and what is made from
    that environ find it; under another name for each application.
    ``request`` is the attempt that the tween has in hand, None before and after.
    """

    # One is made for every request, most of which leave their session alone: so it has no
    # __init__, and what seldom changes stays in the class.
    life: "RequestLife"
    began: float  # monotonic seconds
    request: Request | None = None
    outer: "Visit | None" = None
    state: SessionState | None = None
    unwatched = False  # the tween is over, and has left no response callback
    home = 0  # once it has a state: the id of the environ that it lies in, to tell it from copies

    def open(self, request: Request) -> "Token[Visit | None]":
        """The tween begins. At its end it resets the context variable with what this returns, and
        takes ``request`` and ``outer`` away: what was started meanwhile and goes on, in a copy of
        the context, is no part of the request any more."""
        self.request = request
        self.outer = serving.get()
        return serving.set(self)

    def over(self, environ: dict[str, object]) -> bool:
        """Whether a request with this environ may take it over: another attempt, or one that comes
        after the answer, as that of an error page does."""
        answered = self.state is not None and self.state.answered
        return answered or self.home == id(environ)


serving: ContextVar[Visit | None] = ContextVar("pyramid_altsession.visit", default=None)
innermost = serving.get
"""What this context serves, of whatever application; None outside of a request."""


def under_way(life: "RequestLife") -> list[Visit]:
    """What this context serves for one application, the innermost first."""
    found: list[Visit] = []
    visit = serving.get()
    while visit is not None:
        if visit.life is life and visit.request is not None:
            found.append(visit)
        visit = visit.outer
    return found
