"""A script: ``get`` of known values, cut off by exceptions from outside at random points.

Arguments: ``signals`` (a handler raises), ``prefetches`` (the same, and what is read was asked for
before, or asked for and dropped), ``greenlets`` (gevent.Timeout under monkey-patching) or
``careless`` (signals, and a pool that keeps no order) · url · limit of connections · calls.
Prints what was seen and the connections left, as JSON. A process of its own, since a signal may
also strike in whatever measures or watches a test.
"""

import sys

KIND = sys.argv[1]
if KIND == "greenlets":
    from gevent import monkey

    monkey.patch_all()

import json  # noqa: E402
import random  # noqa: E402
import signal  # noqa: E402
from collections import Counter  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402
from inside import builder_in, put_lease, state_in, store_in  # noqa: E402
from workers import Known, api_at, known_values, places, pool_of  # noqa: E402

from pyramid_altsession.api import SessionAPI  # noqa: E402
from pyramid_altsession.stores.redis.pool import ConnectionPool  # noqa: E402

GREENLETS = 8


class Interrupted(BaseException):
    """What the signal handler raises: like SystemExit no error of an ordinary kind."""


def look(seen: Counter[str], api: SessionAPI, known: Known) -> None:
    token, key, expected = known
    try:
        value = (prefetched if KIND == "prefetches" else fetched)(api, token, key)
    except Exception as error:
        seen[type(error).__name__] += 1
    else:
        seen["right" if value == expected else "wrong"] += 1


def fetched(api: SessionAPI, token: str, key: str) -> Any:
    return api.open(token).get(key)


def prefetched(api: SessionAPI, token: str, key: str) -> Any:
    """A third of the prefetches is taken, one dropped as at the end of a request, one forgotten."""
    session = api.open(token)
    session.prefetch(key)
    what = random.randrange(3)
    if what == 0:
        state_in(session).abandon()
    elif what == 1:
        session = api.open(token)
    return session.get(key)


class Pace:
    """How long a call is let alone, in seconds at most: so that of two calls about one is cut off,
    whether the machine is fast, slow or busy."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def cut(self) -> None:
        self.seconds *= 1.01

    def whole(self) -> None:
        self.seconds /= 1.01


def signal_storm(api: SessionAPI, held: list[Known], calls: int) -> Counter[str]:
    """The signals strike twice at times, so as to meet the cleaning up too."""
    seen: Counter[str] = Counter()
    rng = random.Random(1)
    pace = Pace(500e-6)
    armed = False

    def raise_it(number: int, frame: object) -> None:
        if armed:
            signal.setitimer(signal.ITIMER_REAL, rng.choice([0, rng.uniform(10e-6, 100e-6)]))
            raise Interrupted

    sys.unraisablehook = id  # says nothing of what is raised in a __del__, and is not cut itself
    signal.signal(signal.SIGALRM, raise_it)
    for _ in range(calls):
        known = rng.choice(held)
        try:
            try:
                armed = True
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-6, pace.seconds))
                look(seen, api, known)
            finally:
                armed = False  # no call comes before this, so no signal does
            pace.whole()
        except Interrupted as error:
            seen["interrupted"] += 1
            pace.cut()
            let_go(error)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return seen


def let_go(error: BaseException | None) -> None:
    """Python 3.13 may keep an exception that came in the middle of another one's handling, and with
    its frames a connection."""
    while error is not None:
        error.__traceback__ = None
        error = error.__context__


def greenlet_storm(api: SessionAPI, held: list[Known], calls: int) -> Counter[str]:
    seen: Counter[str] = Counter()
    rng = random.Random(1)
    pace = Pace(4e-3)

    def visit() -> None:
        for _ in range(calls // GREENLETS):
            try:
                with gevent.Timeout(rng.uniform(0, pace.seconds)):
                    look(seen, api, rng.choice(held))
                pace.whole()
            except gevent.Timeout:
                seen["interrupted"] += 1
                pace.cut()

    gevent.joinall([gevent.spawn(visit) for _ in range(GREENLETS)], raise_error=True)
    return seen


class Careless(ConnectionPool):
    """Puts connections back as they are, and takes them so."""

    def exchange(self, packet: bytes, replies: int) -> list[Any]:
        connection = self._idle.pop() if self._idle else self._build()
        try:
            connection.connect()
            connection.send_packed_command([packet], check_health=False)
            return [connection.read_response(disable_decoding=True) for _ in range(replies)]
        finally:
            self._idle.append(connection)


def main(url: str, limit: int, calls: int) -> None:
    api = api_at(url, redis__max_connections=limit)
    held = known_values(api)
    if KIND == "careless":
        put_lease(store_in(api), Careless(builder_in(pool_of(api)), limit=limit, wait=1.0))
    storm = greenlet_storm if KIND == "greenlets" else signal_storm
    seen = storm(api, held, calls)
    print(json.dumps({"seen": seen, "places": None if KIND == "careless" else places(api)}))


main(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
