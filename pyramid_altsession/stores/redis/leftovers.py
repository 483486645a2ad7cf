"""Users in whose index a call that failed may have left an entry without a session."""

import time
from contextlib import suppress

from ...protocol.messages import PRUNE_AGE

MOST = 10_000
"""Users who are remembered. Entries of others go with later logins, as those of sessions that
ended by themselves do."""
OLD = PRUNE_AGE / 1000 + 1
"""Seconds after which such an entry may be forgotten, by the clock of its server."""
AGAIN = 5.0
"""Seconds after which it is tried again where that failed."""


class Leftovers:
    """Who they are, in the order in which that was noticed; those of this process."""

    def __init__(self) -> None:
        self._noted: dict[str, tuple[float, float]] = {}
        """When a call of each failed, for the first time and for the last one."""
        self._tried: dict[str, float] = {}

    def note(self, user: str) -> None:
        """A call about this user failed just now."""
        now = time.monotonic()
        first, _ = self._noted.get(user, (now, now))
        if user in self._noted or len(self._noted) < MOST:
            self._noted[user] = first, now

    def failed(self, user: str) -> None:
        """This user's index was to be tidied, and could not."""
        if len(self._tried) < MOST:
            self._tried[user] = time.monotonic()

    def due(self) -> str | None:
        """One whose index can be tidied now. The caller does it, and no other."""
        now = time.monotonic()
        with suppress(RuntimeError, StopIteration):  # others put and take; there are none
            user, since = next(iter(self._tried.items()))
            if now - since >= AGAIN and self._tried.pop(user, None) is not None:
                return user
        with suppress(RuntimeError, StopIteration):
            user, (first, last) = next(iter(self._noted.items()))
            if now - first >= OLD and self._noted.pop(user, None) is not None:
                if last > first:  # what that call left is not old enough yet
                    self._noted[user] = last, last
                return user
        return None
