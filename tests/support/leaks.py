"""What a run of the tests must not leave behind: processes, open files, temporary files."""

import gc
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PATIENCE = 60.0  # seconds: embedded servers outlive their last process by 15


@contextmanager
def nothing_left(unless: Callable[[], object]) -> Iterator[None]:
    """Whatever runs in this block ends in it. It gets an empty temporary folder of its own, which
    every process that it starts inherits; that is what tells those apart that are on their own."""
    outside = {name: os.environ.pop(name, None) for name in ("TMPDIR", "XDG_RUNTIME_DIR")}
    folder = tempfile.mkdtemp(prefix="at-")  # short, as paths of sockets have to be
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    children, files = set(processes(folder)), set(open_files())
    yield
    tempfile.tempdir = None
    del os.environ["TMPDIR"]
    os.environ.update({name: value for name, value in outside.items() if value is not None})
    deadline = time.monotonic() + PATIENCE
    while left := [
        *(f"process {text}" for text in sorted(set(processes(folder)) - children)),
        *(f"temporary file {name}" for name in sorted(os.listdir(folder))),
        *(f"open file {text}" for text in sorted(set(open_files()) - files)),
    ]:
        if time.monotonic() > deadline or unless():
            break
        gc.collect()
        time.sleep(0.1)
    shutil.rmtree(folder)
    assert left == [] or unless(), "the tests left behind:\n  " + "\n  ".join(left)


def processes(folder: str) -> Iterator[str]:
    """Our children, dead ones that nobody waited for too, and all that have to do with the folder,
    whosever children they are by now (Linux)."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            command = (entry / "cmdline").read_bytes()
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() or folder.encode() in command + origin(entry):
                yield f"{entry.name}: {command.replace(bytes(1), b' ').decode(errors='replace')}"


def origin(entry: Path) -> bytes:
    """Environment and working directory of a process; nothing of those that are not ours."""
    with suppress(OSError):
        return (entry / "environ").read_bytes() + os.fsencode(os.readlink(entry / "cwd"))
    return b""


def open_files() -> Iterator[str]:
    """What this process has open (Linux)."""
    for entry in Path("/proc/self/fd").glob("*"):
        with suppress(OSError):  # what was open to list them
            yield f"{entry.name}: {os.readlink(entry)}"
