"""A server for tests: Valkey, from the wheel that ``embedded://`` uses."""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from redis import Redis

from ..stores.embedded import EmbeddedServer


class PrivateServer:
    """A private server; ``url`` is for ``altsession.redis.url``."""

    def __init__(self, directory: str) -> None:
        self.url = f"embedded://{directory}"
        self._server = EmbeddedServer(directory)

    def empty(self) -> None:
        """Forget all sessions."""
        with Redis(unix_socket_path=self._server.socket()) as client:
            client.flushall()


@contextmanager
def private_server() -> Iterator[PrivateServer]:
    """``with private_server() as server:`` a private Valkey server, which starts when it is first
    used and ends with the block, even if something is still connected.

    ConfigurationError without the extra ``embedded``.
    """
    parent = tempfile.mkdtemp(prefix="altsession-")  # short, as paths of sockets have to be
    directory = os.path.join(parent, "valkey")
    try:
        yield PrivateServer(directory)
    finally:
        # Without its socket the server ends itself.
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            with suppress(FileNotFoundError, ConnectionError):
                connection.connect(os.path.join(directory, "valkey.sock"))
                shutil.rmtree(parent)
                connection.recv(1)
        shutil.rmtree(parent, ignore_errors=True)
