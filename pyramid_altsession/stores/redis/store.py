"""Sessions on one Redis or Valkey server: one packet for a read, one script for a write."""

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import redis

from ...config.table import RedisSettings
from ...protocol.messages import Operation, Read, Reply, Write
from ..embedded import EmbeddedServer
from .connections import connections
from .failures import HINT, Trouble
from .node import ServerNode
from .pool import ConnectionPool
from .sentinel import Sentinels
from .steps import Address, OneServer, confirmation
from .timed import Timed
from .waiting import Node, WaitingStore
from .wire import pack_read, pack_write, unpack_read, unpack_write


class RedisStore(WaitingStore):
    """The store contract on one server, or on the primary that sentinels name. Thread-safe and
    fork-safe; connects when first used."""

    def __init__(
        self, build: Callable[[], Timed], *, prefix: str, name: str, limit: int,
        wait: float, confirmation: int = 500, hint: str = "",
        release: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        self._release = release
        self._prefix = prefix.encode() + b":"
        self._pool = ConnectionPool(build, limit=limit, wait=wait)
        super().__init__(
            name, OneServer(self._prefix, confirmation), Trouble(name, hint), wait=wait
        )

    @classmethod
    def from_settings(cls, settings: RedisSettings, prefix: str) -> "RedisStore":
        release = None
        if settings.sentinels:
            sentinels = Sentinels(settings)
            build, release = sentinels.connection, sentinels.close
        elif settings.scheme == "embedded":
            embedded = EmbeddedServer(urlsplit(settings.url or "").path or None)
            build, release = connections(settings, embedded), embedded.release
        else:
            build = connections(settings)
        return cls(
            build,
            release=release,
            prefix=prefix,
            name=settings.place,
            limit=settings.max_connections,
            wait=settings.timeout,
            confirmation=confirmation(settings),
            hint="" if settings.configured else HINT,
        )

    def node(self, address: Address | None) -> Node[ConnectionPool]:
        return Node(self._pool, self._trouble)

    def nodes(self) -> list[ServerNode]:
        """The server, to be asked about itself. No round trip."""
        return [ServerNode(self._name, self._pool)]

    def execute(self, operation: Operation, end: float | None = None) -> Reply:
        """One round trip; a second one when a connection broke or the script was not loaded.

        The first step of a read or a write, which is nearly always its last, is taken here, without
        the cost of a generator. Where it was not the last, the steps go on from its outcome.
        """
        outcome: Any
        end = time.monotonic() + self._wait if end is None else end
        try:
            match operation:
                case Read():
                    packet, count = pack_read(operation, self._prefix)
                    reply = unpack_read(operation, self._pool.exchange(packet, count, end))
                case Write() if not operation.durable:
                    outcome = self._pool.exchange(pack_write(operation, self._prefix), 1, end)
                    if outcome[0].__class__ is not list:
                        return self._go_on(operation, outcome, end)
                    reply = unpack_write(outcome[0])
                case _:
                    return super().execute(operation, end)
        except redis.RedisError as error:
            return self._go_on(operation, error, end)
        if self._trouble.need is not None:
            self._trouble.served(operation)
        return reply

    def _go_on(self, operation: Operation, outcome: Any, end: float) -> Reply:
        steps = self._steps.execute(operation)
        next(steps)  # what was asked already
        return self.go_on(operation, steps, self._call(end), outcome)

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        self._pool.close()
        if self._release is not None:
            self._release()
