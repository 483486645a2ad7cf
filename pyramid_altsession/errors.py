"""What can go wrong, by what the caller can do about it.

The message of an error is for ``str(exc)`` and the log. The page that a visitor sees is the
fixed ``explanation`` alone: it holds no host, key or value.
"""

from pyramid.httpexceptions import HTTPConflict, HTTPForbidden, HTTPServiceUnavailable


class AltSessionError(Exception):
    """Base of all errors of this package."""


class SessionGone(AltSessionError, HTTPConflict):
    """The session ended, or was renewed by another request, while this request was under way.

    Nothing was read or written. Without a view of the application's it renders as 409 with
    ``Retry-After`` (seconds).
    """

    title = "Your session has changed"
    explanation = (
        "While this page was loading, you signed in or out in another window, or your session"
        " ended. So it could not be finished. Please reload the page, sign in if it asks you"
        " to, and repeat what you did last."
    )

    def __init__(self, message: str = "the session is gone") -> None:
        HTTPConflict.__init__(self, headers=[("Cache-Control", "no-store"), ("Retry-After", "1")])
        self.message = message

    def __str__(self) -> str:
        return self.message


class StoreUnavailable(AltSessionError, HTTPServiceUnavailable):
    """The server did not answer in time, or answered that it cannot serve now.

    A write that ends so may or may not have been carried out. Renders as 503 with
    ``Retry-After`` (seconds).
    """

    explanation = "The service is busy or being maintained. Please try again in a moment."

    def __init__(self, message: str) -> None:
        HTTPServiceUnavailable.__init__(
            self, headers=[("Cache-Control", "no-store"), ("Retry-After", "2")]
        )
        self.message = message

    def __str__(self) -> str:
        return self.message


class StoreFull(StoreUnavailable):
    """The server is out of memory and refused the write; nothing was written.

    Reads, ``touch``, ``remove`` and ``invalidate`` still work.
    """


class TooManySessions(AltSessionError, HTTPForbidden):
    """The user has ``session.max_sessions_per_user`` sessions; nobody was signed in. 403."""

    explanation = "You are signed in at too many places. Please sign out at one of them first."

    def __init__(self, message: str) -> None:
        HTTPForbidden.__init__(self, headers=[("Cache-Control", "no-store")])
        self.message = message

    def __str__(self) -> str:
        return self.message


class FreshLoginRequired(AltSessionError, HTTPForbidden):
    """The view wants a sign-in that is younger than this session's. 403; an exception view can
    ask for the password again."""

    explanation = "Please sign in again to see this page."

    def __init__(self, message: str) -> None:
        HTTPForbidden.__init__(self, headers=[("Cache-Control", "no-store")])
        self.message = message

    def __str__(self) -> str:
        return self.message


class CorruptValue(AltSessionError, ValueError):
    """What is stored under one key cannot be decoded; ``set`` or ``remove`` repairs it."""


class ValueTooLarge(AltSessionError, ValueError):
    """An encoded value is longer than ``session.max_value_bytes``; nothing was sent."""


class InvalidKey(AltSessionError, ValueError):
    """The key is no non-empty str of at most 512 bytes that does not begin with ``@``; or a user
    id or session id holds a lone surrogate."""
