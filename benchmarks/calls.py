"""Function calls that a request makes more than in an application without sessions.

    make bench-check

Python's and C's, as sys.setprofile sees them: no machine and no load changes these. Each has to be
within 5 % of what calls.json says for this version of Python, so that no change adds to a request
what nobody noticed.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import application, at, caller, server
from pyramid.request import Request
from pyramid.response import Response
from views import bare, read, session_read

from pyramid_altsession import ISessionAPI

EXPECTED = Path(__file__).with_suffix(".json")
TOLERANCE = 0.05


def count(call: Callable[[], object]) -> int:
    """Calls that one call makes, once it is warm. The least of several: where the machine is slow,
    a connection's time-out is now and then set anew."""
    for _ in range(5):
        call()
    found = [0]

    def note(frame: object, event: str, argument: Any) -> None:
        found[-1] += event in ("call", "c_call")

    for _ in range(9):
        sys.setprofile(note)
        call()
        sys.setprofile(None)
        found.append(0)
    return min(found[:-1])


def write(request: Request) -> Response:
    request.trivial  # noqa: B018
    request.altsession.set("seen", 1)
    return Response("ok")


def session_write(request: Request) -> Response:
    request.trivial  # noqa: B018
    request.session["seen"] = 1
    return Response("ok")


def counted() -> dict[str, int]:
    with server() as path:
        in_sync = at(path) | {"altsession.sync.enabled": "true"}
        session_reader, session_writer = (
            application(view, in_sync) for view in (session_read, session_write)
        )
        reader = application(read, at(path))
        token = reader.registry.getUtility(ISessionAPI).create({"cart": [1, 2, 3]}).token
        cookie = f"sid={token}"
        base = count(caller(application(bare, {}), cookie))
        return {
            "untouched": count(caller(application(bare, at(path)), cookie)) - base,
            "read": count(caller(reader, cookie)) - base,
            "write": count(caller(application(write, at(path)), cookie)) - base,
            "request.session, read": count(caller(session_reader, cookie)) - base,
            "request.session, write": count(caller(session_writer, cookie)) - base,
        }


def main() -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    expected = json.loads(EXPECTED.read_text())
    found = counted()
    print(f"Python {version}, calls over the bare application:", json.dumps(found))
    wrong = {
        name: f"{number}, and {expected[version][name]} are expected"
        for name, number in found.items()
        if abs(number - expected[version][name]) > TOLERANCE * expected[version][name]
    }
    sys.exit(f"{wrong}: find out why, or change {EXPECTED.name}" if wrong else 0)


if __name__ == "__main__":
    main()
