"""What the results are held against. A miss is told and fails nothing: times are the machine's."""

from collections.abc import Iterator
from typing import Any

from awaitable import MOST, read_in_hgets
from load import WAITRESS
from peers import BEAKER, COOKIE, DICT, OURS, REDIS
from tables import Results
from views import RAW


def judged(results: Results) -> list[dict[str, Any]]:
    return [
        {
            "what": what,
            "found": found,
            "allowed": allowed,
            "verdict": "held" if found <= allowed else "missed",
        }
        for what, found, allowed in _all(results)
    ]


def _all(results: Results) -> Iterator[tuple[str, float, float]]:
    """What, as a ratio or a number, and what it may be at most."""
    yield from _requests(results["in process"])
    yield from _growth(results["growth"])
    yield from _load(results)
    for name, each in results["server"]["memory"].items():
        yield f"bytes of a session with five small keys, {name}", each["bytes"], 400
    ratio = read_in_hgets(results["awaitable"]["calls"])
    yield "awaited read, x hget of redis.asyncio", ratio, MOST
    client = results["server"]["client"]
    yield "the process after the requests, x before", client["after_kb"] / client["before_kb"], 1.02


def _requests(found: Results) -> Iterator[tuple[str, float, float]]:
    pinned, normal = found["pinned"]["small"], found["normal"]["small"]
    base = pinned[""]["bare"]["us"]
    over = {
        (library, doing): pinned[library][doing]["us"] - base
        for library in (OURS, DICT, COOKIE, REDIS, BEAKER)
        for doing in ("read one", "write one")
    }
    yield "untouched, x bare", pinned[OURS]["untouched"]["us"] / base, 1.03
    for library, most in ((COOKIE, 0.85), (REDIS, 0.25), (BEAKER, 0.20)):
        ratio = over[OURS, "read one"] / over[library, "read one"]
        yield f"read one, pinned, x {library}", ratio, most
    for library, most in ((COOKIE, 0.85), (REDIS, 0.38)):
        ratio = over[OURS, "write one"] / over[library, "write one"]
        yield f"write one, pinned, x {library}", ratio, most
    for doing, most in (("read one", 1.45), ("write one", 1.7)):
        ratio = (normal[OURS][doing]["us"] - normal[""]["bare"]["us"]) / normal[""][RAW]["us"]
        yield f"{doing}, normal, in raw HGET round trips over bare", ratio, most
    for doing in ("read one", "write one"):
        ratio = pinned[DICT][doing]["us"] / pinned[OURS][doing]["us"]  # whole requests
        yield f"{doing} through request.session, x request.altsession", ratio, 1.25


def _growth(found: Results) -> Iterator[tuple[str, float, float]]:
    size, keys, sessions = found["size"][OURS], found["keys"], found["sessions"]["us"]
    yield "read from a session of 1 MB, x 1 kB", size["1000000"] / size["1000"], 1.05
    for what, taken in (("keys of the session", keys), ("sessions on the server", sessions)):
        first, *_, last = taken
        yield f"read with {last} {what}, x {first}", taken[last] / taken[first], 1.05


def _load(results: Results) -> Iterator[tuple[str, float, float]]:
    for clients, taken in results.get("load", {}).get(WAITRESS, {}).items():
        on = f"{WAITRESS}, {clients} clients"
        for name, share in (("read one", 0.70), ("untouched", 0.97)):
            lost = taken["bare"]["rate"] / taken[name]["rate"]
            yield f"{name}: the bare rate, x its own; {on}", lost, round(1 / share, 3)
        slow = taken["read one"]["p99_ms"] / taken["bare"]["p99_ms"]
        yield f"read one: p99, x the bare one's; {on}", slow, 2
