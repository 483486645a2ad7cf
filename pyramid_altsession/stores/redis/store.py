"""Sessions on a Redis or Valkey server: one packet for a read, one script for a write."""

import logging
import math
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import redis

from ...config.table import RedisSettings
from ...errors import AltSessionError, CorruptValue, StoreFull, StoreUnavailable
from ...protocol.fields import State
from ...protocol.messages import End, Operation, Read, Reply, Write
from ..embedded import EmbeddedServer
from .connections import connections
from .failures import HINT, LULL, OUR_MISTAKES, Need
from .pool import ConnectionPool, NotConnected, PendingReplies, Timed
from .scripts import command_of
from .wire import (
    no_errors,
    pack_many,
    pack_read,
    pack_write,
    unpack_many,
    unpack_read,
    unpack_write,
)

log = logging.getLogger("pyramid_altsession")


class RedisStore:
    """The store contract on one server. Thread-safe and fork-safe; connects when first used."""

    def __init__(
        self, build: Callable[[], Timed], *, prefix: str, name: str, limit: int,
        wait: float, hint: str = "", embedded: EmbeddedServer | None = None,
    ) -> None:  # fmt: skip
        self._embedded = embedded
        self._prefix = prefix.encode() + b":"
        self._name = name
        self._hint = hint
        self._pool = ConnectionPool(build, limit=limit, wait=wait)
        self._trouble: Need | None = None
        self._told = -math.inf

    @classmethod
    def from_settings(cls, settings: RedisSettings, prefix: str) -> "RedisStore":
        embedded = None
        if settings.scheme == "embedded":
            embedded = EmbeddedServer(urlsplit(settings.url or "").path or None)
        return cls(
            connections(settings, embedded),
            embedded=embedded,
            prefix=prefix,
            name=settings.place,
            limit=settings.max_connections,
            wait=settings.timeout,
            hint="" if settings.configured else HINT,
        )

    def __repr__(self) -> str:
        return f"<RedisStore {self._name}>"

    def execute(self, operation: Operation, end: float | None = None) -> Reply:
        """One round trip; a second one when a connection broke or the script was not loaded.
        Both are over by ``end``, or within the time that a call has."""
        end = self._pool.until() if end is None else end
        try:
            match operation:
                case Read():
                    packet, count = pack_read(operation, self._prefix)
                    replies = self._exchange(operation, packet, count, end)
                    reply = unpack_read(operation, replies)
                case Write():
                    reply = self._write(operation, end)
                case End():
                    reply = self._end(operation, end)
                case _:
                    packet, count = pack_many(operation, self._prefix)
                    replies = self._exchange(operation, packet, count, end)
                    reply = unpack_many(operation, self._prefix, no_errors(replies))
        except redis.RedisError as error:
            raise self._failure(operation, error) from error
        if self._trouble is not None:
            self._recovered(operation)
        return reply

    def send(self, operation: Read) -> "RedisPendingRead":
        """The packet goes out; its reply is read later."""
        packet, count = pack_read(operation, self._prefix)
        try:
            return RedisPendingRead(self, self._pool.send(packet, count))
        except redis.RedisError as error:
            raise self._failure(operation, error) from error

    def _receive(self, operation: Read, sent: PendingReplies) -> Reply:
        """Its reply; a read that the connection lost is carried out once more."""
        end = self._pool.until()
        try:
            return unpack_read(operation, sent.receive(end))
        except redis.ConnectionError:
            return self.execute(operation, end)
        except redis.RedisError as error:
            raise self._failure(operation, error) from error

    def _write(self, operation: Write, end: float) -> Reply:
        (answer,) = self._exchange(operation, pack_write(operation, self._prefix), 1, end)
        if isinstance(answer, redis.exceptions.NoScriptError):
            packet = pack_write(operation, self._prefix, load=True)
            (answer,) = self._exchange(operation, packet, 1, end)
        return unpack_write(answer)

    def _end(self, operation: End, end: float) -> Reply:
        """As for single writes; the first one of the packet brings the script along."""
        writes = operation.writes()
        packet = b"".join([pack_write(w, self._prefix, load=w is writes[0]) for w in writes])
        answers = self._exchange(operation, packet, len(writes), end)
        if any(isinstance(answer, redis.exceptions.NoScriptError) for answer in answers):
            answers = self._exchange(operation, packet, len(writes), end)
        replies = [unpack_write(answer) for answer in answers]
        return Reply(State.LIVE, [r.state is State.LIVE and r.done == 1 for r in replies])

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        self._pool.close()
        if self._embedded is not None:
            self._embedded.release()

    def _exchange(self, operation: Operation, packet: bytes, replies: int, end: float) -> list[Any]:
        try:
            return self._pool.exchange(packet, replies, end)
        except NotConnected:
            raise
        except redis.ConnectionError:
            # The server closed an idle connection, or restarted. What is harmless is repeated.
            if not operation.repeatable:
                raise
            return self._pool.exchange(packet, replies, end)

    def _failure(self, operation: Operation, error: redis.RedisError) -> Exception:
        """Our error for one of redis-py's. A mistake in this package is to be seen as it is;
        whatever else the server, or what stands before it, says instead of an answer is an outage.

        An outage is logged once for each change of state, and at most once in LULL: connections
        that fail beside others that serve would fill the log.
        """
        said = str(error) + command_of(str(error), operation)
        if said.startswith("WRONGTYPE"):
            return CorruptValue("the session's key on the server holds no hash")
        if isinstance(error, redis.ResponseError) and said.startswith(OUR_MISTAKES):
            raise error
        if isinstance(error, redis.exceptions.OutOfMemoryError):
            failure: AltSessionError = StoreFull(f"{self._name} is full: {said}")
        else:
            failure = StoreUnavailable(f"{self._name} does not serve: {said}")
        if isinstance(error, redis.exceptions.ReadOnlyError):
            self._pool.close()  # it has become a replica: connect anew, perhaps to the new primary
        now = time.monotonic()
        if self._trouble is None and now - self._told >= LULL:
            self._told = now
            self._trouble = Need.of(operation)
            log.error("sessions: %s%s", failure, self._hint)
        return failure

    def _recovered(self, operation: Operation) -> None:
        # Reads may go on while writes are refused, and touches while the server is full: what
        # failed has to succeed.
        need = Need.of(operation)
        if need >= self._trouble if self._trouble else need is Need.READ:
            self._trouble = None
            log.warning("sessions: %s serves again", self._name)


class RedisPendingRead:
    """A read under way on a server."""

    __slots__ = ("_sent", "_store")

    def __init__(self, store: RedisStore, sent: PendingReplies) -> None:
        self._store = store
        self._sent = sent

    def result(self, operation: Read) -> Reply:
        return self._store._receive(operation, self._sent)

    def cancel(self) -> None:
        """The connection serves on where the reply has arrived; else it is closed."""
        if not self._sent.arrived:
            self._sent.close()
            return
        with suppress(redis.RedisError):
            self._sent.receive(self._store._pool.until())
