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
from views import bare, read, write

from pyramid_altsession import ISessionAPI

EXPECTED = Path(__file__).with_suffix(".json")
TOLERANCE = 0.05


def count(call: Callable[[], object]) -> int:
    """Calls that one call makes, once it is warm."""
    for _ in range(5):
        call()
    found = 0

    def note(frame: object, event: str, argument: Any) -> None:
        nonlocal found
        found += event in ("call", "c_call")

    sys.setprofile(note)
    call()
    sys.setprofile(None)
    return found


def counted() -> dict[str, int]:
    with server() as path:
        reader = application(read, at(path))
        token = reader.registry.getUtility(ISessionAPI).create({"cart": [1, 2, 3]}).token
        cookie = f"sid={token}"
        base = count(caller(application(bare, {}), cookie))
        return {
            "untouched": count(caller(application(bare, at(path)), cookie)) - base,
            "read": count(caller(reader, cookie)) - base,
            "write": count(caller(application(write, at(path)), cookie)) - base,
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
