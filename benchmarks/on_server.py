"""What sessions cost the server: its time for one request, and its memory for one session.

python benchmarks/on_server.py --rounds 5 --times 50
"""

import json
import resource
import shutil
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import redis
from common import at, options, server
from peers import BEAKER, OURS, REDIS, browsers

from pyramid_altsession import SessionAPI

REDIS_SERVER = shutil.which("redis-server")
SERVERS = {"Valkey of the embedded extra": None} | (
    {"redis-server on the path": REDIS_SERVER} if REDIS_SERVER else {}
)
FIVE_SMALL = {"cart": [1, 2, 3], "name": "Ann", "theme": "dark", "language": "en", "seen": 0}


def time_of(path: str, rounds: int, times: int) -> dict[str, dict[str, float]]:
    """{library: {what: µs of one request by the server's own count}}, medians of the rounds."""
    client = redis.Redis(unix_socket_path=path)
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    for library in (OURS, REDIS, BEAKER):
        each = browsers(library, path)
        calls |= {(library, what): each[what] for what in ("read one", "write one")}
    pair = client.pipeline(transaction=False)

    def by_hand() -> None:
        pair.hset("by hand", "seen", 1)
        pair.expire("by hand", 1200)
        pair.execute()

    calls["HSET + EXPIRE by redis-py", "write one"] = by_hand
    calls["HGET by redis-py", "read one"] = lambda: client.hget("by hand", "seen")
    taken: dict[tuple[str, str], list[float]] = {name: [] for name in calls}
    with redis.Redis(unix_socket_path=path) as watcher:
        for round_ in range(rounds + 1):
            for name, call in calls.items():
                watcher.config_resetstat()
                for _ in range(times):
                    call()
                spent = _spent(watcher.info("commandstats"))
                if round_:
                    taken[name].append(spent / times)
    found: dict[str, dict[str, float]] = {}
    for (library, what), values in taken.items():
        found.setdefault(library, {})[what] = statistics.median(values)
    return found


def _spent(stats: Mapping[str, Mapping[str, float]]) -> float:
    """Microseconds of what clients asked for. A script's time has that of its commands in it."""
    if "cmdstat_evalsha" in stats:
        return stats["cmdstat_evalsha"]["usec"]
    asked = [each["usec"] for name, each in stats.items() if name not in WATCHING]
    return sum(asked)


WATCHING = {"cmdstat_info", "cmdstat_config|resetstat"}


def memory_of(path: str, number: int) -> dict[str, float]:
    """Bytes of one session with five small keys, with all that the server adds to it."""
    api = SessionAPI.from_settings(at(path))
    with redis.Redis(unix_socket_path=path) as client:
        first = api.create(FIVE_SMALL)
        before = client.info("memory")["used_memory"]
        for _ in range(number):
            api.create(FIVE_SMALL)
        used = (client.info("memory")["used_memory"] - before) / number
        alone = client.memory_usage(f"sess:{first.id}")
        version = client.info("server")
    api.close()
    named = version.get("valkey_version") or version["redis_version"]
    return {"bytes": used, "memory usage": alone, "version": named}


def client_memory(path: str, requests: int) -> dict[str, float]:
    """Kilobytes of this process at its peak, before and after so many requests."""
    each = browsers(OURS, path)
    call = each["read and write"]
    for _ in range(2000):
        call()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(requests):
        call()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"requests": requests, "before_kb": before, "after_kb": after}


def measured(rounds: int, times: int, sessions: int, requests: int) -> dict[str, Any]:
    found: dict[str, Any] = {"time": {}, "memory": {}}
    for name, binary in SERVERS.items():
        with server(binary=binary) as path:
            found["memory"][name] = memory_of(path, sessions)
            found["time"][name] = time_of(path, rounds, times)
    with server() as path:
        found["client"] = client_memory(path, requests)
    return found


def main() -> None:
    given = options(__doc__, sessions="20000", requests="100000")
    found = measured(given.rounds, given.times, int(given.sessions), int(given.requests))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
