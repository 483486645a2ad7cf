"""What a request pays for its session, as ratios taken in one run.

    make bench            all of it
    python benchmarks/run.py --rounds 5

Client and server are pinned to one CPU, rounds are interleaved, figures are medians; the unit is
the round trip of one HGET on a raw unix socket. Times of separate runs are not comparable, the
ratios are.
"""

import socket

from common import Calls, application, at, caller, medians, one_cpu, options
from pyramid.request import Request
from pyramid.response import Response

from pyramid_altsession import ISessionAPI

UNTOUCHED = 1.03
"""What a request that leaves its session alone may cost, in requests of an application without."""
READ = 5
"""What one key may cost more than such a request, in raw round trips of HGET."""


class Floor:
    """HGET on a raw socket: what any client pays at least."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.ask(b"*4\r\n$4\r\nHSET\r\n$4\r\nhash\r\n$4\r\ncart\r\n$9\r\n[1, 2, 3]\r\n")

    def ask(self, packet: bytes = b"*3\r\n$4\r\nHGET\r\n$4\r\nhash\r\n$4\r\ncart\r\n") -> bytes:
        self.socket.sendall(packet)
        return self.socket.recv(4096)


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


def main() -> None:
    given = options(__doc__)
    with one_cpu() as path:
        reader = application(read, at(path))
        api = reader.registry.getUtility(ISessionAPI)
        cookie = f"sid={api.create({'cart': [1, 2, 3]}).token}"
        calls = {
            "raw HGET": Floor(path).ask,
            "bare application": caller(application(bare, {}), cookie),
            "session untouched": caller(application(bare, at(path)), cookie),
            "one key read": caller(reader, cookie),
            "one key written": caller(application(write, at(path)), cookie),
        }
        report(calls, given.rounds, given.times)


def report(calls: Calls, rounds: int, times: int) -> None:
    median = medians(calls, rounds, times)
    floor, base = median["raw HGET"], median["bare application"]
    print(f"{'':20} {'µs':>8} {'x bare':>8} {'over bare, in raw HGET round trips':>36}")
    for name, value in median.items():
        print(f"{name:20} {value * 1e6:8.1f} {value / base:8.3f} {(value - base) / floor:36.2f}")
    untouched, read = median["session untouched"] / base, (median["one key read"] - base) / floor
    print(f"untouched: {untouched:.3f} x bare, and {UNTOUCHED} is allowed")
    print(f"one key read: {read:.2f} round trips over bare, and {READ} are allowed")
    assert untouched <= UNTOUCHED, untouched
    assert read <= READ, read


if __name__ == "__main__":
    main()
