"""Users in whose index a call that failed may have left an entry without a session."""

import time
from contextlib import suppress

from ...protocol.messages import PRUNE_AGE

MOST = 10_000
"""Users that are remembered at most. Entries of other users are removed by later logins, like those
of sessions that expired.
"""
OLD = PRUNE_AGE / 1000 + 1
"""Seconds after which such an entry may be removed: then no login can be under way any more."""
SPAN = 10.0
"""Calls of one user that fail within so many seconds are noted once."""
AGAIN = 5.0
"""Seconds after which a failed attempt to tidy is repeated."""


class Leftovers:
    """The users whose calls failed in this process, in the order in which they failed."""

    def __init__(self) -> None:
        self._noted: dict[tuple[str, float], float] = {}
        self._tried: dict[str, float] = {}

    def note(self, user: str) -> None:
        """A call about this user failed just now."""
        now = time.monotonic()
        if len(self._noted) < MOST:
            self._noted[user, now // SPAN] = now

    def failed(self, user: str) -> None:
        """An attempt to tidy this user's index failed."""
        if len(self._tried) < MOST:
            self._tried[user] = time.monotonic()

    def due(self) -> str | None:
        """A user whose index can be tidied now, or None. Each user is given to one caller only, who
        has to do it.
        """
        now = time.monotonic()
        with suppress(RuntimeError, StopIteration):  # others change it, or it is empty
            user, since = next(iter(self._tried.items()))
            if now - since >= AGAIN and self._tried.pop(user, None) is not None:
                return user
        with suppress(RuntimeError, StopIteration):
            noted, since = next(iter(self._noted.items()))
            if now - since >= OLD and self._noted.pop(noted, None) is not None:
                return noted[0]
        return None
