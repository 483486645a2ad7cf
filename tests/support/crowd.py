"""Processes under load through failovers: what was acknowledged and is not there any more.

    make faults

Replication is asynchronous: a primary that is killed or stopped may have acknowledged what its
replica never got. So of what is lost it is told how long before the failover it was acknowledged;
what was acknowledged when a failover was over has to be there.
"""

import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import redis
from load import Cost, Flag, Load
from outages import (
    COLUMNS,
    Fault,
    NamedCluster,
    endless,
    node_handed_over,
    node_killed,
    node_stopped,
    primary_killed,
    primary_stopped,
    row,
    told,
)
from topologies import Sentinels, role
from workers import FORK, processes

WORKERS = 8
FAILOVERS: dict[str, tuple[Callable[[], Any], list[Fault]]] = {
    "sentinel": (Sentinels, [primary_killed, primary_stopped, primary_killed]),
    "cluster": (NamedCluster, [node_killed, node_stopped, node_handed_over]),
}

# A child must not be forked while a thread, of a proxy say, is in the middle of this import.
"".encode("idna")


class Watch:
    """Notes when servers change their roles, whether they were told to or not: on a busy machine
    the others may replace a primary that is well."""

    def __init__(self, servers: Any) -> None:
        self._servers = servers
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.changes: list[float] = []

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        before: list[str] = []
        while not self._stop.wait(0.05):
            with suppress(redis.RedisError):
                now = [f"{node.port} {role(node)}" for node in self._servers.nodes if node.process]
                if now != before:
                    self.changes.append(time.monotonic())
                before = now


@dataclass
class Outcome:
    """Of a load through failovers: what it cost, and when servers changed their roles."""

    cost: Cost
    changes: list[float]

    @property
    def ages(self) -> list[float]:
        """Of what is lost: seconds from its acknowledgement to the next change."""
        nexts = [[change for change in self.changes if change >= at] for at in self.cost.lost]
        return [after[0] - at for after, at in zip(nexts, self.cost.lost, strict=True) if after]

    @property
    def unexplained(self) -> int:
        """How much is lost that was acknowledged after the last change."""
        return len(self.cost.lost) - len(self.ages)


def work(url: str, number: int, stop: Any, slow: Flag) -> Cost:
    """One process of the crowd."""
    load = Load(url, name=f"{number}-", threads=1, durable=True, slow=slow)
    with load.running():
        stop.wait()
    return load.cost


def through(servers: Any, failovers: Sequence[Fault], pause: Callable[[Load], None]) -> Outcome:
    """The crowd goes through these failovers, with a pause before each. This process looks on."""
    stop, slow = FORK.Event(), Flag()
    onlooker = Load(servers.url, threads=4, slow=slow)
    with (
        processes(work, [(servers.url, n, stop, slow) for n in range(WORKERS)]) as workers,
        Watch(servers) as watch,
        onlooker.running(),
    ):
        for failover in failovers:
            pause(onlooker)
            failover(servers, onlooker)
            with onlooker.unhurried():
                servers.settle()
        pause(onlooker)
        stop.set()
        costs = [worker.result(300) for worker in workers]
    cost = onlooker.cost
    for each in costs:
        cost.add(each)
    cost.endless = endless(servers)
    return Outcome(cost, watch.changes)


def main(seconds: float, kinds: Sequence[str]) -> None:
    print(row(*COLUMNS))
    for kind in kinds:
        start, failovers = FAILOVERS[kind]
        servers = start()
        try:
            found = through(servers, failovers, lambda load: time.sleep(seconds / 4))
        finally:
            servers.stop()
        print(told(kind, f"{WORKERS} processes, {len(failovers)} failovers", [found.cost]))
        print(
            f"  what is lost was acknowledged up to {max(found.ages, default=0):.2f} s before"
            f" servers changed their roles, and {found.unexplained} of it after the last change",
            flush=True,
        )


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0, sys.argv[2:] or list(FAILOVERS))
