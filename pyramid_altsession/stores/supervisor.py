"""The process beside the server of ``embedded://``: starts it, counts its clients, ends it.

This file is run as a script, detached from the application, and the application imports it for
what both need: the directory, its lock and a first connection.  So that the script starts fast, it
imports nothing but the standard library.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Connection = socket.socket
SCRIPT = __file__

PATIENCE = 10.0  # seconds: for the lock and a start together, for one answer
SOCKET, LOG = "valkey.sock", "valkey.log"
# A full store refuses sessions (noeviction) rather than losing some.
_OPTIONS = (
    "--port 0 --unixsocketperm 700 --appendonly no --maxmemory 256mb --maxmemory-policy noeviction"
)


class Unusable(Exception):
    """The directory cannot be made, or others may write to it."""


def connect(path: str) -> Connection | None:
    """A connection to the server that answers at `path`; None if none listens, `TimeoutError` if it
    hangs.
    """
    connection = socket.socket(socket.AF_UNIX)
    alive = False
    try:
        connection.settimeout(PATIENCE)
        with suppress(FileNotFoundError, ConnectionError):
            connection.connect(path)
            connection.sendall(b"PING\r\n")
            alive = bool(connection.recv(64))
        return connection if alive else None
    finally:
        if not alive:
            connection.close()


@contextmanager
def locked(directory: str, deadline: float) -> Iterator[int]:
    """Hold the lock of `directory`, made if missing; `TimeoutError` at the `deadline`.

    The directory is its own lock: no lock file stays behind, and if the directory is removed while
    a process waits for it, the process finds another inode at the path, or none, and tries again.
    """
    while (fd := _lock(directory)) is None:
        if time.monotonic() > deadline:
            raise TimeoutError("another process has the lock")
        time.sleep(0.002)
    try:
        yield fd
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)  # closing does not do: a child forked meanwhile has a copy
        os.close(fd)


def _lock(directory: str) -> int | None:
    """The directory, opened and locked; None if another has the lock or just removed it."""
    try:
        with suppress(FileExistsError):
            os.mkdir(directory, 0o700)
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as exc:
        if isinstance(exc, FileNotFoundError) and os.path.isdir(os.path.dirname(directory)):
            return None
        raise Unusable(exc) from exc
    locked = False
    try:
        found = os.fstat(fd)
        mode = found.st_mode & 0o777
        if found.st_uid != os.geteuid() or mode != 0o700:
            raise Unusable(f"{directory!r} with mode {mode:04o}, owned by uid {found.st_uid}")
        with suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = _same(directory, found)
        return fd if locked else None
    finally:
        if not locked:
            os.close(fd)


def _same(path: str, known: os.stat_result) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.lstat(path), known)
    return False


def clear(directory: str) -> None:
    """Remove the server's files, and the directory unless it holds other files. Only under the
    lock.
    """
    with suppress(OSError):
        for name in (SOCKET, LOG):
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(directory, name))
        os.rmdir(directory)


def supervise(
    directory: str,
    grace: float,
    binary: str,
    ready: Callable[[], None],
    stop: Connection | None = None,
) -> None:
    """Run the server until it dies, `stop` says so, or no process was connected for `grace`
    seconds.

    Calls `ready` when it answers.  Then leaves no server and no directory, unless another server
    has taken the directory over.  Before that the lock and the clearing are the starter's.
    """
    path = os.path.join(directory, SOCKET)
    options = ["--dir", directory, "--unixsocket", path, "--save", "", *_OPTIONS.split()]
    us = os.getpid()
    server = subprocess.Popen(
        [binary, *options],
        stdin=subprocess.DEVNULL,
        stdout=2,
        preexec_fn=lambda: _die_with(us),
    )
    started = False
    try:
        with _answering(server, path) as connection, suppress(ConnectionError):
            ready()
            started = True
            _watch(server, connection, directory, grace, stop)
    finally:
        _kill(server)
        if started:
            deadline = time.monotonic() + PATIENCE
            with suppress(Unusable, TimeoutError), locked(directory, deadline):
                if (successor := connect(path)) is None:
                    clear(directory)
                else:
                    successor.close()


def _answering(server: subprocess.Popen[bytes], path: str) -> Connection:
    deadline = time.monotonic() + PATIENCE
    while server.poll() is None and time.monotonic() < deadline:
        if (connection := connect(path)) is not None:
            return connection
        time.sleep(0.002)
    raise SystemExit(f"no answer from {server.args!r}, exit status {server.poll()}")


def _watch(
    server: subprocess.Popen[bytes],
    connection: Connection,
    directory: str,
    grace: float,
    stop: Connection | None,
) -> None:
    path = os.path.join(directory, SOCKET)
    ours = os.lstat(path)
    pause = min(0.5, max(0.02, grace / 4))
    seen = time.monotonic()
    connection.settimeout(None)  # a server that was only suspended may go on later
    ends = [connection] if stop is None else [connection, stop]
    # If there is something to read without a question, the server has closed. Without its socket at
    # the path, no process can join any more.
    while not select.select(ends, [], [], pause)[0] and _same(path, ours):
        if _clients(connection):
            seen = time.monotonic()
        elif time.monotonic() - seen >= grace:
            # If another process has the lock, it is about to join.
            with suppress(TimeoutError), locked(directory, 0):
                if not _clients(connection):
                    _kill(server)
                    return


def _clients(connection: Connection) -> int:
    """How many connections the server has besides this one."""
    connection.sendall(b"INFO clients\r\n")
    with connection.makefile("rb") as reply:
        size = reply.readline()[1:]
        if not size:
            raise ConnectionResetError
        return int(reply.read(int(size) + 2).split(b"connected_clients:")[1].split()[0]) - 1


def _kill(server: subprocess.Popen[bytes]) -> None:
    """Kill the server. With SIGTERM it would remove the socket at its path, which may belong to
    another server by then; and it has nothing to save.
    """
    server.kill()
    server.wait()


def _die_with(parent: int) -> None:  # pragma: no cover - runs between fork and exec
    """Have the kernel end this process with `parent`: no orphans of a killed one (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


def _main(directory: str, grace: str, binary: str, lock: str) -> None:  # pragma: no cover - script
    os.set_inheritable(int(lock), False)
    if os.fork():
        # The starter reaps this process; the other one becomes a child of init.
        os._exit(0)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # it and the mask can be inherited
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    stop, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    # A handler that raises could interrupt the hand-over, or the clearing, between two steps.
    signal.signal(signal.SIGTERM, lambda number, frame: None)

    def ready() -> None:
        with suppress(BrokenPipeError):  # the starter was killed; other processes may be waiting
            os.write(1, b"+")
        os.dup2(2, 1)
        os.close(int(lock))

    supervise(directory, float(grace), binary, ready, stop)


if __name__ == "__main__":  # pragma: no cover - script
    _main(*sys.argv[1:])
