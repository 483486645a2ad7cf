"""What ``get`` still waits for after a ``prefetch``, as a share of a round trip, taken in one run.

    make bench            all of it
    python benchmarks/prefetch.py --rounds 5

A view asks for a key, works for 5 ms, and then gets it; beside it one that gets it without having
asked. The server is a millisecond away (a proxy that lets each way take half of one), as in
another rack, and right beside, where there is hardly a way to save. Rounds are interleaved,
figures are medians.
"""

import multiprocessing
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

from common import options, server

from pyramid_altsession import SessionAPI

WORK = 0.005
"""Seconds that the view works between asking and getting."""
AWAY = 0.001
"""Seconds that the way to the server and back takes."""
BAR = 0.15


def far(path: str, listener: socket.socket) -> None:
    """Pass packets on, each half of AWAY later; one connection at a time."""
    while True:
        client, _ = listener.accept()
        with client, socket.socket(socket.AF_UNIX) as server:
            server.connect(path)
            while packet := client.recv(65536):
                time.sleep(AWAY / 2)
                server.sendall(packet)
                reply = server.recv(65536)
                time.sleep(AWAY / 2)
                client.sendall(reply)


@contextmanager
def at_a_distance(path: str) -> Iterator[str]:
    """The socket of a server that is AWAY."""
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as listener:
        there = os.path.join(directory, "s")
        listener.bind(there)
        listener.listen()
        process = multiprocessing.get_context("fork").Process(target=far, args=(path, listener))
        process.start()
        try:
            yield there
        finally:
            process.kill()
            process.join()


def work() -> None:
    until = time.perf_counter() + WORK
    while time.perf_counter() < until:
        pass


def waited(api: SessionAPI, token: str, *, prefetch: bool) -> float:
    """Seconds inside ``get``."""
    session = api.open(token)
    if prefetch:
        session.prefetch("cart")
    work()
    begun = time.perf_counter()
    session.get("cart")
    return time.perf_counter() - begun


def measure(path: str, rounds: int) -> tuple[float, float]:
    """Medians: a round trip, and what is left of it after a prefetch."""
    api = SessionAPI.from_settings({"redis.url": f"unix://{path}"})
    token = str(api.create({"cart": [1, 2, 3]}).token)
    pairs = [
        (waited(api, token, prefetch=False), waited(api, token, prefetch=True))
        for _ in range(rounds * 10)
    ]
    api.close()
    plain, left = zip(*pairs[10:], strict=True)
    return statistics.median(plain), statistics.median(left)


def main() -> None:
    given = options(__doc__)
    print(f"{'server':12} {'get, µs':>10} {'after prefetch, µs':>20} {'share':>8}")
    with server() as path:
        beside = measure(path, given.rounds)
        with at_a_distance(path) as there:
            away = measure(there, given.rounds)
    for name, (plain, left) in {"beside": beside, "1 ms away": away}.items():
        print(f"{name:12} {plain * 1e6:10.1f} {left * 1e6:20.1f} {left / plain:8.3f}")
    share = away[1] / away[0]
    held = "held" if share <= BAR else "missed"
    print(f"inside get after a prefetch: {share:.3f} of a round trip, and {BAR} is allowed: {held}")


if __name__ == "__main__":
    main()
