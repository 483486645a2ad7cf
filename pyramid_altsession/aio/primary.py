"""The primary that sentinels name: asked for whenever a connection is opened, and checked."""

from typing import Any

import redis

from ..config.table import RedisSettings
from ..protocol.steps import run_async
from ..stores.redis.exchanges import Exchange
from ..stores.redis.failures import NotConnected, no_connection
from ..stores.redis.sentinel import HELLO, Discovery, check_role
from ..stores.redis.waiting import part
from .connection import Connection, open_at
from .pool import AsyncConnectionPool


class Primary:
    """Opens connections to the server that is the primary at that moment."""

    def __init__(self, settings: RedisSettings) -> None:
        self._discovery = Discovery(settings.sentinels, settings.master or "")
        self._open_at = open_at(settings)
        sentinel_at = open_at(settings.of_sentinels())
        wait = self._connect_timeout = settings.connect_timeout
        self._sentinels = {
            sentinel: AsyncConnectionPool(
                sentinel_at(sentinel),
                limit=settings.max_connections,
                wait=wait,
                connect_wait=wait,
            )
            for sentinel in settings.sentinels
        }

    async def open(self, end: float) -> Connection:
        async def carry_out(exchange: Exchange) -> list[Any]:
            assert exchange.address is not None
            pool = self._sentinels[exchange.address]
            return await pool.exchange(exchange.packet, exchange.replies, part(exchange, end))

        address = await run_async(carry_out, self._discovery.find())
        connection = await self._open_at(address)(end)
        try:
            check_role(await connection.exchange(HELLO, 1, end))
        except redis.TimeoutError as error:
            raise no_connection(self._connect_timeout) from error
        except NotConnected:
            self._discovery.distrust()
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """Close the connections to sentinels; a later call opens new ones."""
        for pool in self._sentinels.values():
            pool.close()
