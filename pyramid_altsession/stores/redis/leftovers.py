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
        self._noted: dict[str, float] = {}
        self._tried: dict[str, float] = {}

    def note(self, user: str) -> None:
        """A call about this user failed just now."""
        self._put(self._noted, user)

    def failed(self, user: str) -> None:
        """This user's index was to be tidied, and could not."""
        self._put(self._tried, user)

    def _put(self, users: dict[str, float], user: str) -> None:
        users.pop(user, None)
        if len(self._noted) + len(self._tried) < MOST:
            users[user] = time.monotonic()

    def due(self) -> str | None:
        """One whose index can be tidied now. The caller does it, and no other."""
        for users, wait in ((self._tried, AGAIN), (self._noted, OLD)):
            with suppress(RuntimeError, StopIteration):  # others put and take; there are none
                user, since = next(iter(users.items()))
                if time.monotonic() - since >= wait and users.pop(user, None) is not None:
                    return user
        return None
