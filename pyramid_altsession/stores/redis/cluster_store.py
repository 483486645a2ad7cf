"""Sessions on a Redis or Valkey cluster."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Generic

import redis

from ...config.converters import shown
from ...config.table import RedisSettings
from .cluster import ClusterSteps
from .connections import Connect, connect
from .failures import Trouble
from .node import ServerNode
from .pool import ConnectionPool
from .slots import SlotMap
from .steps import Address, confirmation
from .waiting import Node, Pool, WaitingStore, carry_out


class Nodes(Generic[Pool]):
    """The nodes that were asked: the connections to each, and whether it is in trouble."""

    def __init__(self, map: SlotMap, name: str, build: Callable[[Address], Pool]) -> None:
        self._map = map
        self._name = name
        self._build = build
        self._nodes: dict[Address, Node[Pool]] = {}
        self._primaries = map.primaries

    def at(self, address: Address | None) -> Node[Pool]:
        assert address is not None
        if self._map.primaries is not self._primaries:
            self._tidy()
        found = self._nodes.get(address)
        if found is None:
            host, port = address
            trouble = Trouble(f"{host}:{port}, a node of {self._name},")
            found = self._nodes.setdefault(address, Node(self._build(address), trouble))
        return found

    def _tidy(self) -> None:
        """Forget nodes that have nothing to do any more."""
        self._primaries = self._map.primaries
        for address, (pool, trouble) in list(self._nodes.items()):
            if address not in self._primaries:
                trouble.replaced()
                if address not in self._map.seeds:
                    pool.close()
                    self._nodes.pop(address, None)  # somebody else may have been faster

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        for pool, _ in list(self._nodes.values()):
            pool.close()


class ClusterStore(WaitingStore):
    """The store contract on a cluster. Connections, and whether there is trouble, are a node's.
    Reads go to primaries only: from a replica a session that was ended could still be read."""

    def __init__(
        self, steps: ClusterSteps, connect: Connect, *, name: str, limit: int, wait: float
    ) -> None:
        super().__init__(name, steps, Trouble(name), wait=wait)

        def build(address: Address) -> ConnectionPool:
            return ConnectionPool(partial(connect, address), limit=limit, wait=wait)

        self._map = steps.map
        self._nodes = Nodes(steps.map, name, build)

    @classmethod
    def from_settings(cls, settings: RedisSettings, prefix: str) -> "ClusterStore":
        return cls(
            ClusterSteps(settings.cluster, prefix.encode() + b":", confirmation(settings)),
            connect(settings),
            name=settings.place,
            limit=settings.max_connections,
            wait=settings.timeout,
        )

    def node(self, address: Address | None) -> Node[ConnectionPool]:
        return self._nodes.at(address)

    def nodes(self) -> list[ServerNode]:
        """The primaries, to be asked about themselves; the configured nodes, where none of them
        tells of others. One round trip at most."""
        with suppress(redis.RedisError):
            carry_out(self._map.address(0), self._call().exchange)
        addresses = self._map.primaries or self._map.seeds
        return [ServerNode(shown((each,)), self.node(each).pool) for each in addresses]

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        self._nodes.close()
