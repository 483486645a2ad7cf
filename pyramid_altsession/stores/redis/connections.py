"""Connections as redis-py builds them, with all of its own extras switched off."""

import time
from collections.abc import Callable
from typing import Any

from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.retry import Retry

from ...config.table import RedisSettings
from ..embedded import EmbeddedServer
from .timed import Timed


def connections(
    settings: RedisSettings, embedded: EmbeddedServer | None = None
) -> Callable[[], Timed]:
    """What builds an unconnected connection, with all of redis-py's own extras switched off.

    Its retries would execute a command several times; RESP3, driver names and maintenance
    notifications would cost round trips at each connect and bring pushes nobody asked for.
    """
    common: dict[str, Any] = {
        "db": settings.db,
        "username": settings.username,
        "password": settings.password,
        "socket_timeout": settings.timeout,
        "socket_connect_timeout": settings.connect_timeout,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "driver_info": None,
    }
    if embedded is not None:
        find = embedded.socket
        return lambda: UnixConnection(find, **common)
    if settings.socket is not None:
        path = settings.socket
        return lambda: UnixConnection(lambda: path, **common)
    common |= {"host": settings.host, "port": settings.port}
    if not settings.ssl:
        return lambda: TCPConnection(**common)
    common |= {
        "ssl_ca_certs": settings.ssl_ca_certs,
        "ssl_certfile": settings.ssl_certfile,
        "ssl_keyfile": settings.ssl_keyfile,
        "ssl_check_hostname": settings.ssl_check_hostname,
    }
    return lambda: TLSConnection(**common)


class TCPConnection(Timed, Connection):
    """A connection over TCP."""


class TLSConnection(Timed, SSLConnection):
    """A connection over TLS."""


class UnixConnection(Timed, UnixDomainSocketConnection):
    """A connection to the socket that ``find`` gives each time it connects. The time that takes,
    as an embedded server may have to be started, is not counted."""

    host = ""  # redis-py forgot this one

    def __init__(self, find: Callable[[], str], **common: Any) -> None:
        super().__init__(**common)  # type: ignore[no-untyped-call]
        self._find = find

    def _connect(self) -> Any:
        try:
            return self._connect_there()
        except (ConnectionRefusedError, FileNotFoundError):
            return self._connect_there()  # the server went away since: another one may be there

    def _connect_there(self) -> Any:
        began = time.monotonic()
        self.path = self._find()
        self.end += time.monotonic() - began
        return super()._connect()
