"""What a request pays for its session, as ratios taken in one run.

    make bench            all of it
    python benchmarks/run.py --rounds 5

Client and server are pinned to one CPU, rounds are interleaved, figures are medians; the unit is
the round trip of one HGET on a raw unix socket. Times of separate runs are not comparable, the
ratios are.
"""

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from typing import Any

from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response

from pyramid_altsession import ISessionAPI
from pyramid_altsession.stores.embedded import server_binary


class Floor:
    """HGET on a raw socket: what any client pays at least."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.ask(b"*4\r\n$4\r\nHSET\r\n$4\r\nhash\r\n$4\r\ncart\r\n$9\r\n[1, 2, 3]\r\n")

    def ask(self, packet: bytes = b"*3\r\n$4\r\nHGET\r\n$4\r\nhash\r\n$4\r\ncart\r\n") -> bytes:
        self.socket.sendall(packet)
        return self.socket.recv(4096)


def application(view: Callable[[Request], Response], **settings: str) -> Any:
    config = Configurator(settings=settings)
    config.add_request_method(lambda request: object(), "trivial", reify=True)
    if settings:
        config.include("pyramid_altsession")
    config.add_route("home", "/")
    config.add_view(view, route_name="home")
    return config.make_wsgi_app()


def bare(request: Request) -> Response:
    request.trivial  # noqa: B018
    return Response("ok")


def read(request: Request) -> Response:
    request.trivial  # noqa: B018
    return Response(str(request.altsession.get("cart")))


def write(request: Request) -> Response:
    request.trivial  # noqa: B018
    request.altsession.set("seen", 1)
    return Response("ok")


def caller(app: Any, cookie: str) -> Callable[[], object]:
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/",
        "SCRIPT_NAME": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.url_scheme": "http",
        "wsgi.version": (1, 0),
        "HTTP_COOKIE": cookie,
    }

    def start_response(status: str, headers: Iterable[tuple[str, str]]) -> None:
        assert status == "200 OK", status

    return lambda: list(app(dict(environ), start_response))


def seconds(call: Callable[[], object], times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--times", type=int, default=300, help="calls of each kind in one round")
    options = parser.parse_args()

    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    directory = tempfile.mkdtemp()
    path = os.path.join(directory, "s")
    command = [server_binary(), "--port", "0", "--unixsocket", path, "--save", ""]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=directory)
    try:
        while not os.path.exists(path):
            time.sleep(0.01)
        settings = {"altsession.redis.url": f"unix://{path}", "altsession.session.secure": "false"}
        reader = application(read, **settings)
        api = reader.registry.getUtility(ISessionAPI)
        cookie = f"sid={api.create({'cart': [1, 2, 3]}).token}"
        calls = {
            "raw HGET": Floor(path).ask,
            "bare application": caller(application(bare), cookie),
            "session untouched": caller(application(bare, **settings), cookie),
            "one key read": caller(reader, cookie),
            "one key written": caller(application(write, **settings), cookie),
        }
        report(calls, options.rounds, options.times)
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(directory)


def report(calls: dict[str, Callable[[], object]], rounds: int, times: int) -> None:
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(rounds + 1):
        for name, call in calls.items():
            spent = seconds(call, times)
            if round_:  # the first round warms up
                taken[name].append(spent)
    median = {name: statistics.median(values) for name, values in taken.items()}
    floor, base = median["raw HGET"], median["bare application"]
    print(f"{'':20} {'µs':>8} {'x bare':>8} {'over bare, in raw HGET round trips':>36}")
    for name, value in median.items():
        print(f"{name:20} {value * 1e6:8.1f} {value / base:8.3f} {(value - base) / floor:36.2f}")


if __name__ == "__main__":
    main()
