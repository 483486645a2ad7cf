"""An application that runs for long on a cluster with a failover a minute: whether it grows.

    make faults

prints each minute what it has done, its resident memory and file descriptors, and how many entries
of users' indexes have no session: those that are left of a call which failed are removed with a
login more than a minute later.
"""

import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import redis
from accounts import index_key
from crowd import FAILOVERS
from load import Load
from outages import NamedCluster
from topologies import until
from workers import FORK, processes

from pyramid_altsession.protocol.fields import USER
from pyramid_altsession.protocol.messages import REVOKED

MINUTE = 60.0
MINUTES, OPERATIONS = 10, 1_000_000
"""At least so long, and until so many calls were served."""
GROWTH = 0.05
"""By which memory and descriptors may differ from those of the second minute."""
STALE = 75.0
"""Seconds after which an entry without a session should be gone: a minute after the failover that
left it, and a login."""
LOOK = 5.0
"""Seconds between two looks at all entries."""
MEGABYTE = 2**20


def work(url: str, calls: Any, stop: Any) -> str:
    """The application: threads under load, for as long as it is told. What it saw that must not
    be."""
    load = Load(url, remember=100)
    with load.running():
        while not stop.wait(0.5):
            calls.value = load.cost.calls
    cost = load.cost
    return (
        f"{dict(cost.errors)}, untyped {cost.untyped}, foreign {cost.foreign},"
        f" lost {len(cost.lost)}, resurrected {cost.resurrected} of {cost.ended}"
    )


class Onlooker:
    """What a failover wants to know of the load."""

    def __init__(self, calls: Any) -> None:
        self._calls = calls

    def serves(self, calls: int) -> None:
        wanted = self._calls.value + calls
        until(lambda: self._calls.value >= wanted)

    def fails(self) -> None:
        """Nobody waits for it here."""
        self.serves(0)


def resident(pid: int) -> float:
    """Megabytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MEGABYTE


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def entries(cluster: NamedCluster) -> tuple[int, set[tuple[str, str]]]:
    """How many entries users' indexes have, and which of them have no session of that user."""
    signed_in: set[tuple[str, str]] = set()
    indexed: set[tuple[str, str]] = set()
    for primary in cluster.primaries:
        client = primary.client
        for key in client.keys("sess:*"):
            name = key.decode()
            if name.startswith("sess:user:"):
                ids = [id.decode() for id in client.zrange(key, 0, -1)]
                indexed |= {(name, id) for id in ids if id != REVOKED}
            elif not name.startswith("sess:durable:"):
                owner = client.hget(key, USER)
                if owner is not None:
                    signed_in.add((index_key(owner.decode()), name.removeprefix("sess:")))
    return len(indexed), indexed - signed_in


def main(minutes: int) -> None:
    cluster, stop = NamedCluster(), FORK.Event()
    calls, failovers = FORK.Value("L", 0), FAILOVERS["cluster"][1]
    sizes: list[tuple[float, float]] = []
    since: dict[tuple[str, str], float] = {}
    looked, stale, count, dead = 0.0, 0, 0, set[tuple[str, str]]()
    try:
        with processes(work, [(cluster.url, calls, stop)]) as (worker,):
            pid = worker.process.pid
            assert pid is not None
            onlooker = Onlooker(calls)
            onlooker.serves(100)
            minute = 0
            while minute < minutes or calls.value < OPERATIONS * minutes / MINUTES:
                minute += 1
                end, samples = time.monotonic() + MINUTE, []
                failover = failovers[(minute - 1) % len(failovers)]
                failover(cluster, onlooker)
                cluster.settle()
                while time.monotonic() < end:
                    samples.append((resident(pid), descriptors(pid)))
                    if (now := time.monotonic()) - looked > LOOK:
                        with suppress(redis.RedisError):  # a node does not serve yet
                            count, dead = entries(cluster)
                            since = {entry: since.get(entry, now) for entry in dead}
                            looked = now
                        old = len([each for each in since.values() if now - each > STALE])
                        stale = max(stale, old)
                    time.sleep(1)
                sizes.append((median([m for m, _ in samples]), median([d for _, d in samples])))
                print(
                    f"minute {minute}, {failover.__name__}: {calls.value} calls,"
                    f" {sizes[-1][0]:.1f} MB, {sizes[-1][1]:.0f} descriptors, {count} entries,"
                    f" {len(dead)} without a session, {old} of them for {STALE:.0f} s",
                    flush=True,
                )
            stop.set()
            print(worker.result(300))
    finally:
        cluster.stop()
    for what, second, last in zip(("memory", "descriptors"), sizes[1], sizes[-1], strict=True):
        print(f"{what}: {last / second:.3f} of the second minute's")
    print(f"entries without a session for {STALE:.0f} s: {stale} at most")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else MINUTES)
