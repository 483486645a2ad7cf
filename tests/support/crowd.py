"""Processes under load through failovers: what was acknowledged and is not there any more.

    make faults

Replication is asynchronous: a primary that is killed or stopped may have acknowledged what its
replica never got. So of what is lost it is told how long before the failover it was acknowledged;
what was acknowledged when a failover was over has to be there.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from load import Cost, Load
from outages import (
    COLUMNS,
    Fault,
    NamedCluster,
    endless,
    handed_over,
    node_handed_over,
    node_killed,
    node_stopped,
    primary_killed,
    primary_stopped,
    row,
    told,
)
from topologies import Sentinels
from workers import FORK, processes

WORKERS = 8
FAILOVERS: dict[str, tuple[Callable[[], Any], dict[str, Fault]]] = {
    "sentinel": (
        Sentinels,
        {"kill -9": primary_killed, "SIGSTOP": primary_stopped, "ordered": handed_over},
    ),
    "cluster": (
        NamedCluster,
        {"kill -9": node_killed, "SIGSTOP": node_stopped, "ordered": node_handed_over},
    ),
}
ORDERED = "ordered"


@dataclass
class Outcome:
    """Of a load through failovers: what it cost, and when each failover began and was over."""

    cost: Cost = field(default_factory=Cost)
    failovers: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def unexplained(self) -> list[float]:
        """What is lost and was acknowledged when no failover was to come but ordered ones, which
        lose nothing."""
        over = [over for name, (_, over) in self.failovers.items() if name != ORDERED]
        return [when for when in self.cost.lost if when > max(over)]

    @property
    def earliest(self) -> float:
        """Seconds before a failover began at which something that it lost was acknowledged."""
        began = [began for began, _ in self.failovers.values()]
        return max([min([abs(b - when) for b in began]) for when in self.cost.lost], default=0.0)


def work(url: str, number: int, stop: Any) -> Cost:
    """One process of the crowd."""
    load = Load(url, name=f"{number}-", threads=1, durable=True)
    with load.running():
        stop.wait()
    return load.cost


def through(servers: Any, failovers: dict[str, Fault], pause: Callable[[Load], None]) -> Outcome:
    """The crowd goes through these failovers, with a pause before each. This process looks on."""
    found, stop = Outcome(), FORK.Event()
    with processes(work, [(servers.url, number, stop) for number in range(WORKERS)]) as workers:
        onlooker = Load(servers.url, threads=4)
        with onlooker.running():
            for name, failover in failovers.items():
                pause(onlooker)
                began = time.monotonic()
                failover(servers, onlooker)
                servers.settle()
                found.failovers[name] = began, time.monotonic()
            pause(onlooker)
        stop.set()
        for worker in workers:
            found.cost.add(worker.result(300))
    found.cost.add(onlooker.cost)
    found.cost.endless = endless(servers)
    return found


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
        print(f"  acknowledged {found.earliest:.2f} s before a failover at the earliest;"
              f" {len(found.unexplained)} unexplained", flush=True)  # fmt: skip


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0, sys.argv[2:] or list(FAILOVERS))
