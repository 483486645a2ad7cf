"""Sessions on one Redis or Valkey server: one packet for a read, one script for a write."""

from collections.abc import Callable
from urllib.parse import urlsplit

from ...config.table import RedisSettings
from ..embedded import EmbeddedServer
from .connections import connections
from .exchanges import Address, confirmation
from .failures import HINT, Trouble
from .node import ServerNode
from .one_server import OneServer
from .pool import ConnectionPool, PoolUsage
from .sentinel import Sentinels
from .timed import Timed
from .waiting import Node, WaitingStore


class RedisStore(WaitingStore):
    """The store contract on one server, or on the primary that sentinels name. Thread-safe and
    fork-safe; connects when first used."""

    def __init__(
        self, build: Callable[[], Timed], *, prefix: str, name: str, limit: int,
        wait: float, confirmation: int = 500, hint: str = "",
        release: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        self._release = release
        self._pool = ConnectionPool(build, limit=limit, wait=wait)
        trouble = Trouble(name, hint)
        servers: dict[Address | None, Node[ConnectionPool]] = {None: Node(self._pool, trouble)}
        steps = OneServer(prefix.encode() + b":", confirmation)
        super().__init__(name, steps, servers, trouble, wait=wait)

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

    def nodes(self) -> list[ServerNode]:
        """The server, to be asked about itself. No round trip."""
        return [ServerNode(self._name, self._pool)]

    def pool_usage(self) -> list[PoolUsage]:
        """The state of the pool now. No round trip."""
        return [self._pool.usage(self._name)]

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        self._pool.close()
        if self._release is not None:
            self._release()
