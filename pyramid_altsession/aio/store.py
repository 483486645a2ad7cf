"""Where awaitable sessions live: the steps of the plain stores, awaited."""

import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import redis

from ..config.table import RedisSettings, Settings
from ..interfaces import SealingCodec, Store
from ..protocol.messages import Operation, Reply
from ..protocol.steps import run_async
from ..stores.embedded import EmbeddedServer
from ..stores.memory import MemoryStore
from ..stores.observed import Observing
from ..stores.redis.cluster import ClusterSteps
from ..stores.redis.cluster_store import Nodes
from ..stores.redis.exchanges import Address, Exchange, confirmation
from ..stores.redis.failures import HINT, Trouble
from ..stores.redis.one_server import OneServer
from ..stores.redis.waiting import Node, SteppedStore
from ..stores.sealed import Sealing
from ..stores.traffic import Traffic
from .connection import Open, open_at, open_server
from .pool import AsyncConnectionPool, pool_of
from .primary import Primary
from .pubsub import MemoryNotices, Notices, ServerNotices, one_server

T = TypeVar("T")


class AsyncStore(Protocol):
    """Where sessions live, as :class:`~pyramid_altsession.interfaces.Store`, awaited."""

    async def execute(self, operation: Operation) -> Reply:
        """Carry out the operation completely or not at all, or raise StoreUnavailable. If the call
        is cancelled, the operation may or may not have been carried out, and no other call gets its
        reply.
        """

    async def close(self) -> None:
        """Close the connections. The sessions stay."""


class DirectStore:
    """The awaitable contract on a plain store that never waits for a server: the one in memory."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def __repr__(self) -> str:
        return repr(self.store)

    async def execute(self, operation: Operation) -> Reply:
        return self.store.execute(operation)

    @property
    def notices(self) -> Notices | None:
        return MemoryNotices(self.store) if isinstance(self.store, MemoryStore) else None

    async def close(self) -> None:
        self.store.close()


class AsyncSealedStore:
    """The awaitable contract, on another store, whose values are sealed."""

    def __init__(self, store: AsyncStore, codec: SealingCodec) -> None:
        self.store = store
        self._sealing = Sealing(codec)

    def __repr__(self) -> str:
        return f"<AsyncSealedStore {self.store!r}>"

    async def execute(self, operation: Operation) -> Reply:
        return await run_async(self.store.execute, self._sealing.steps(operation))

    async def close(self) -> None:
        await self.store.close()


class AsyncObservedStore(Observing):
    """The awaitable contract, on another store, for observers."""

    def __init__(self, store: AsyncStore) -> None:
        self.store = store
        Traffic.measured = True

    def __repr__(self) -> str:
        return f"<AsyncObservedStore {self.store!r}>"

    async def execute(self, operation: Operation) -> Reply:
        with self.watching(operation, Traffic()) as watched:
            watched.reply = reply = await self.store.execute(operation)
        return reply

    async def close(self) -> None:
        await self.store.close()


# -- on servers


class AwaitingStore(SteppedStore[AsyncConnectionPool]):
    """The awaitable contract, carried out in steps. Several event loops may use it, also after a
    fork. It connects when first used.
    """

    notices: ServerNotices

    async def look_up(self, exchange: Exchange) -> list[Any]:
        """The answers to a question about the servers."""
        answers: list[Any] = await self._call().carry_out(exchange)
        return answers

    async def execute(self, operation: Operation) -> Reply:
        first = self._steps.first(operation)
        if first is None:
            call = self._call()
            return await run_async(call.carry_out, self._answer(operation, call))
        address, packet, count, unpack = first
        pool, trouble = self.servers[address]
        end, outcome = time.monotonic() + self._wait, None
        try:
            outcome = await pool.exchange(packet, count, end, once=not operation.repeatable)
            reply = unpack(operation, outcome)
        except redis.RedisError as error:
            call = self._call(end, trouble)
            steps = self._after(operation, call, first)
            return await run_async(call.carry_out, steps, outcome or error)
        if trouble.need is not None:
            trouble.served(operation)
        return reply


class AsyncRedisStore(AwaitingStore):
    """Sessions on one server, or on the primary that sentinels name."""

    def __init__(
        self, open: Open, settings: RedisSettings, prefix: str, release: Callable[[], None]
    ) -> None:
        self._release = release
        trouble = Trouble(settings.place, "" if settings.configured else HINT)
        pool = pool_of(open, settings)
        self._pool = pool
        servers: dict[Address | None, Node[AsyncConnectionPool]] = {None: Node(pool, trouble)}
        steps = OneServer(prefix.encode() + b":", confirmation(settings))
        super().__init__(settings.place, steps, servers, trouble, wait=settings.timeout)
        self.notices = ServerNotices(
            prefix, one_server, self.look_up, lambda address: open, settings
        )

    @classmethod
    def from_settings(cls, settings: RedisSettings, prefix: str) -> "AsyncRedisStore":
        if settings.scheme == "embedded":
            embedded = EmbeddedServer(urlsplit(settings.url or "").path or None)
            return cls(open_server(settings, embedded), settings, prefix, embedded.release)
        if settings.sentinels:
            primary = Primary(settings)
            return cls(primary.open, settings, prefix, primary.close)
        return cls(open_server(settings), settings, prefix, lambda: None)

    async def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        self.notices.close()
        self._pool.close()
        self._release()


class AsyncClusterStore(AwaitingStore):
    """Sessions on a cluster."""

    def __init__(self, settings: RedisSettings, prefix: str) -> None:
        steps = ClusterSteps(settings.cluster, prefix.encode() + b":", confirmation(settings))
        at = open_at(settings)
        self._nodes = Nodes(steps.map, settings.place, lambda a: pool_of(at(a), settings))
        trouble = Trouble(settings.place)
        super().__init__(settings.place, steps, self._nodes, trouble, wait=settings.timeout)

        def open_line(address: Address | None) -> Open:
            assert address is not None
            return at(address)

        self.notices = ServerNotices(prefix, steps.map.send, self.look_up, open_line, settings)

    async def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        self.notices.close()
        self._nodes.close_idle()


def open_store(settings: Settings) -> AsyncStore:
    """The store that ``redis.url`` names. No network I/O."""
    if settings.redis.scheme == "memory":
        return DirectStore(MemoryStore())
    if settings.redis.cluster:
        return AsyncClusterStore(settings.redis, settings.session.prefix)
    return AsyncRedisStore.from_settings(settings.redis, settings.session.prefix)
