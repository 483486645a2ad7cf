"""What the benchmarks share: servers, applications and visitors, and rounds that interleave."""

import argparse
import io
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
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


def pin(*processes: int) -> None:
    """Have these processes (0: this one) and what they start run on one CPU, the last one."""
    for process in processes:
        os.sched_setaffinity(process, {max(os.sched_getaffinity(0))})


@contextmanager
def one_cpu() -> Iterator[str]:
    """The unix socket of a server that shares one CPU with this process."""
    pin(0)
    with server() as path:
        yield path


@contextmanager
def server(*options: str, binary: str | None = None) -> Iterator[str]:
    """The unix socket of a server of its own."""
    directory = tempfile.mkdtemp()
    path = os.path.join(directory, "s")
    program = binary or server_binary()
    command = [program, *("--port", "0", *options), "--unixsocket", path, "--save", ""]
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


def process_of(path: str) -> int:
    """The id of the server's process."""
    with redis.Redis(unix_socket_path=path) as client:
        return int(client.info("server")["process_id"])


def at(path: str) -> dict[str, str]:
    """Settings for a server's unix socket. The time-outs are long: where a machine is busy with
    other things, a figure is worse, and no call fails."""
    return {
        "altsession.redis.url": f"unix://{path}",
        "altsession.redis.timeout": "30",
        "altsession.redis.connect_timeout": "30",
        "altsession.session.secure": "false",
    }


def application(
    view: Callable[[Request], Response],
    settings: Mapping[str, str],
    configure: Callable[[Configurator], None] | None = None,
    *,
    property: bool = True,
) -> Any:
    """A WSGI application with one view. ``settings``: of this package, which is left out without.

    ``property``: Pyramid makes a class for each request as soon as there is a request property,
    whoever adds the first one. Nearly every application has one.
    """
    config = Configurator(settings=dict(settings))
    if property:
        config.add_request_method(lambda request: object(), "trivial", reify=True)
    if settings:
        config.include("pyramid_altsession")
    if configure is not None:
        configure(config)
    config.add_route("home", "/")
    config.add_view(view, route_name="home")
    return config.make_wsgi_app()


def environ_for(cookie: str) -> dict[str, Any]:
    return {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/",
        "SCRIPT_NAME": "",
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.url_scheme": "http",
        "wsgi.version": (1, 0),
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "HTTP_COOKIE": cookie,
    }


def caller(app: Any, cookie: str) -> Callable[[], object]:
    """What sends one request, always with this cookie."""
    environ = environ_for(cookie)

    def start_response(status: str, headers: Iterable[tuple[str, str]], *more: object) -> None:
        assert status == "200 OK", status

    return lambda: list(app(dict(environ), start_response))


class Browser:
    """Sends one request for each call, with the cookies that the answers have set."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._environ = environ_for("")
        self._cookies: dict[str, str] = {}

    def __call__(self) -> object:
        return self._ask(dict(self._environ))

    def visit(self, path: str) -> object:
        return self._ask(self._environ | {"PATH_INFO": path})

    def _ask(self, environ: dict[str, Any]) -> object:
        body = self._app(environ, self._started)
        answer = list(body)
        if hasattr(body, "close"):
            body.close()
        return answer

    def _started(self, status: str, headers: Iterable[tuple[str, str]], *more: object) -> None:
        assert status.startswith("200"), status
        for name, value in headers:
            if name.lower() == "set-cookie":
                self.keep(value)

    def keep(self, set_cookie: str) -> None:
        name, _, value = set_cookie.partition(";")[0].partition("=")
        self._cookies[name] = value
        self._environ["HTTP_COOKIE"] = "; ".join([f"{n}={v}" for n, v in self._cookies.items()])


Clock = Callable[[], float]


def cpu_of_both(path: str) -> Clock:
    """Seconds of CPU that this process and the server at this socket have had. Unlike time on the
    wall, they hardly depend on what else the machine does."""
    schedule = Path(f"/proc/{process_of(path)}/schedstat")

    def clock() -> float:
        return time.process_time() + int(schedule.read_text().split()[0]) / 1e9

    return clock


def seconds(call: Callable[[], object], times: int, clock: Clock = time.perf_counter) -> float:
    """Of one of so many calls."""
    start = clock()
    for _ in range(times):
        call()
    return (clock() - start) / times


@dataclass(frozen=True)
class Sample:
    """Seconds of one call: the median of the rounds, and the quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, rounds: Sequence[float]) -> "Sample":
        low, middle, high = statistics.quantiles(rounds, n=4, method="inclusive")
        return cls(middle, low, high)


def interleaved(
    calls: Calls, rounds: int, times: int, clock: Clock = time.perf_counter
) -> dict[str, Sample]:
    """Each call in turn, ``times`` times in each round: what else the machine does meets all."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(rounds + 1):
        for name, call in calls.items():
            spent = seconds(call, times, clock)
            if round_:  # the first round warms up
                taken[name].append(spent)
    return {name: Sample.of(values) for name, values in taken.items()}


def medians(calls: Calls, rounds: int, times: int) -> dict[str, float]:
    """Seconds of one call of each, in interleaved rounds."""
    return {name: sample.median for name, sample in interleaved(calls, rounds, times).items()}
