"""A server's clock that a test sets."""

from ..stores.memory import MemoryStore
from .steering import steered


class Clock:
    """Seconds since 1970, as ``time.time()`` gives them; it stands still until it is moved."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass."""
        self.now += seconds


def settable_clock(app: object) -> Clock:
    """From now on the application's sessions follow the clock that this returns, which the test can
    set.

    TypeError unless the sessions are in memory: the clock of a server cannot be set.
    """
    stores = []
    for steering in steered(app):
        store = steering.store
        if not isinstance(store, MemoryStore):
            raise TypeError(
                f"a clock that can be set needs altsession.redis.url = memory://, got {store!r}"
            )
        stores.append(store)
    known = stores[0].clock
    clock = known if isinstance(known, Clock) else Clock(known())
    for store in stores:
        store.clock = clock
    return clock
