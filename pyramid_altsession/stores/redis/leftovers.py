"""Users in whose index there may be an entry without a session: after a call that failed, or after
a failover, which may lose the latest sessions.
"""

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
LATEST = 60.0
"""Seconds before a failover is noticed in which a sign-in may have been lost with the old node."""
AGAIN = 5.0
"""Seconds after which a failed attempt to tidy is repeated."""

K = TypeVar("K")


class Leftovers:
    """The users concerned by what failed in this process, in the order of the failures."""

    def __init__(self) -> None:
        self._noted: dict[tuple[str, float], float] = {}
        self._tried: dict[str, float] = {}
        self._latest: dict[tuple[str, float], float] = {}

    def note(self, user: str) -> None:
        """A call about this user failed just now."""
        _add(self._noted, user)

    def signed_in(self, user: str) -> None:
        """This user has signed in just now."""
        while _taken(self._latest, LATEST) is not None:
            pass
        _add(self._latest, user)

    def failed_over(self) -> None:
        """A node was replaced just now, and the latest sign-ins may be lost."""
        while (latest := _taken(self._latest, 0)) is not None:
            self.note(latest[0])

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


def _add(queue: dict[tuple[str, float], float], user: str) -> None:
    now = time.monotonic()
    if len(queue) < MOST:
        queue[user, now // SPAN] = now


def _taken(queue: dict[K, float], seconds: float) -> K | None:
    """Remove the first entry if it is so old, and return it. Other threads may change the queue."""
    with suppress(RuntimeError, StopIteration):  # changed meanwhile, or empty
        first, since = next(iter(queue.items()))
        if time.monotonic() - since >= seconds and queue.pop(first, None) is not None:
            return first
    return None
