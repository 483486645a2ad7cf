"""Which request is being served, and which one it is a part of.

Found by a context variable: threads, greenlets and tasks each have one of their own, whatever runs
them. A thread-local is shared by greenlets where gevent patches after Pyramid was imported.
"""

from contextvars import ContextVar, Token

from pyramid.request import Request

from .state import SessionState


class Visit:
    """A request as the browser sent it, to one application.

    It lies in the request's environ, so that the attempts of pyramid_retry and what is made from
    that environ find it. ``key`` is its name there, another one for each application.
    ``request`` is the attempt that the tween has in hand, None before and after.
    """

    # Made for every request: what most never change stays in the class.
    request: Request | None = None
    outer: "Visit | None" = None
    state: SessionState | None = None

    def __init__(self, key: str, home: int, began: float) -> None:
        self.key = key
        self.home = home  # the id of the environ that it was made for, to tell it from copies
        self.began = began  # monotonic seconds

    def open(self, request: Request) -> "Token[Visit | None]":
        """The tween begins; :meth:`close` takes what this returns."""
        self.request = request
        self.outer = _innermost.get()
        return _innermost.set(self)

    def close(self, token: "Token[Visit | None]") -> None:
        """The tween ends. What was started meanwhile and goes on, in a copy of the context, is no
        part of the request any more."""
        _innermost.reset(token)
        self.request = self.outer = None

    def over(self, environ: dict[str, object]) -> bool:
        """Whether a request with this environ may take it over: another attempt, or one that comes
        after the answer, as that of an error page does."""
        answered = self.state is not None and self.state.answered
        return answered or self.home == id(environ)


_innermost: ContextVar[Visit | None] = ContextVar("pyramid_altsession.visit", default=None)
innermost = _innermost.get
"""What this context serves, of whatever application; None outside of a request."""


def under_way(key: str) -> list[Visit]:
    """What this context serves for one application, the innermost first."""
    found: list[Visit] = []
    visit = _innermost.get()
    while visit is not None:
        if visit.key == key and visit.request is not None:
            found.append(visit)
        visit = visit.outer
    return found
