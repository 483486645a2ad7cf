"""What an awaited read and write cost, beside redis.asyncio in the same run.

    make bench                                  all of it
    python benchmarks/awaitable.py --rounds 5 --loop uvloop

As in run.py: one CPU, interleaved rounds, medians; both sides parse with hiredis. The unit is one
``hget`` of ``redis.asyncio``; wall is time that passed, CPU is this process's own. Then many tasks
share few connections: the slowest of them must not wait much longer than the others.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from common import at, one_cpu, options
from redis.asyncio import Redis

from pyramid_altsession.aio import AsyncSessionAPI

HGET, READ = "hget", "get, asked again"
MOST = 0.6
"""What reading one key of a session may cost, in ``hget`` of redis.asyncio, wall and CPU."""
TASKS, CONNECTIONS, READS = 1000, 16, 20

AwaitedCalls = Mapping[str, Callable[[], Awaitable[object]]]
Times = tuple[float, float]
"""Seconds that passed, and those of this process's CPU."""


async def spent(call: Callable[[], Awaitable[object]], times: int) -> Times:
    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(times):
        await call()
    return (time.perf_counter() - start) / times, (time.process_time() - cpu) / times


async def medians(calls: AwaitedCalls, rounds: int, times: int) -> dict[str, Times]:
    """Of one call of each, in interleaved rounds."""
    taken: dict[str, list[Times]] = {name: [] for name in calls}
    for round_ in range(rounds + 1):
        for name, call in calls.items():
            one = await spent(call, times)
            if round_:  # the first round warms up
                taken[name].append(one)
    return {
        name: (statistics.median([t[0] for t in each]), statistics.median([t[1] for t in each]))
        for name, each in taken.items()
    }


async def compare(path: str, rounds: int, times: int) -> dict[str, Times]:
    async with Redis(unix_socket_path=path) as peer, api_at(path) as api:
        await peer.hset("hash", "cart", "[1, 2, 3]")  # type: ignore[misc]
        token = (await api.create({"cart": [1, 2, 3]})).token
        assert token is not None
        held = api.open(token)
        # redis-py types each call for its plain client, too: its result, or an awaitable.
        return await medians(
            {
                HGET: lambda: peer.hget("hash", "cart"),  # type: ignore[dict-item]
                "hset": lambda: peer.hset("hash", "seen", "1"),  # type: ignore[dict-item]
                "open and get": lambda: api.open(token).get("cart"),
                READ: lambda: held.get("cart", fresh=True),
                "open and set": lambda: api.open(token).set("seen", 1),
                "set": lambda: held.set("seen", 1),
            },
            rounds,
            times,
        )


def api_at(path: str) -> AsyncSessionAPI:
    """With time enough for a crowd on a busy machine."""
    more = {"redis.max_connections": CONNECTIONS, "redis.timeout": 30}
    return AsyncSessionAPI.from_settings(
        at(path) | {f"altsession.{name}": str(value) for name, value in more.items()}
    )


async def crowd(path: str) -> list[list[float]]:
    """Seconds that each read of each task took."""
    async with api_at(path) as api:
        tokens = [(await api.create({"cart": number})).token for number in range(TASKS)]

        async def task(number: int, token: str | None) -> list[float]:
            assert token is not None
            waited = []
            for _ in range(READS):
                start = time.perf_counter()
                assert await api.open(token).get("cart") == number
                waited.append(time.perf_counter() - start)
            return waited

        return await asyncio.gather(*[task(n, token) for n, token in enumerate(tokens)])


def measured(
    rounds: int,
    times: int,
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
) -> dict[str, Any]:
    """Of each call µs, wall and CPU; and ms that the reads of the crowd took."""
    with one_cpu() as path, asyncio.Runner(loop_factory=new_loop) as runner:
        taken = runner.run(compare(path, rounds, times))
        waited = runner.run(crowd(path))
    every = sorted([second * 1e3 for each in waited for second in each])
    totals = sorted([sum(each) for each in waited])
    return {
        "calls": {name: {"wall": w * 1e6, "cpu": c * 1e6} for name, (w, c) in taken.items()},
        "crowd": {
            "median": every[len(every) // 2],
            "p99": every[len(every) * 99 // 100],
            "most": every[-1],
            "least of a task": totals[0] * 1e3,
            "most of a task": totals[-1] * 1e3,
        },
    }


def read_in_hgets(calls: Mapping[str, Mapping[str, float]]) -> float:
    """What a read costs in calls of ``hget``: the larger one of wall and CPU."""
    return max([calls[READ][clock] / calls[HGET][clock] for clock in ("wall", "cpu")])


def main() -> None:
    given = options(__doc__, loop="asyncio")
    new_loop = asyncio.new_event_loop
    if given.loop == "uvloop":
        from uvloop import new_event_loop as new_loop
    found = measured(given.rounds, given.times, new_loop)
    print(f"{TASKS} tasks on {CONNECTIONS} connections, {READS} reads each, ms:")
    print(", ".join([f"{name} {ms:.1f}" for name, ms in found["crowd"].items()]))
    calls = found["calls"]
    print(f"{'':20} {'wall, µs':>10} {'x hget':>8} {'CPU, µs':>10} {'x hget':>8}")
    for name, each in calls.items():
        cells = [
            f"{each[clock]:10.1f} {each[clock] / calls[HGET][clock]:8.2f}"
            for clock in ("wall", "cpu")
        ]
        print(f"{name:20} {' '.join(cells)}")
    read = read_in_hgets(calls)
    verdict = "held" if read <= MOST else "missed"
    print(f"one key read: {read:.2f} x hget, and {MOST} is allowed: {verdict}")


if __name__ == "__main__":
    sys.exit(main())
