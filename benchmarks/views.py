"""What the applications do, through ``request.altsession`` and through ``request.session``; and
the raw round trip that costs are told in.

``request.trivial`` stands by itself because reading it makes the property, as most views do with
one of their own.
"""

import itertools
import socket
from collections.abc import Callable
from typing import Any

from pyramid.request import Request
from pyramid.response import Response

View = Callable[[Request], Response]

FIVE = ("cart", "name", "theme", "language", "seen")
CONTENT: dict[str, Any] = {
    "cart": [1, 2, 3],
    "name": "Ann",
    "theme": "dark",
    "language": "en",
    "seen": 0,
}
COUNT = itertools.count()
"""Each write has another value: some libraries write nothing where nothing changed."""
LARGE = "x" * 64_000
"""One more value of a session of 64 kB."""


RAW, BY_HAND = "raw HGET", "bare, and by hand the packet of"


class Floor:
    """HGET on a raw socket: what any client pays at least."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.ask(b"*4\r\n$4\r\nHSET\r\n$4\r\nhash\r\n$4\r\ncart\r\n$9\r\n[1, 2, 3]\r\n")

    def ask(self, packet: bytes = b"*3\r\n$4\r\nHGET\r\n$4\r\nhash\r\n$4\r\ncart\r\n") -> bytes:
        self.socket.sendall(packet)
        return self.socket.recv(4096)

    def view(self, packet: bytes) -> View:
        """A view that sends this packet, and does nothing with the reply."""

        def by_hand(request: Request) -> Response:
            request.trivial  # noqa: B018
            self.ask(packet)
            return Response("ok")

        return by_hand


def plain(request: Request) -> Response:
    return Response("ok")


def bare(request: Request) -> Response:
    request.trivial  # noqa: B018
    return Response("ok")


def read(request: Request) -> Response:
    request.trivial  # noqa: B018
    return Response(str(request.altsession.get("cart")))


def read_five(request: Request) -> Response:
    request.trivial  # noqa: B018
    return Response(str(request.altsession.mget(FIVE)))


def write(request: Request) -> Response:
    request.trivial  # noqa: B018
    request.altsession.set("seen", next(COUNT))
    return Response("ok")


def change(request: Request) -> Response:
    request.trivial  # noqa: B018
    session = request.altsession
    session.set("seen", session.get("seen", 0) + 1)
    return Response("ok")


def login(request: Request) -> Response:
    request.trivial  # noqa: B018
    request.altsession.login("ann")
    return Response("ok")


def fill(request: Request) -> Response:
    request.altsession.mset(CONTENT)
    return Response("ok")


def fill_large(request: Request) -> Response:
    request.altsession.mset(CONTENT | {"large": LARGE})
    return Response("ok")


def session_read(request: Request) -> Response:
    request.trivial  # noqa: B018
    return Response(str(request.session["cart"]))


def session_read_five(request: Request) -> Response:
    request.trivial  # noqa: B018
    return Response(str([request.session[key] for key in FIVE]))


def session_write(request: Request) -> Response:
    request.trivial  # noqa: B018
    request.session["seen"] = next(COUNT)
    return Response("ok")


def session_change(request: Request) -> Response:
    request.trivial  # noqa: B018
    request.session["seen"] += 1
    return Response("ok")


def session_login(request: Request) -> Response:
    """As Pyramid's documentation has it: nothing that the visitor brought stays."""
    request.trivial  # noqa: B018
    request.session.invalidate()
    request.session["auth.userid"] = "ann"
    return Response("ok")


def session_fill(request: Request) -> Response:
    request.session.update(CONTENT)
    return Response("ok")


def session_fill_large(request: Request) -> Response:
    request.session.update(CONTENT | {"large": LARGE})
    return Response("ok")


ALTSESSION: dict[str, View] = {
    "untouched": bare,
    "read one": read,
    "read five": read_five,
    "write one": write,
    "read and write": change,
    "login": login,
}
SESSION: dict[str, View] = {
    "untouched": bare,
    "read one": session_read,
    "read five": session_read_five,
    "write one": session_write,
    "read and write": session_change,
    "login": session_login,
}
