"""Stops a process for a while. ``outage.py`` runs this file as a script.

The process goes on when standard input is closed: by who started this script, or by the kernel when
that program has ended, in whatever way. It goes on after ``seconds`` at the latest.
"""

import os
import select
import signal
import sys
from contextlib import suppress


def halt(pid: int, seconds: float) -> None:
    """Writes one byte as soon as the process is stopped."""
    try:
        os.kill(pid, signal.SIGSTOP)
        os.write(1, b"+")
        select.select([0], [], [], seconds)
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit())  # not without the last step
    halt(int(sys.argv[1]), float(sys.argv[2]))
