"""How soon a live page closes after its session ended elsewhere, and what it costs a write to tell.

    python benchmarks/live.py --rounds 50

The websocket is the demo shop's, by uvicorn; another thread ends the session by the plain API, as a
Pyramid view does. Milliseconds from the call to the end of the socket. Then microseconds of one set
by the server's own count (INFO commandstats), medians of interleaved rounds.
"""

import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import redis
import uvicorn
import websockets
from common import options, server
from websockets.sync.client import connect

from pyramid_altsession import SessionAPI
from pyramid_altsession.aio import AsyncSessionAPI
from pyramid_altsession.api import OpenSession
from pyramid_altsession.config.sources import read_settings
from pyramid_altsession.config.table import Settings
from pyramid_altsession.demo.live import application

CLOSED = 1008
BAR = 1.0
"""Seconds."""

ENDS: dict[str, Callable[[SessionAPI, OpenSession], object]] = {
    "logout": lambda api, session: session.logout(),
    "device end": lambda api, session: api.invalidate_id(str(session.id), "ann"),
    "password change": lambda api, session: api.invalidate_user("ann"),
}


@contextmanager
def served(settings: Settings) -> Iterator[int]:
    """The port of the live page."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        app = application(AsyncSessionAPI(settings))
        asgi = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=asgi.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not asgi.started:
                time.sleep(0.01)
            yield listener.getsockname()[1]
        finally:
            asgi.should_exit = True
            thread.join()


def until_closed(
    api: SessionAPI, port: int, end: Callable[[SessionAPI, OpenSession], object]
) -> float:
    """Seconds."""
    session = api.create({"cart.cup": 1})
    session.login("ann")
    cookie = {"Cookie": f"sid={session.token}"}
    with connect(f"ws://127.0.0.1:{port}/cart", additional_headers=cookie) as live:
        live.recv()
        began = time.perf_counter()
        end(api, session)
        with suppress(websockets.ConnectionClosed):
            while True:
                live.recv()
        taken = time.perf_counter() - began
        assert live.close_code == CLOSED, live.close_code
        return taken


def cost(path: str, rounds: int, times: int) -> dict[str, float]:
    """Microseconds of a set that tells nothing, and of one that tells its key."""
    taken: dict[str, list[float]] = {"none": [], "life": [], "keys": []}
    with redis.Redis(unix_socket_path=path) as client:
        for round_ in range(rounds + 1):
            for notify, spent in taken.items():
                api = SessionAPI.from_settings(
                    {"redis.url": f"unix://{path}", "session.notify": notify}
                )
                session = api.create({"a": 1})
                client.config_resetstat()
                for number in range(times):
                    session.set("a", number)
                if round_:  # the first round warms up
                    stats = client.info("commandstats")["cmdstat_evalsha"]
                    spent.append(stats["usec_per_call"])
                api.close()
    return {name: statistics.median(values) for name, values in taken.items()}


def main() -> None:
    given = options(__doc__)
    with server() as path:
        settings = read_settings({"redis.url": f"unix://{path}", "session.notify": "keys"})
        api = SessionAPI(settings)
        with served(settings) as port:
            print(f"{'closed after, ms':20} {'median':>8} {'max':>8}")
            for name, end in ENDS.items():
                taken = [until_closed(api, port, end) for _ in range(given.rounds)]
                verdict = "held" if max(taken) <= BAR else "missed"
                print(
                    f"{name:20} {1e3 * statistics.median(taken):8.1f} {1e3 * max(taken):8.1f}"
                    f"  at most {1e3 * BAR:.0f}: {verdict}"
                )
        api.close()
        median = cost(path, 11, given.times)
        for name, micros in median.items():
            print(f"set, notify {name:8} {micros:8.1f} µs {micros - median['none']:+8.1f}")


if __name__ == "__main__":
    main()
