"""How a request's cost grows: with its session, with the sessions on the server, with threads.

python benchmarks/growth.py --rounds 5 --times 50 --sessions 100000
"""

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import redis
from common import Browser, application, at, caller, cpu_of_both, interleaved, options, pin, server
from peers import BEAKER, OURS, REDIS, of_pyramid
from pyramid.request import Request
from pyramid.response import Response
from views import CONTENT, View, bare, read, session_read

from pyramid_altsession import ISessionAPI, SessionAPI

SIZES = (100, 1_000, 10_000, 100_000, 1_000_000)
KEYS = (10, 100, 1_000, 10_000)
THREADS = (1, 2, 4, 8, 16, 32)
MICRO = 1e6

COPY = """
local flat = redis.call('HGETALL', KEYS[1])
for number = ARGV[1], ARGV[2] do
  local key = string.format('sess:%022d', number)
  redis.call('HSET', key, unpack(flat))
  redis.call('PEXPIRE', key, ARGV[3])
end
"""
"""As many sessions as one likes: copies, with names of their own."""
CHUNK = 10_000


def by_size(path: str, rounds: int, times: int) -> dict[str, Any]:
    """Reading one small key of a session that holds so many bytes beside it."""
    calls: dict[str, Callable[[], object]] = {"bare": Browser(application(bare, {}))}
    for library, view in ((OURS, read), (REDIS, session_read), (BEAKER, session_read)):
        for size in SIZES:
            calls[f"{library}\t{size}"] = _sized(library, path, view, size)
    return _over_bare(path, calls, rounds, times)


def _sized(library: str, path: str, view: View, size: int) -> Browser:
    def fill(request: Request) -> Response:
        values = CONTENT | {"large": "x" * size}
        request.altsession.mset(values) if library == OURS else request.session.update(values)
        return Response("ok")

    steps = [fill, view]

    def served(request: Request) -> Response:
        return steps[0](request)

    if library == OURS:
        most = {"altsession.session.max_value_bytes": str(size + 1000)}
        browser = Browser(application(served, at(path) | most))
    else:
        browser = Browser(of_pyramid(library, path, served))
    browser()
    steps.pop(0)
    return browser


def _over_bare(
    path: str, calls: dict[str, Callable[[], object]], rounds: int, times: int
) -> dict[str, dict[str, float]]:
    """{library: {size: µs of CPU time over the bare application}}"""
    samples = interleaved(calls, rounds, times, cpu_of_both(path))
    base = samples.pop("bare").median
    found: dict[str, dict[str, float]] = {}
    for name, sample in samples.items():
        library, size = name.split("\t")
        found.setdefault(library, {})[size] = (sample.median - base) * MICRO
    return found


def by_keys(path: str, rounds: int, times: int) -> dict[str, float]:
    """Reading one key of a session that has so many."""
    app = application(read, at(path))
    api = app.registry.getUtility(ISessionAPI)
    calls: dict[str, Callable[[], object]] = {"bare": caller(application(bare, {}), "")}
    for number in KEYS:
        values = {f"key{each}": each for each in range(number - 1)}
        session = api.create({"cart": [1, 2, 3]})
        session.mset(values)
        calls[f"{OURS}\t{number}"] = caller(app, f"sid={session.token}")
    return _over_bare(path, calls, rounds, times)[OURS]


def by_sessions(path: str, most: int, rounds: int, times: int) -> dict[str, Any]:
    """Reading one key while so many sessions are on the server; and the memory of one of them."""
    app = application(read, at(path))
    session = app.registry.getUtility(ISessionAPI).create(CONTENT)
    calls = {
        "bare": caller(application(bare, {}), ""),
        f"{OURS}\t": caller(app, f"sid={session.token}"),
    }
    found: dict[str, Any] = {"us": {}, "bytes": {}}
    with redis.Redis(unix_socket_path=path) as client:
        copy = client.register_script(COPY)
        empty, present, number = client.info("memory")["used_memory"], 0, 1_000
        while number <= most:
            for start in range(present, number, CHUNK):
                last = min(start + CHUNK, number) - 1
                copy(keys=[f"sess:{session.id}"], args=[start, last, 3_600_000])
            present = number
            used = client.info("memory")["used_memory"] - empty
            found["bytes"][str(number)] = used / number
            found["us"][str(number)] = _over_bare(path, calls, rounds, times)[OURS][""]
            number *= 10
    return found


def by_threads(path: str, seconds: float) -> dict[str, Any]:
    """Reads a second of so many threads that share an application's connections, beside HGETs of
    redis-py's."""
    api = SessionAPI.from_settings(at(path))
    token = str(api.create(CONTENT).token)
    client = redis.Redis(unix_socket_path=path)
    client.hset("hash", "cart", "[1, 2, 3]")
    found: dict[str, Any] = {OURS: {}, "HGET by redis-py": {}}
    for threads in THREADS:
        found[OURS][str(threads)] = _rate(lambda: api.open(token).get("cart"), threads, seconds)
        found["HGET by redis-py"][str(threads)] = _rate(
            lambda: client.hget("hash", "cart"), threads, seconds
        )
    api.close()
    return found


def _rate(call: Callable[[], object], threads: int, seconds: float) -> float:
    counts = [0] * threads
    until = time.monotonic() + seconds

    def work(place: int) -> None:
        while time.monotonic() < until:
            call()
            counts[place] += 1

    workers = [threading.Thread(target=work, args=(place,)) for place in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts) / seconds


def measured(rounds: int, times: int, sessions: int, seconds: float) -> dict[str, Any]:
    """Threads on all CPUs; the rest on one."""
    with server() as path:
        threads = by_threads(path, seconds)
    pin(0)
    found: dict[str, Any] = {"threads": threads}
    with server() as path:
        found["size"] = by_size(path, rounds, times)
        found["keys"] = by_keys(path, rounds, times)
    with server() as path:
        found["sessions"] = by_sessions(path, sessions, rounds, times)
    return found


def main() -> None:
    given = options(__doc__, sessions="1000000", seconds="0.5")
    found = measured(given.rounds, given.times, int(given.sessions), float(given.seconds))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
