"""What the benchmarks share: a server and applications on one CPU, and interleaved rounds."""

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import redis
from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response

from pyramid_altsession.stores.embedded import server_binary

SLOTS = 16384
Calls = Mapping[str, Callable[[], object]]


def options(description: str | None, **more: str) -> argparse.Namespace:
    """What the command line says; ``more``: options of one benchmark, with their defaults."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--times", type=int, default=300, help="calls of each kind in one round")
    for name, default in more.items():
        parser.add_argument(f"--{name}", default=default)
    return parser.parse_args()


@contextmanager
def one_cpu() -> Iterator[str]:
    """The unix socket of a server that shares one CPU with this process."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with server() as path:
        yield path


@contextmanager
def server(*options: str) -> Iterator[str]:
    """The unix socket of a server of its own."""
    directory = tempfile.mkdtemp()
    path = os.path.join(directory, "s")
    command = [server_binary(), *("--port", "0", *options), "--unixsocket", path, "--save", ""]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=directory)
    try:
        while not os.path.exists(path):
            assert process.poll() is None, f"{command} does not run"
            time.sleep(0.01)
        yield path
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(directory)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def port() -> Iterator[int]:
    """The TCP port of a server of its own."""
    found = free_port()
    with server("--port", str(found)):
        yield found


@contextmanager
def cluster(nodes: int = 3) -> Iterator[list[int]]:
    """The TCP ports of the primaries of a cluster of its own."""
    ports = [free_port() for _ in range(nodes)]
    buses = [free_port() for _ in range(nodes)]
    with ExitStack() as started:
        clients = []
        for own, bus in zip(ports, buses, strict=True):
            options = ("--cluster-enabled", "yes", "--cluster-port", str(bus))
            path = started.enter_context(server("--port", str(own), *options))
            clients.append(started.enter_context(redis.Redis(unix_socket_path=path)))
        bounds = [place * SLOTS // nodes for place in range(nodes + 1)]
        for client, first, end in zip(clients, bounds, bounds[1:], strict=False):
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
        for own, bus in zip(ports[1:], buses[1:], strict=True):
            clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", own, bus)
        while not all(_knows_all(client) for client in clients):
            time.sleep(0.01)
        yield ports


def _knows_all(client: redis.Redis) -> bool:
    info = client.execute_command("CLUSTER", "INFO")
    assert isinstance(info, bytes)
    return b"cluster_state:ok" in info


def at(path: str) -> dict[str, str]:
    """Settings for a server's unix socket."""
    return {"altsession.redis.url": f"unix://{path}", "altsession.session.secure": "false"}


def application(view: Callable[[Request], Response], settings: Mapping[str, str]) -> Any:
    config = Configurator(settings=dict(settings))
    config.add_request_method(lambda request: object(), "trivial", reify=True)
    if settings:
        config.include("pyramid_altsession")
    config.add_route("home", "/")
    config.add_view(view, route_name="home")
    return config.make_wsgi_app()


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


def medians(calls: Calls, rounds: int, times: int) -> dict[str, float]:
    """Seconds of one call of each, in interleaved rounds."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(rounds + 1):
        for name, call in calls.items():
            spent = seconds(call, times)
            if round_:  # the first round warms up
                taken[name].append(spent)
    return {name: statistics.median(values) for name, values in taken.items()}
