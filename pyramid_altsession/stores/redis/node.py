"""One server of those that hold the sessions, asked about itself."""

from typing import Any

import redis

from ...errors import StoreUnavailable
from .pool import ConnectionPool
from .wire import no_errors, pack_command


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
