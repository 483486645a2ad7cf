"""The dialogue with servers, as steps without I/O.

A step yields :class:`Ask` and is sent the replies to it, error replies among them; or
redis.ConnectionError, redis.TimeoutError or NotConnected is thrown into it. Drivers that wait and
drivers that await share the decisions made here: what is repeated, and where.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, TypeVar

import redis
from msgspec.structs import replace
from redis.exceptions import AskError, MovedError, NoScriptError, ReadOnlyError

from ...config.converters import PREFIX
from ...config.table import RedisSettings
from ...protocol.fields import State
from ...protocol.messages import End, Operation, Read, Reply, Revoke, Write
from .failures import NotConnected
from .wire import (
    no_errors,
    pack_confirmation,
    pack_many,
    pack_read,
    pack_write,
    unpack_many,
    unpack_read,
    unpack_write,
)

T = TypeVar("T")
Address = tuple[str, int]


class Ask(NamedTuple):
    """One packet for one server.

    ``address``: None if there is only one server. ``share``: take no more than this part of the
    time that is left. ``anew``: use a new connection. ``lookup``: the packet is about the servers,
    not about sessions.
    """

    address: Address | None
    packet: bytes
    replies: int
    share: int = 1
    anew: bool = False
    lookup: bool = False


First = tuple[Address | None, bytes, int]
"""The first packet about an operation, and the number of its replies."""
Steps = Generator[Ask, list[Any], T]
Say = Callable[[bytes, int, bool], Steps[list[Any]]]
"""Packet, number of replies, and whether it may be sent twice."""


def write(operation: Write, prefix: bytes, say: Say) -> Steps[Reply]:
    """Call the script by its hash; if the server does not know it, with its text."""
    (answer,) = yield from say(pack_write(operation, prefix), 1, operation.repeatable)
    if isinstance(answer, NoScriptError):
        packet = pack_write(operation, prefix, load=True)
        (answer,) = yield from say(packet, 1, operation.repeatable)
    return unpack_write(answer)


def end(writes: Sequence[Write], prefix: bytes, say: Say) -> Steps[list[bool]]:
    """End sessions; returns which were ended. The packet's first script is sent with its text."""
    packet = b"".join([pack_write(w, prefix, load=w is writes[0]) for w in writes])
    answers = yield from say(packet, len(writes), True)
    if any(isinstance(answer, NoScriptError) for answer in answers):
        answers = yield from say(packet, len(writes), True)
    replies = [unpack_write(answer) for answer in answers]
    return [reply.state is State.LIVE and reply.done == 1 for reply in replies]


def many(operation: Operation, prefix: bytes, say: Say) -> Steps[Reply]:
    """An operation about many sessions."""
    packet, count = pack_many(operation, prefix)
    replies = yield from say(packet, count, operation.repeatable)
    return unpack_many(operation, prefix, no_errors(replies))


Milliseconds = int


def confirmation(settings: RedisSettings) -> Milliseconds:
    """How long replicas have to confirm a durable write: a third of a call's time. 0: there are no
    replicas, so no failover can bring a session back.
    """
    return 0 if settings.scheme == "embedded" else round(settings.timeout * 1000 / 3)


class Durably:
    """Sends a packet about a key, and asks in the same packet, so on the same server, whether a
    replica has confirmed it. ``done``: whether one has.

    While a slot of a cluster moves, its old node has only the keys that it had before, so it cannot
    be asked; then nothing is confirmed.
    """

    REPLIES = 2
    """Of the question, after those of the packet."""

    def __init__(self, say: Say, key: bytes, prefix: bytes, wait: Milliseconds) -> None:
        self._say = say
        self._packet = pack_confirmation(key, prefix, wait)
        self.done = False

    def __call__(self, packet: bytes, replies: int, repeatable: bool) -> Steps[list[Any]]:
        *answers, written, replicas = yield from self._say(
            packet + self._packet, replies + self.REPLIES, repeatable
        )
        failed = any(isinstance(answer, Exception) for answer in answers)
        if not failed and not isinstance(written, AskError):
            self.done = no_errors((written, replicas))[1] > 0
        return answers


class OneServer:
    """All keys are on one server. ``wait``: how long replicas have to confirm a durable write; 0:
    there are no replicas.
    """

    def __init__(self, prefix: bytes, wait: Milliseconds = 500) -> None:
        self._prefix = prefix
        self.wait = wait

    def first(self, operation: Operation) -> First | None:
        match operation:
            case Read():
                return None, *pack_read(operation, self._prefix)
            case Write() if not operation.durable:
                return None, pack_write(operation, self._prefix), 1
        return None

    def execute(self, operation: Operation, first: First | None = None) -> Steps[Reply]:
        match operation:
            case Read():
                packet, count = pack_read(operation, self._prefix)
                return unpack_read(operation, (yield from self._say(packet, count, True)))
            case Write(durable=True) | End(durable=True) | Revoke(durable=True) if self.wait:
                return (yield from self._durably(operation))
            case Write():
                return (yield from write(operation, self._prefix, self._say))
            case End():
                ended = yield from end(operation.writes(), self._prefix, self._say)
                return Reply(State.LIVE, ended)
            case _:
                return (yield from many(operation, self._prefix, self._say))

    def _durably(self, operation: Write | End | Revoke) -> Steps[Reply]:
        # On one server this confirms all earlier writes too.
        say = Durably(self._say, self._prefix, self._prefix, self.wait)
        match operation:
            case Write():
                reply = yield from write(operation, self._prefix, say)
            case End():
                reply = Reply(State.LIVE, (yield from end(operation.writes(), self._prefix, say)))
            case _:
                reply = yield from many(operation, self._prefix, say)
        return replace(reply, confirmed=say.done)

    def _say(self, packet: bytes, replies: int, repeatable: bool) -> Steps[list[Any]]:
        try:
            answers = yield Ask(None, packet, replies)
        except NotConnected:
            raise
        except redis.ConnectionError:
            # The server closed an idle connection, or restarted. Packets that may be sent twice are
            # repeated.
            if not repeatable:
                raise
            answers = yield Ask(None, packet, replies)
        for answer in answers:
            if isinstance(answer, MovedError):
                raise _cluster(answer)
        if any(isinstance(answer, ReadOnlyError) for answer in answers):
            # The server has become a replica, and did nothing: another one may be the primary.
            answers = yield Ask(None, packet, replies, anew=True)
        return answers


def _cluster(error: MovedError) -> redis.ResponseError:
    cure = f"begin {PREFIX}redis.url with redis+cluster://"
    return redis.ResponseError(f"{error}: this server is a node of a cluster; {cure}")
