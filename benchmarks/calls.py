"""Function calls that a request makes more than in an application without sessions.

    make bench-check

Python's and C's, as sys.setprofile sees them: no machine and no load changes these. Each has to be
within 5 % of what calls.json says for this version of Python, so that no change adds to a request
what nobody noticed.

And the way through the package of one call of request.altsession: how many functions of the package
it passes, and how many modules, so that a reader can follow it.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from common import application, at, caller, server
from pyramid.request import Request
from pyramid.response import Response
from views import bare, read, session_read

import pyramid_altsession
from pyramid_altsession import ISessionAPI

PACKAGE = Path(pyramid_altsession.__file__).parent
MOST_FUNCTIONS, MOST_MODULES = 40, 8
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


def way(call: Callable[[Request], object]) -> tuple[set[str], set[str]]:
    """The package's functions and modules that one call in a view passes, once it is warm."""
    passed: list[CodeType] = []

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and Path(frame.f_code.co_filename).is_relative_to(PACKAGE):
            passed.append(frame.f_code)

    def view(request: Request) -> Response:
        request.altsession  # noqa: B018 - reading it makes the session, which is not counted
        passed.clear()
        sys.setprofile(note)
        call(request)
        sys.setprofile(None)
        return Response("ok")

    with server() as path:
        app = application(view, at(path))
        token = app.registry.getUtility(ISessionAPI).create({"cart": [1, 2, 3]}).token
        ask = caller(app, f"sid={token}")
        ask()
        ask()
    modules = {code.co_filename for code in passed}
    return {f"{code.co_filename}:{code.co_firstlineno}" for code in passed}, modules


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
    calls: dict[str, Callable[[Request], object]] = {
        "get": lambda request: request.altsession.get("cart"),
        "set": lambda request: request.altsession.set("seen", 1),
    }
    for name, call in calls.items():
        functions, modules = way(call)
        print(f"{name} passes {len(functions)} functions in {len(modules)} modules of the package")
        if len(functions) > MOST_FUNCTIONS or len(modules) > MOST_MODULES:
            sys.exit(f"{name}: wanted at most {MOST_FUNCTIONS} in {MOST_MODULES}")
    sys.exit(f"{wrong}: find out why, or change {EXPECTED.name}" if wrong else 0)


if __name__ == "__main__":
    main()
