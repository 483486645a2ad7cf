"""Sessions on one server, in steps."""

from functools import partial
from typing import Any

import redis
from msgspec.structs import replace
from redis.exceptions import MovedError, ReadOnlyError

from ...config.converters import PREFIX
from ...protocol.fields import State
from ...protocol.messages import End, Operation, Read, Reply, Revoke, Write
from .exchanges import Durably, Exchange, First, Milliseconds, Steps, end, many, write
from .failures import NotConnected
from .wire import first_packet, pack_read, unpack_read


class OneServer:
    """All keys are on one server. ``wait``: how long replicas have to confirm a durable write; 0:
    there are no replicas.
    """

    def __init__(self, prefix: bytes, wait: Milliseconds = 500) -> None:
        self._prefix = prefix
        self.wait = wait
        self.first = partial(first_packet, prefix=prefix)

    def execute(self, operation: Operation, first: First | None = None) -> Steps[Reply]:
        match operation:
            case Read():
                packet, count = pack_read(operation, self._prefix)
                return unpack_read(operation, (yield from self._send(packet, count, True)))
            case Write(durable=True) | End(durable=True) | Revoke(durable=True) if self.wait:
                return (yield from self._durably(operation))
            case Write():
                return (yield from write(operation, self._prefix, self._send))
            case End():
                ended = yield from end(operation.writes(), self._prefix, self._send)
                return Reply(State.LIVE, ended)
            case _:
                return (yield from many(operation, self._prefix, self._send))

    def _durably(self, operation: Write | End | Revoke) -> Steps[Reply]:
        # On one server this confirms all earlier writes too.
        send = Durably(self._send, self._prefix, self._prefix, self.wait)
        match operation:
            case Write():
                reply = yield from write(operation, self._prefix, send)
            case End():
                reply = Reply(State.LIVE, (yield from end(operation.writes(), self._prefix, send)))
            case _:
                reply = yield from many(operation, self._prefix, send)
        return replace(reply, confirmed=send.done)

    def _send(self, packet: bytes, replies: int, repeatable: bool) -> Steps[list[Any]]:
        try:
            answers = yield Exchange(None, packet, replies)
        except NotConnected:
            raise
        except redis.ConnectionError:
            # The server closed an idle connection, or restarted. Packets that may be sent twice are
            # repeated.
            if not repeatable:
                raise
            answers = yield Exchange(None, packet, replies)
        for answer in answers:
            if isinstance(answer, MovedError):
                raise _cluster(answer)
        if any(_left_behind(answer) for answer in answers):
            # It did nothing: another one may be the primary.
            answers = yield Exchange(None, packet, replies, anew=True)
        return answers


def _left_behind(answer: object) -> bool:
    """Whether the server has become a replica; or has lost its replicas, perhaps because they
    follow another primary since it was cut off or paused.
    """
    if isinstance(answer, redis.ResponseError):
        return isinstance(answer, ReadOnlyError) or str(answer).startswith("NOREPLICAS")
    return False


def _cluster(error: MovedError) -> redis.ResponseError:
    cure = f"begin {PREFIX}redis.url with redis+cluster://"
    return redis.ResponseError(f"{error}: this server is a node of a cluster; {cure}")
