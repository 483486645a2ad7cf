"""Events, sent with ``registry.notify``; subscribe with ``config.add_subscriber``."""

import json
from datetime import UTC, datetime

from pyramid.request import Request
from zope.interface import implementer

from .interfaces import ISessionCreated, ISessionInvalidated, ISessionRenewed, ITokenRejected

__all__ = ["SessionCreated", "SessionInvalidated", "SessionRenewed", "TokenRejected"]


class SessionEvent:
    """``id``: the session's public handle. ``request``: the request, or None. ``userid``: the
    session's user as far as it was known, or None. ``reason``: a short text that says why it
    happened.
    """

    def __init__(
        self,
        id: str,
        request: Request | None = None,
        userid: str | None = None,
        reason: str = "call",
    ) -> None:
        self.id = id
        self.request = request
        self.userid = userid
        self.reason = reason

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"


@implementer(ISessionCreated)
class SessionCreated(SessionEvent):
    """A session was made."""


@implementer(ISessionRenewed)
class SessionRenewed(SessionEvent):
    """A session has a new cookie; the old one no longer works."""


@implementer(ISessionInvalidated)
class SessionInvalidated(SessionEvent):
    """A session was ended by a call (not by time)."""


@implementer(ITokenRejected)
class TokenRejected(SessionEvent):
    """A cookie named a live session with a wrong verifier: stale, guessed or stolen.

    The session is not harmed, and the visitor is treated as one without a session.
    """


LIMIT, ADMINISTRATION = "max_sessions_per_user", "administration"
"""Reasons that also say who asked for it."""


def event_line(kind: str, event: SessionEvent, asking: Request | None) -> str:
    """An event as one JSON object, for the log. ``state_base``: the request that is being served.

    ``address`` is REMOTE_ADDR. Headers such as X-Forwarded-For are not used, because a visitor can
    forge them; the server in front has to check them.
    """
    by = "program" if asking is None else "page"
    if event.reason in (LIMIT, ADMINISTRATION):
        by = "limit" if event.reason == LIMIT else event.reason
    return json.dumps(
        {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "event": kind,
            "session": event.id,
            "user": event.userid,
            "reason": event.reason,
            "by": by,
            "address": getattr(asking, "remote_addr", None),
        }
    )


BY_KIND: dict[str, type[SessionEvent]] = {
    "created": SessionCreated,
    "renewed": SessionRenewed,
    "invalidated": SessionInvalidated,
    "rejected": TokenRejected,
}
