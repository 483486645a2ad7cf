"""One server of those that hold the sessions, asked about itself."""

import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import redis

from ...errors import StoreUnavailable
from .pool import ConnectionPool
from .timed import Timed
from .wire import no_errors, pack_command

PING = pack_command((b"PING",))


class ServerNode:
    """``name``: where it is, for messages."""

    def __init__(self, name: str, pool: ConnectionPool) -> None:
        self.name = name
        self._pool = pool

    def ask(self, *command: str) -> Any:
        """A command of the server's, as ``INFO``. One round trip.

        What the server refuses is redis.ResponseError; StoreUnavailable when it cannot be reached.
        """
        packet = pack_command(tuple([part.encode() for part in command]))
        try:
            replies = self._pool.exchange(packet, 1)
        except redis.RedisError as error:
            raise StoreUnavailable(f"{self.name} does not serve: {error}") from error
        return no_errors(replies)[0]

    def hear(self, channel: str, wait: float) -> Iterator[bytes | None]:
        """What is published to a channel, on a connection of its own; the first item is None: from
        then on nothing is missed.

        A server that says nothing for ``wait`` seconds is asked whether it is there, and has as
        long to answer. Raises redis.ResponseError when it refuses, and StoreUnavailable when it is
        away.
        """
        connection = None
        try:
            connection = self._pool.apart()
            yield from _published(connection, channel, wait)
        except redis.ResponseError:
            raise
        except redis.RedisError as error:
            raise StoreUnavailable(f"{self.name} does not serve: {error}") from error
        finally:
            if connection is not None:
                connection.disconnect()


def _published(connection: Timed, channel: str, wait: float) -> Iterator[bytes | None]:
    connection.send(pack_command((b"SUBSCRIBE", channel.encode())))
    hears, asked = False, True
    while True:
        connection.end = time.monotonic() + wait
        try:
            said = connection.read_response()
        except redis.TimeoutError:
            if asked:
                raise
            asked = True
            connection.send(PING)
            continue
        except redis.ResponseError:
            if not hears:
                raise
            said = []  # who may not ask gets an answer too
        asked = False
        if said[:1] == [b"message"]:
            yield said[2]
        elif not hears:
            hears = True
            yield None


class Health(NamedTuple):
    """What the servers tell of themselves.

    ``latency``: seconds that the slowest one took to answer. ``role``: ``master``, or what another
    one of them is. ``memory_free``: the part of ``maxmemory`` that is free, 0 to 1, of the fullest
    one. None where no server tells, or where its user lacks the right ``+info``; ``memory_free``
    also without a ``maxmemory``.
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
