"""Sessions on a Redis or Valkey cluster."""

from contextlib import suppress
from functools import partial

import redis

from ...config.converters import shown
from ...config.table import RedisSettings
from .cluster import ClusterSteps
from .connections import Connect, connect
from .failures import Trouble
from .node import ServerNode
from .pool import ConnectionPool
from .steps import Address
from .waiting import Node, WaitingStore, carry_out


class ClusterStore(WaitingStore):
    """The store contract on a cluster. Connections, and whether there is trouble, are a node's.
    Reads go to primaries only: from a replica a session that was ended could still be read."""

    def __init__(
        self, steps: ClusterSteps, connect: Connect, *, name: str, limit: int, wait: float
    ) -> None:
        super().__init__(name, steps, Trouble(name), wait=wait)
        self._connect = connect
        self._limit = limit
        self._map = steps.map
        self._nodes: dict[Address, Node] = {}
        self._primaries = self._map.primaries

    @classmethod
    def from_settings(cls, settings: RedisSettings, prefix: str) -> "ClusterStore":
        return cls(
            ClusterSteps(settings.cluster, prefix.encode() + b":"),
            connect(settings),
            name=settings.place,
            limit=settings.max_connections,
            wait=settings.timeout,
        )

    def node(self, address: Address | None) -> Node:
        assert address is not None
        if self._map.primaries is not self._primaries:
            self._tidy()
        found = self._nodes.get(address)
        if found is None:
            host, port = address
            build = partial(self._connect, address)
            pool = ConnectionPool(build, limit=self._limit, wait=self._wait)
            node = Node(pool, Trouble(f"{host}:{port}, a node of {self._name},"))
            found = self._nodes.setdefault(address, node)
        return found

    def nodes(self) -> list[ServerNode]:
        """The primaries, to be asked about themselves; the configured nodes, where none of them
        tells of others. One round trip at most."""
        with suppress(redis.RedisError):
            carry_out(self._map.address(0), self._call().exchange)
        addresses = self._map.primaries or self._map.seeds
        return [ServerNode(shown((each,)), self.node(each).pool) for each in addresses]

    def _tidy(self) -> None:
        """Forget nodes that have nothing to do any more."""
        self._primaries = self._map.primaries
        for address, node in list(self._nodes.items()):
            if address not in self._primaries:
                node.trouble.replaced()
                if address not in self._map.seeds:
                    node.pool.close()
                    self._nodes.pop(address, None)  # somebody else may have been faster

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        for node in list(self._nodes.values()):
            node.pool.close()
