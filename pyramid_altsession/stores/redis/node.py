"""One of the servers that hold the sessions, to be asked about itself."""

import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import redis

from ...errors import StoreUnavailable
from .pool import Connection, ConnectionPool
from .wire import no_errors, pack_command

PING = pack_command((b"PING",))


class ServerNode:
    """``name``: where it is, for messages."""

    def __init__(self, name: str, pool: ConnectionPool) -> None:
        self.name = name
        self._pool = pool

    def ask(self, *command: str) -> Any:
        """Send the server a command, such as ``INFO``. One round trip.

        What the server refuses is redis.ResponseError; StoreUnavailable when it cannot be reached.
        """
        packet = pack_command(tuple([part.encode() for part in command]))
        try:
            replies = self._pool.exchange(packet, 1)
        except redis.RedisError as error:
            raise StoreUnavailable(f"{self.name} does not serve: {error}") from error
        return no_errors(replies)[0]

    def hear(self, channel: str, wait: float) -> Iterator[bytes | None]:
        """Yields what is published to a channel, on a connection of its own. The first item is
        None: from then on nothing is missed.

        If the server sends nothing for ``wait`` seconds, it gets a PING, and has ``wait`` seconds
        to answer. Raises redis.ResponseError if the server refuses, and StoreUnavailable if it is
        away.
        """
        connection = None
        try:
            connection = self._pool.dedicated_connection()
            yield from _published(connection, channel, wait)
        except redis.ResponseError:
            raise
        except redis.RedisError as error:
            raise StoreUnavailable(f"{self.name} does not serve: {error}") from error
        finally:
            if connection is not None:
                connection.disconnect()


def _published(connection: Connection, channel: str, wait: float) -> Iterator[bytes | None]:
    connection.send(pack_command((b"SUBSCRIBE", channel.encode())))
    hears, asked = False, True
    while True:
        connection.end = time.monotonic() + wait
        try:
            said = connection.read_response()
        except redis.TimeoutError as error:
            if asked:
                raise redis.TimeoutError(f"no answer within {wait:g} s") from error
            asked = True
            connection.send(PING)
            continue
        except redis.ResponseError:
            if not hears:
                raise
            said = []  # without the right, the server answers too
        asked = False
        if said[:1] == [b"message"]:
            yield said[2]
        elif not hears:
            hears = True
            yield None


class Health(NamedTuple):
    """What the servers report about themselves.

    ``latency``: seconds that the slowest server took to answer. ``role``: ``master``, or the role
    of a server that is no master. ``memory_free``: the part of ``maxmemory`` that is free on the
    fullest server, 0 to 1. An attribute is None if no server reports it, or if the user lacks the
    right ``+info``; ``memory_free`` also without a ``maxmemory``.
    """

    latency: float | None = None
    role: str | None = None
    memory_free: float | None = None


def health_of(nodes: Iterable[ServerNode]) -> Health:
    """One round trip to each; StoreUnavailable when one cannot be reached."""
    latencies, roles, free = [], [], []
    for node in nodes:
        began = time.monotonic()
        try:
            lines: list[str] = node.ask("INFO").decode().splitlines()
        except redis.ResponseError:
            lines = []
        latencies.append(time.monotonic() - began)
        said = dict([line.split(":", 1) for line in lines if ":" in line])
        if "role" in said:
            roles.append(said["role"])
        most = int(said.get("maxmemory", 0))
        if most:
            free.append(max(1 - int(said["used_memory"]) / most, 0.0))
    others = [role for role in roles if role != "master"]
    role = next(iter(others + roles), None)
    return Health(max(latencies, default=None), role, min(free, default=None))
