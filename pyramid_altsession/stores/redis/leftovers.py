"""Users in whose index a call that failed may have left an entry without a session."""

import time
from contextlib import suppress
from typing import TypeVar

from ...protocol.messages import PRUNE_AGE

MOST = 10_000
"""Users that are remembered at most. Entries of other users are removed by later logins, like those
of sessions that expired.
"""
OLD = PRUNE_AGE / 1000 + 1
"""Seconds after which such an entry may be removed: then no login can be under way any more."""
SPAN = 10.0
"""If several calls of one user fail within this time, in seconds, the user is noted once."""
AGAIN = 5.0
"""Seconds after which a failed attempt to tidy is repeated."""

K = TypeVar("K")


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
        user = _taken(self._tried, AGAIN)
        if user is None and (noted := _taken(self._noted, OLD)):
            user, _ = noted
        return user


def _taken(queue: dict[K, float], seconds: float) -> K | None:
    """Remove the first entry if it is so old, and return it. Other threads may change the queue."""
    with suppress(RuntimeError, StopIteration):  # changed meanwhile, or empty
        first, since = next(iter(queue.items()))
        if time.monotonic() - since >= seconds and queue.pop(first, None) is not None:
            return first
    return None
