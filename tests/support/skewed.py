"""A script: one application's calls, with clocks that are wrong by so many hours from the start.

Arguments: hours, the server's url, the token of a session that another application made.
Prints what the calls gave, as JSON; times are rounded and told against the server's.
"""

import sys
import time

OFFSET = 3600 * float(sys.argv[1])
_time, _monotonic = time.time, time.monotonic
time.time = lambda: _time() + OFFSET
time.monotonic = lambda: _monotonic() + OFFSET

import json  # noqa: E402
from collections.abc import Callable  # noqa: E402
from datetime import UTC, datetime  # noqa: E402

import redis  # noqa: E402
from apps import Behind  # noqa: E402
from inside import store_in  # noqa: E402
from pyramid.request import Request  # noqa: E402
from workers import api_at, token_of  # noqa: E402

from pyramid_altsession import SessionAPI, SessionGone, SessionKey  # noqa: E402


def values_with_an_end(api: SessionAPI, server: redis.Redis) -> dict[int, list[object]]:
    """What calls find 480 and 601 seconds after values were stored that last 600."""
    found = {}
    for seconds in (480, 601):
        made = api.create()
        made.set("code", "1234", ttl=600)
        made.increment(SessionKey("tries", int, ttl=600))
        Behind(store_in(api), server).pass_time(str(made.id), seconds)
        session = api.open(token_of(made))
        found[seconds] = [
            *(session.get("code"), session.exists("code"), session.all()),
            *(session.increment("tries"), session.pop("code"), session.pop("code")),
        ]
        made.invalidate()
        server.delete(f"sess:{made.id}")
    return found


def main(url: str, shared: str) -> dict[str, object]:
    api = api_at(url, session__touch_interval=0, session__lifetime=3000)
    server = redis.Redis.from_url(url, protocol=2)
    errors = []

    def gone(call: Callable[[], object]) -> None:
        try:
            call()
        except SessionGone as error:
            errors.append(type(error).__name__)

    theirs = api.open(shared)
    theirs.set("back", "there")

    session = api.create({"k": "v"})
    token = token_of(session)
    ttl, created = session.ttl(), session.created()
    assert ttl is not None
    assert created is not None
    seconds, _ = server.time()

    # An end that has come by the server's clock is the end, whatever ours says.
    ended = api.create({"k": "v"})
    server.pexpire(f"sess:{ended.id}", 1)
    while server.exists(f"sess:{ended.id}"):
        pass
    gone(lambda: ended.get("k", fresh=True))

    # A read that restarts the time to idle.
    server.pexpire(f"sess:{session.id}", 500_000)
    value = api.open(token).get("k")
    touched = server.pttl(f"sess:{session.id}")

    # The window after a renewal and after an end.
    def stale_write() -> None:
        api.session(Request.blank("/", headers={"Cookie": f"sid={token}"})).set("k", "late")

    session.renew()
    gone(stale_write)
    gone(lambda: api.open(token).set("k", "late"))
    renewed = Request.blank("/", headers={"Cookie": f"sid={token_of(session)}"})
    api.session(renewed).invalidate()
    gone(stale_write)
    return {
        "errors": errors,
        "ttl": round(ttl / 10),
        "touched": round(touched / 10_000),
        "created": abs((created - datetime.fromtimestamp(seconds, UTC)).total_seconds()) < 5,
        "values": [value, theirs.get("from"), theirs.exists()],
        "sessions": server.dbsize(),
        "ends": values_with_an_end(api, server),
    }


print(json.dumps(main(sys.argv[2], sys.argv[3])))
