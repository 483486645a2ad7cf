"""The primary that sentinels name: asked for whenever a connection is opened, and checked."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import redis

from ...config.converters import shown
from ...config.table import RedisSettings
from ...protocol.steps import run
from .connections import connect
from .exchanges import Address, Exchange, Steps
from .failures import NotConnected
from .pool import ConnectionPool
from .timed import Timed
from .waiting import part
from .wire import pack_command

HELLO = pack_command((b"HELLO", b"2"))


class Discovery:
    """Where the primary is, in steps. The sentinel that knew it last is asked first."""

    def __init__(self, sentinels: Sequence[Address], master: str) -> None:
        self._sentinels = tuple(sentinels)
        self._unknown = f"knows no {master!r} (redis.master)"
        name = b"GET-MASTER-ADDR-BY-NAME"
        self._packet = pack_command((b"SENTINEL", name, master.encode()))

    def find(self) -> Steps[Address]:
        """The primary's address. NotConnected says what each sentinel answered."""
        said = []
        sentinels = self._sentinels
        for place, sentinel in enumerate(sentinels):
            # Each gets only a part of the time, so that time is left for the others, and for the
            # primary.
            share = len(sentinels) - place + 1
            try:
                (answer,) = yield Exchange(sentinel, self._packet, 1, share=share, lookup=True)
            except redis.TimeoutError:
                answer = "does not answer in its share of the time (redis.connect_timeout)"
            except redis.RedisError as error:
                answer = error
            if isinstance(answer, list):
                self._sentinels = (*sentinels[place:], *sentinels[:place])
                return answer[0].decode(), int(answer[1])
            said.append(f"{shown((sentinel,))} {answer or self._unknown}")
        raise NotConnected("no sentinel names the primary: " + "; ".join(said))

    def distrust(self) -> None:
        """The sentinel that was asked last named a server that is no primary: ask others first."""
        first, *others = self._sentinels
        self._sentinels = (*others, first)


def check_role(replies: Sequence[Any]) -> None:
    """NotConnected unless a primary answers HELLO. A replica would silently serve old values.
    HELLO, unlike ROLE, needs no right.
    """
    (said,) = replies
    told = dict(zip(said[::2], said[1::2], strict=True)) if isinstance(said, list) else {}
    if told.get(b"role") != b"master":
        role = told.get(b"role", b"?").decode()
        raise NotConnected(f"its role is {role}, not master: a failover is under way")


class Sentinels:
    """Builds connections to the server that is the primary when they connect."""

    def __init__(self, settings: RedisSettings) -> None:
        self._discovery = Discovery(settings.sentinels, settings.master or "")
        self._connect = connect(settings)
        open_sentinel = connect(settings.of_sentinels())
        self._pools = {
            sentinel: ConnectionPool(
                partial(open_sentinel, sentinel),
                limit=settings.max_connections,
                wait=settings.connect_timeout,
            )
            for sentinel in settings.sentinels
        }

    def connection(self) -> Timed:
        """An unconnected connection."""
        connection = self._connect(("", 0))
        connection.locate = self._find
        connection.greet = self._greet
        return connection

    def close(self) -> None:
        """Close the connections to sentinels; a later call opens new ones."""
        for pool in self._pools.values():
            pool.close()

    def _find(self, end: float) -> Address:
        def carry_out(exchange: Exchange) -> list[Any]:
            assert exchange.address is not None
            return self._pools[exchange.address].exchange(
                exchange.packet, exchange.replies, part(exchange, end)
            )

        return run(carry_out, self._discovery.find())

    def _greet(self, connection: Timed) -> None:
        connection.send(HELLO)
        try:
            check_role(connection.receive(1))
        except NotConnected:
            self._discovery.distrust()
            raise
