"""Users in whose index a call that failed may have left an entry without a session."""

import time
from contextlib import suppress

from ...protocol.messages import PRUNE_AGE

MOST = 10_000
"""Users who are remembered. Entries of others go with later logins, as those of sessions that
ended by themselves do."""
OLD = PRUNE_AGE / 1000 + 1
"""Seconds after which such an entry may be forgotten, by the clock of its server."""


class Leftovers:
    """Who they are, in the order in which that was noticed; those of this process."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def note(self, user: str) -> None:
        """A call about this user failed just now."""
        self._since.pop(user, None)
        if len(self._since) < MOST:
            self._since[user] = time.monotonic()

    def due(self) -> str | None:
        """One whose index can be tidied now. The caller does it, and no other."""
        with suppress(RuntimeError):  # other threads note and take meanwhile
            for user, since in self._since.items():
                due = time.monotonic() - since >= OLD
                return user if due and self._since.pop(user, None) is not None else None
        return None
