"""Connections as redis-py builds them, with all of its own extras switched off."""

import ssl
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.credentials import CredentialProvider
from redis.retry import Retry

from ...config.converters import PREFIX
from ...config.table import RedisSettings
from ..embedded import EmbeddedServer
from .exchanges import Address
from .failures import NotConnected
from .timed import Timed

Connect = Callable[[Address], Timed]
"""Builds an unconnected connection to the server at an address."""


def connections(
    settings: RedisSettings, embedded: EmbeddedServer | None = None
) -> Callable[[], Timed]:
    """Returns a function that builds unconnected connections to the settings' single server."""
    if embedded is not None:
        return partial(UnixConnection, embedded.socket, **_common(settings))
    if settings.socket is not None:
        path = settings.socket
        return partial(UnixConnection, lambda: path, **_common(settings))
    return partial(connect(settings), (settings.host, settings.port))


def connect(settings: RedisSettings) -> Connect:
    """Returns a function that builds connections to servers, over TCP or TLS."""
    common = _common(settings)
    if not settings.ssl:
        return lambda address: TCPConnection(host=address[0], port=address[1], **common)
    context = cache(partial(tls_context, settings))
    return lambda address: TLSConnection(context, host=address[0], port=address[1], **common)


def _common(settings: RedisSettings) -> dict[str, Any]:
    """redis-py's retries would execute a command several times; RESP3, driver names and maintenance
    notifications would cost round trips at each connect, and bring push messages that are not
    wanted.
    """
    credentials: dict[str, Any] = {"username": settings.username, "password": settings.password}
    if settings.password_file is not None:
        provider = PasswordFile(settings.username, settings.password_file)
        credentials = {"credential_provider": provider}
    return {
        "db": settings.db,
        "socket_timeout": settings.timeout,
        "socket_connect_timeout": settings.connect_timeout,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "driver_info": None,
        **credentials,
    }


def tls_context(settings: RedisSettings) -> ssl.SSLContext:
    """Made once, because making a context takes longer than connecting. With ``ssl_ca_certs`` only
    those authorities are trusted, not the system's.
    """
    try:
        context = ssl.create_default_context(cafile=settings.ssl_ca_certs)
        context.check_hostname = settings.ssl_check_hostname
        context.minimum_version = {
            "1.2": ssl.TLSVersion.TLSv1_2,
            "1.3": ssl.TLSVersion.TLSv1_3,
        }[settings.ssl_min_version]
        if settings.ssl_certfile is not None:
            context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile)
    except OSError as error:  # ssl.SSLError is one
        wanted = f"{PREFIX}redis.ssl_ca_certs, ssl_certfile or ssl_keyfile cannot be used"
        raise NotConnected(f"{wanted}: {error}") from error
    return context


class PasswordFile(CredentialProvider):
    """A password that may change while the application runs: each connection reads it anew."""

    def __init__(self, username: str | None, path: str) -> None:
        self._username = username
        self._path = path

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        try:
            password = Path(self._path).read_text().strip()
        except (OSError, ValueError) as error:
            wanted = f"{PREFIX}redis.password_file: {self._path} cannot be read"
            raise NotConnected(f"{wanted} ({type(error).__name__})") from error
        return (password,) if self._username is None else (self._username, password)


class TCPConnection(Timed, Connection):
    """A connection over TCP."""


class TLSConnection(Timed, SSLConnection):
    """A connection over TLS. ``context`` gives the one for all connections."""

    def __init__(self, context: Callable[[], ssl.SSLContext], **common: Any) -> None:
        super().__init__(**common)
        self.context = context

    def _wrap_socket_with_ssl(self, sock: Any) -> ssl.SSLSocket:
        return self.context().wrap_socket(sock, server_hostname=self.host)


class UnixConnection(Timed, UnixDomainSocketConnection):
    """A connection to the socket that ``find`` returns each time it connects. The time that
    ``find`` takes is not counted, because an embedded server may have to be started.
    """

    host = ""  # an attribute that redis-py does not set

    def __init__(self, find: Callable[[], str], **common: Any) -> None:
        super().__init__(**common)  # type: ignore[no-untyped-call]
        self._find = find

    def _connect(self) -> Any:
        try:
            return self._connect_there()
        except (ConnectionRefusedError, FileNotFoundError):
            return self._connect_there()  # the server has gone since; another one may be there

    def _connect_there(self) -> Any:
        began = time.monotonic()
        self.path = self._find()
        self.end += time.monotonic() - began
        return super()._connect()
