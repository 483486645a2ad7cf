"""The dialogue with servers, as steps without I/O.

A step yields :class:`Exchange` and is sent the replies to it, error replies among them; or
redis.ConnectionError, redis.TimeoutError or NotConnected is thrown into it. Drivers that wait and
drivers that await share the decisions that steps make: what is repeated, and where.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, TypeVar

from redis.exceptions import AskError, NoScriptError

from ...config.table import RedisSettings
from ...protocol.messages import Operation, Reply, Write
from .wire import (
    no_errors,
    pack_confirmation,
    pack_many,
    pack_write,
    unpack_many,
    unpack_write,
)

T = TypeVar("T")
Address = tuple[str, int]


class Exchange(NamedTuple):
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


First = tuple[Address | None, bytes, int, Callable[[Any, list[Any]], Reply]]
"""The first packet about an operation, the number of its replies, and the function that makes the
operation's Reply of them.
"""
Steps = Generator[Exchange, list[Any], T]
Send = Callable[[bytes, int, bool], Steps[list[Any]]]
"""Packet, number of replies, and whether it may be sent twice."""


def write(operation: Write, prefix: bytes, send: Send) -> Steps[Reply]:
    """Call the script by its hash; if the server does not know it, with its text."""
    replies = yield from send(pack_write(operation, prefix), 1, operation.repeatable)
    if isinstance(replies[0], NoScriptError):
        packet = pack_write(operation, prefix, load=True)
        replies = yield from send(packet, 1, operation.repeatable)
    return unpack_write(operation, replies)


def end(writes: Sequence[Write], prefix: bytes, send: Send) -> Steps[list[bool]]:
    """End sessions; returns which were ended. The packet's first script is sent with its text."""
    packet = b"".join([pack_write(w, prefix, load=w is writes[0]) for w in writes])
    answers = yield from send(packet, len(writes), True)
    if any(isinstance(answer, NoScriptError) for answer in answers):
        answers = yield from send(packet, len(writes), True)
    both = zip(writes, answers, strict=True)
    return [unpack_write(write, [answer]).ended for write, answer in both]


def many(operation: Operation, prefix: bytes, send: Send) -> Steps[Reply]:
    """An operation about many sessions."""
    packet, count = pack_many(operation, prefix)
    replies = yield from send(packet, count, operation.repeatable)
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

    def __init__(self, send: Send, key: bytes, prefix: bytes, wait: Milliseconds) -> None:
        self._send = send
        self._packet = pack_confirmation(key, prefix, wait)
        self.done = False

    def __call__(self, packet: bytes, replies: int, repeatable: bool) -> Steps[list[Any]]:
        *answers, written, replicas = yield from self._send(
            packet + self._packet, replies + self.REPLIES, repeatable
        )
        failed = any(isinstance(answer, Exception) for answer in answers)
        if not failed and not isinstance(written, AskError):
            self.done = no_errors((written, replicas))[1] > 0
        return answers
