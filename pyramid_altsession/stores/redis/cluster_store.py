"""Sessions on a Redis or Valkey cluster."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial

import redis

from ...config.converters import shown
from ...config.table import RedisSettings
from ...protocol.steps import run
from .cluster import ClusterSteps
from .connections import Connect, connect
from .exchanges import Address, confirmation
from .failures import Trouble
from .node import ServerNode
from .pool import ConnectionPool, PoolUsage
from .slots import SlotMap
from .waiting import Node, Pool, WaitingStore


class Nodes(dict[Address | None, Node[Pool]]):
    """The nodes that were asked: the connections to each, and whether it is in trouble. Looking up
    a node adds it.
    """

    def __init__(self, map: SlotMap, name: str, build: Callable[[Address], Pool]) -> None:
        self._map = map
        self._name = name
        self._build = build
        map.changed = self._tidy

    def __missing__(self, address: Address | None) -> Node[Pool]:
        assert address is not None
        host, port = address
        trouble = Trouble(f"{host}:{port}, a node of {self._name},")
        return self.setdefault(address, Node(self._build(address), trouble))

    def _tidy(self) -> None:
        """Forget nodes that are not needed any more."""
        for address, (pool, trouble) in list(self.items()):
            if address not in self._map.primaries:
                trouble.replaced()
                pool.close()
                if address not in self._map.seeds:
                    self.pop(address, None)  # another thread may have been faster

    def close_idle(self) -> None:
        """Close the connections that are not in use; a later call opens new ones."""
        for pool, _ in list(self.values()):
            pool.close()


class ClusterStore(WaitingStore):
    """The store contract on a cluster. Each node has its own connections and its own state of
    trouble. Reads go to primaries only, because a replica could still have a session that was
    ended.
    """

    def __init__(
        self, steps: ClusterSteps, connect: Connect, *, name: str, limit: int, wait: float
    ) -> None:
        def build(address: Address) -> ConnectionPool:
            return ConnectionPool(partial(connect, address), limit=limit, wait=wait)

        self._map = steps.map
        self._nodes = Nodes(steps.map, name, build)
        super().__init__(name, steps, self._nodes, Trouble(name), wait=wait)

    @classmethod
    def from_settings(cls, settings: RedisSettings, prefix: str) -> "ClusterStore":
        return cls(
            ClusterSteps(settings.cluster, prefix.encode() + b":", confirmation(settings)),
            connect(settings),
            name=settings.place,
            limit=settings.max_connections,
            wait=settings.timeout,
        )

    def nodes(self) -> list[ServerNode]:
        """The primaries, to be asked about themselves; if no node returns the map, the configured
        nodes. One round trip at most.
        """
        with suppress(redis.RedisError):
            run(self._call().carry_out, self._map.address(0))
        addresses = self._map.primaries or self._map.seeds
        return [ServerNode(shown((each,)), self._nodes[each].pool) for each in addresses]

    def pool_usage(self) -> list[PoolUsage]:
        """The state of the pool of each node that was asked. No round trip."""
        return [node.pool.usage(shown((at,))) for at, node in list(self._nodes.items()) if at]

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        self._nodes.close_idle()
