"""Throughput and latency under load: waitress and gunicorn, driven by wrk.

    python benchmarks/load.py --rounds 1 --seconds 1

``wrk`` is a package of Debian's. One application after the other, in rounds that interleave. All
visitors of an application share a session, since wrk sends one cookie.
"""

import http.client
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import application, options, server
from peers import COOKIE, OURS, REDIS, of_pyramid
from pyramid.request import Request
from pyramid.response import Response
from views import View, bare, fill, read, session_fill, session_read, write

HERE = Path(__file__).parent
CLIENTS = (1, 8, 64)
INTERVAL = 0.005
"""Seconds after which a thread that waits asks for the interpreter's lock: Python's own setting."""
SHORTER = (0.0005, 0.0001)
APPS: dict[str, tuple[str, View, View]] = {
    "bare": ("", bare, bare),
    "untouched": (OURS, bare, fill),
    "read one": (OURS, read, fill),
    "write one": (OURS, write, fill),
    f"read one, {COOKIE}": (COOKIE, session_read, session_fill),
    f"read one, {REDIS}": (REDIS, session_read, session_fill),
}
WAITRESS = "waitress, 4 threads"
SERVERS = {
    WAITRESS: ["waitress", "--threads=4", "--listen=127.0.0.1:{port}", "load:app"],
    "gunicorn, 2 processes of 4 threads": [
        *("gunicorn", "--workers=2", "--threads=4", "--bind=127.0.0.1:{port}"),
        *("--log-level=error", "--keep-alive=60", "load:app"),
    ],
}


def app(environ: dict[str, Any], start_response: Any) -> Any:
    """What the servers run: the application that the environment names."""
    if not _made:
        sys.setswitchinterval(float(os.environ["BENCH_INTERVAL"]))
        _made.append(make(os.environ["BENCH_APP"], os.environ["BENCH_SOCKET"]))
    return _made[0](environ, start_response)


_made: list[Any] = []


def make(name: str, path: str) -> Any:
    """It makes a session where the query says so."""
    library, view, filling = APPS[name]

    def served(request: Request) -> Response:
        return (filling if request.environ["QUERY_STRING"] else view)(request)

    return of_pyramid(library, path, served) if library else application(served, {})


@contextmanager
def serving(command: list[str], name: str, path: str, interval: float = INTERVAL) -> Iterator[int]:
    """The port where a server process serves one application."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    arguments = [part.format(port=port) for part in command]
    environ = os.environ | {
        "BENCH_APP": name,
        "BENCH_SOCKET": path,
        "BENCH_INTERVAL": str(interval),
        "PYTHONPATH": str(HERE),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > until:
                    raise
                time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()


def cookie_of(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/?fill")
    answer = connection.getresponse()
    answer.read()
    connection.close()
    assert answer.status == 200, answer.status
    set_cookies = answer.headers.get_all("Set-Cookie") or []
    return "; ".join([each.partition(";")[0] for each in set_cookies])


_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


def drive(app: str, port: int, cookie: str, clients: int, seconds: int) -> tuple[float, float]:
    """Requests a second, and the seconds within which 99 of 100 were answered. Answers that are
    errors, as where the server does not answer in time, are told of, and count as requests."""
    said = subprocess.check_output(
        [
            *("wrk", "--latency", "-t1", f"-c{clients}", f"-d{seconds}s"),
            *("-H", f"Cookie: {cookie}", f"http://127.0.0.1:{port}/"),
        ],
        text=True,
    )
    errors = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    if errors is not None:
        print(f"{app}, {clients} clients: {errors[1]} errors", file=sys.stderr)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    slow = re.search(r"99%\s+([\d.]+)(us|ms|s|m)", said)
    if rate is None or slow is None:
        raise ValueError(said)
    return float(rate[1]), float(slow[1]) * _UNITS[slow[2]]


def measured(rounds: int, seconds: int) -> dict[str, Any]:
    """{server: {clients: {application: {"rate", "share", "p99_ms"}}}}; medians of the rounds."""
    found: dict[str, Any] = {}
    with server() as path:
        for served, command in SERVERS.items():
            taken: dict[tuple[int, str], list[tuple[float, float]]] = {}
            for _ in range(rounds):
                for name in APPS:
                    with serving(command, name, path) as port:
                        cookie = cookie_of(port)
                        for clients in CLIENTS:
                            pair = drive(name, port, cookie, clients, seconds)
                            taken.setdefault((clients, name), []).append(pair)
            found[served] = {}
            for clients in CLIENTS:
                bare_rate = statistics.median([rate for rate, _ in taken[clients, "bare"]])
                found[served][str(clients)] = {
                    name: {
                        "rate": statistics.median([rate for rate, _ in taken[clients, name]]),
                        "share": statistics.median([rate for rate, _ in taken[clients, name]])
                        / bare_rate,
                        "p99_ms": statistics.median([slow for _, slow in taken[clients, name]])
                        * 1e3,
                    }
                    for name in APPS
                }
    return found


def switching(rounds: int, seconds: int) -> dict[str, Any]:
    """{application: {interval: {"rate", "p99_ms"}}} with the most clients that share one process;
    medians of the rounds."""
    most = CLIENTS[-1]
    taken: dict[tuple[str, float], list[tuple[float, float]]] = {}
    with server() as path:
        for _ in range(rounds):
            for name in ("bare", "read one", f"read one, {REDIS}"):
                for interval in (INTERVAL, *SHORTER):
                    with serving(SERVERS[WAITRESS], name, path, interval) as port:
                        pair = drive(name, port, cookie_of(port), most, seconds)
                        taken.setdefault((name, interval), []).append(pair)
    found: dict[str, Any] = {}
    for (name, interval), pairs in taken.items():
        rate, slow = (statistics.median(each) for each in zip(*pairs, strict=True))
        found.setdefault(name, {})[f"{interval * 1e3:g} ms"] = {"rate": rate, "p99_ms": slow * 1e3}
    return found


def available() -> bool:
    return shutil.which("wrk") is not None


def main() -> None:
    given = options(__doc__, seconds="2")
    if not available():
        sys.exit("load.py needs wrk: apt-get install wrk")
    print(json.dumps(measured(min(given.rounds, 3), int(given.seconds)), indent=1))


if __name__ == "__main__":
    main()
