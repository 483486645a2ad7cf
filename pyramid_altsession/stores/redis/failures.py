"""The errors with which a server answers, and what is logged about them."""

import logging
import math
import time
from enum import IntEnum

import redis

from ...errors import AltSessionError, CorruptValue, StoreFull, StoreUnavailable
from ...protocol.messages import End, Operation, Prune, Revoke, Write
from ...protocol.verbs import creates
from .scripts import command_of

log = logging.getLogger("pyramid_altsession")

OUR_MISTAKES = (
    "user_script:",  # an error within a script
    "Error compiling script",
    "wrong number of arguments",
    "syntax error",
)
"""How error replies begin (without ERR) that are mistakes of this package, not of a server or
proxy.
"""

UNAUTHENTICATED = "unauthenticated multibulk length"
"""What a server that wants a password says to a command of many arguments, such as a write."""


PLAIN = {bytes, int, list, type(None)}
"""Types of replies; any other is an error, or makes no sense."""

LULL = 5.0
"""Seconds in which an outage that begins again is not logged again."""


class NotConnected(redis.ConnectionError):
    """Nothing was sent, because there was no connection."""


def no_answer(seconds: float) -> redis.TimeoutError:
    """``seconds``: redis.timeout."""
    return redis.TimeoutError(f"no answer within {seconds:g} s (redis.timeout)")


def no_connection(seconds: float) -> redis.TimeoutError:
    """``seconds``: redis.connect_timeout."""
    return redis.TimeoutError(f"no connection within {seconds:g} s (redis.connect_timeout)")


def check_reply(reply: object) -> None:
    """Raise an error reply that is about the connection, and InvalidResponse for what no server
    sends to this package, such as the types of RESP3. Errors about a command may stay.
    """
    if not isinstance(reply, redis.RedisError):
        raise redis.exceptions.InvalidResponse(
            f"a reply of an unknown type: {type(reply).__name__}"
        )
    if not isinstance(reply, redis.ResponseError):
        raise reply


class Need(IntEnum):
    """What an operation needs of the server, beside an answer."""

    READ = 0
    WRITE = 1
    ROOM = 2

    @classmethod
    def of(cls, operation: Operation) -> "Need":
        if isinstance(operation, Revoke | End | Prune):
            return cls.WRITE
        if not isinstance(operation, Write):
            return cls.READ
        return cls.ROOM if creates(operation.verbs, operation.life) else cls.WRITE


HINT = (
    "; no server is configured: set altsession.redis.url, for development to embedded://,"
    " which starts a server of its own"
)


class Trouble:
    """Whether one server is in trouble. Each change of state is logged once, and at most once in
    LULL, because connections that fail beside others that work would fill the log.
    """

    def __init__(self, name: str, hint: str = "") -> None:
        self._name = name
        self._hint = hint
        self._told = -math.inf
        self.need: Need | None = None
        """What failed, while there is trouble."""

    def failure(self, operation: Operation, error: redis.RedisError) -> AltSessionError:
        """The error of this package for one of redis-py. Errors that are mistakes of this package
        are raised as they are; any other error reply, of the server or of a proxy in front of it,
        is an outage.
        """
        said = str(error) + command_of(str(error), operation)
        if UNAUTHENTICATED in said:
            said += " (it wants a password)"
        if said.startswith("WRONGTYPE"):
            return CorruptValue("the session's key on the server holds no hash")
        if isinstance(error, redis.ResponseError) and said.startswith(OUR_MISTAKES):
            raise error
        if isinstance(error, redis.exceptions.OutOfMemoryError):
            failure: AltSessionError = StoreFull(f"{self._name} is full: {said}")
        else:
            failure = StoreUnavailable(f"{self._name} does not serve: {said}")
        now = time.monotonic()
        if self.need is None and now - self._told >= LULL:
            self._told = now
            self.need = Need.of(operation)
            log.error("sessions: %s%s", failure, self._hint)
        return failure

    def served(self, operation: Operation) -> None:
        """The server answered. But reads may work while writes are refused, and touches while the
        server is full, so the trouble is over only when the kind of operation that failed succeeds
        again.
        """
        need, failed = Need.of(operation), self.need
        if failed is None:  # another thread was faster
            return
        if need >= failed if failed else need is Need.READ:
            self.need = None
            log.warning("sessions: %s serves again", self._name)

    def replaced(self) -> None:
        """This server will not be asked any more."""
        if self.need is not None:
            self.need = None
            log.warning("sessions: %s is not asked any more: others serve", self._name)
