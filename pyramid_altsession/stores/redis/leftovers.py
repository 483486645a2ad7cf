"""Users in whose index a call that failed may have left an entry without a session."""

import time
from contextlib import suppress

from ...protocol.messages import PRUNE_AGE

MOST = 10_000
"""How much is remembered. Entries of others go with later logins, as those of sessions that
ended by themselves do."""
OLD = PRUNE_AGE / 1000 + 1
"""Seconds after which such an entry may be forgotten, by the clock of its server."""
SPAN = 10.0
"""Seconds within which all that is left of one user's calls is tidied together."""
AGAIN = 5.0
"""Seconds after which it is tried again where that failed."""


class Leftovers:
    """Who they are, in the order in which that was noticed; those of this process."""

    def __init__(self) -> None:
        self._noted: dict[tuple[str, float], float] = {}
        self._tried: dict[str, float] = {}

    def note(self, user: str) -> None:
        """A call about this user failed just now."""
        now = time.monotonic()
        if len(self._noted) < MOST:
            self._noted[user, now // SPAN] = now

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
            noted, since = next(iter(self._noted.items()))
            if now - since >= OLD and self._noted.pop(noted, None) is not None:
                return noted[0]
        return None
