"""The operator's commands on many sessions: time, memory and what they print.

``python benchmarks/commands.py`` fills a server of its own with 100,000 sessions, and a cluster of
three primaries too, by ``altsession load``. ``first``: seconds until the first line of output.
``MiB``: the most memory that the process had at any time (VmHWM). ``help``, which looks at no
session, shows what the interpreter and the package take.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))

from servers import valkey
from topologies import Cluster

MEASURED = """
import re, sys
from pyramid_altsession.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit:
    code = 0
sys.stdout.flush()
status = open("/proc/self/status").read()
print(re.search(r"VmHWM:\\s+([0-9]+)", status)[1], file=sys.stderr)
sys.exit(code)
"""
COMMANDS = (
    ("--help",),
    ("stats", "--json"),
    ("list", "--json"),
    ("list", "--user", "user-7", "--json"),
)


def measured(file: str, *arguments: str) -> tuple[str, float, float, int, float]:
    """The command, seconds to its first line and in all, lines, and MiB."""
    command = [sys.executable, "-c", MEASURED, file, *arguments]
    began = time.perf_counter()
    ran = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert ran.stdout is not None
    assert ran.stderr is not None
    first, lines = 0.0, 0
    for _ in ran.stdout:
        lines += 1
        first = first or time.perf_counter() - began
    most = int(ran.stderr.read().split()[-1])
    assert ran.wait() == 0
    return " ".join(arguments), first, time.perf_counter() - began, lines, most / 1024


def report(number: int) -> Iterator[str]:
    yield f"{'':<10}{'command':<30}{'first':>8}{'s':>8}{'lines':>9}{'MiB':>7}"
    for kind in ("one", "cluster"):
        server = valkey() if kind == "one" else Cluster(timeout=30_000)
        with tempfile.TemporaryDirectory() as folder:
            file = f"{folder}/altsession.yaml"
            Path(file).write_text(f"redis: {{url: '{server.url}', timeout: 30}}\n")
            for command in (("load", str(number), "--json"), *COMMANDS):
                name, first, seconds, lines, most = measured(file, *command)
                yield f"{kind:<10}{name:<30}{first:>8.1f}{seconds:>8.1f}{lines:>9}{most:>7.1f}"
        server.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--sessions", type=int, default=100_000)
    for line in report(parser.parse_args().sessions):
        print(line, flush=True)
