"""The errors of this package.

The message of an error is for ``str(exc)`` and the log. The visitor's page shows only the fixed
``explanation``, which holds no host, key or value.
"""

from pyramid.httpexceptions import (
    HTTPConflict,
    HTTPException,
    HTTPForbidden,
    HTTPServiceUnavailable,
)


class AltSessionError(Exception):
    """Base of all errors of this package."""


class ErrorPage(AltSessionError, HTTPException):
    """Base of the errors that Pyramid renders as a page."""

    retry_after: int | None = None
    """Seconds, for the header ``Retry-After``."""

    def __init__(self, message: str) -> None:
        headers = [("Cache-Control", "no-store")]
        if self.retry_after is not None:
            headers.append(("Retry-After", str(self.retry_after)))
        HTTPException.__init__(self, headers=headers)
        self.args = (message,)  # for code that makes the error again from them, in another process
        self.message = message

    def __str__(self) -> str:
        return self.message


class SessionGone(ErrorPage, HTTPConflict):
    """The session ended, or was renewed by another request, while this request was under way.

    Nothing was read or written. If the application has no exception view for it, it renders as 409
    with ``Retry-After`` (seconds).
    """

    title = "Your session has changed"
    explanation = (
        "While this page was loading, you signed in or out in another window, or your session"
        " ended. So it could not be finished. Please reload the page, sign in if it asks you"
        " to, and repeat what you did last."
    )

    retry_after = 1

    def __init__(self, message: str = "the session is gone") -> None:
        super().__init__(message)


class StoreUnavailable(ErrorPage, HTTPServiceUnavailable):
    """The server did not answer in time, or answered that it cannot serve now.

    A write that raises this may or may not have been carried out. It renders as 503 with
    ``Retry-After`` (seconds).
    """

    explanation = "The service is busy or being maintained. Please try again in a moment."
    retry_after = 2


class StoreFull(StoreUnavailable):
    """The server is out of memory and refused the write; nothing was written.

    Reads, ``touch``, ``remove``, ``renew`` and ``invalidate`` still work.
    """


UNCONFIRMED = "it was carried out, and no replica confirmed in time: it may be undone by a failover"


class NotDurable(StoreUnavailable):
    """No replica confirmed a ``durable=True`` call in time.

    The call was carried out, and its cookie is sent or dropped. But if the server is lost now, a
    replica without the change may take its place: an ended session, or a replaced cookie, may come
    back. The same call again asks the replicas again.
    """

    explanation = (
        "What you asked for was done, but a fault of the server could still undo it. To be sure,"
        " please do it again in a moment."
    )


class SessionFull(ErrorPage, HTTPConflict):
    """The session would have more keys than ``session.max_keys``, or more bytes than
    ``session.max_bytes``; nothing was written. It renders as 409.

    Reads still work, and so do calls that add nothing: ``remove``, a shorter value, ``renew``,
    ``login``, ``invalidate``.
    """

    title = "Your session is full"
    explanation = (
        "There is no room for more in your session. Please remove something first, or sign out and"
        " begin anew."
    )


class TooManySessions(ErrorPage, HTTPForbidden):
    """The user already has ``session.max_sessions_per_user`` sessions, so nobody was signed in. It
    renders as 403."""

    explanation = "You are signed in at too many places. Please sign out at one of them first."


class FreshLoginRequired(ErrorPage, HTTPForbidden):
    """The view needs a more recent sign-in than this session's. It renders as 403; an exception
    view can ask for the password again."""

    explanation = "Please sign in again to see this page."


class CorruptValue(AltSessionError, ValueError):
    """The stored bytes of one key cannot be decoded; repair it with ``set`` or ``remove``."""


class ValueTooLarge(AltSessionError, ValueError):
    """An encoded value is longer than ``session.max_value_bytes``; nothing was sent."""


class InvalidKey(AltSessionError, ValueError):
    """A key must be a non-empty str of at most 512 bytes that does not begin with ``@``; a user id
    or session id must not contain a lone surrogate."""
