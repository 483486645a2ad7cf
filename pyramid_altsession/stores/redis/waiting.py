"""Carries steps out by waiting for the replies."""

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import redis

from ...protocol.contract import PendingRead
from ...protocol.messages import Operation, Read, Reply
from ...protocol.steps import advance, run
from .exchanges import Address, Exchange, First, Steps
from .failures import NotConnected, Trouble
from .pool import ConnectionPool, PendingReplies

Outcome = list[Any] | redis.RedisError
"""What became of an :class:`Exchange`."""


class Connections(Protocol):
    """Connections to one server."""

    def exchange(self, packet: bytes, replies: int, end: float) -> Any:
        """Send one packet; returns its replies, or an awaitable of them."""

    def close(self) -> None:
        """Close the connections that are not in use; a later call opens new ones."""


Pool = TypeVar("Pool", bound=Connections)


class Node(NamedTuple, Generic[Pool]):
    """One server: its connections, and whether it is in trouble."""

    pool: Pool
    trouble: Trouble


class ServerSteps(Protocol):
    """The steps of each operation."""

    def first(self, operation: Operation) -> First | None:
        """The first packet of a read or a write, if its reply is nearly always the last one. None:
        only the steps know the first packet.
        """

    def execute(self, operation: Operation, first: First | None = None) -> Steps[Reply]:
        """The reply to it. ``first``: what has been said already; the steps begin with it."""


class Call(Generic[Pool]):
    """One call of an application: all its exchanges with servers are over by ``end``."""

    __slots__ = ("_servers", "_wait", "end", "trouble")

    def __init__(
        self,
        servers: Mapping[Address | None, Node[Pool]],
        trouble: Trouble,
        wait: float,
        end: float | None = None,
    ) -> None:
        self._servers = servers
        self._wait = wait
        self.end = time.monotonic() + wait if end is None else end
        self.trouble = trouble
        """The trouble of the server that was asked last about a session."""

    def restart(self) -> None:
        """Begin the call's time again, now."""
        self.end = time.monotonic() + self._wait

    def turn_to(self, exchange: Exchange) -> Pool:
        """The connections to the server that this packet is for."""
        pool, trouble = self._servers[exchange.address]
        if not exchange.lookup:
            self.trouble = trouble
        if exchange.anew:
            pool.close()
        return pool

    def carry_out(self, exchange: Exchange) -> Any:
        """As ``exchange`` of the connections: the replies, or an awaitable of them."""
        return self.turn_to(exchange).exchange(
            exchange.packet, exchange.replies, part(exchange, self.end)
        )


def part(exchange: Exchange, end: float) -> float:
    """The deadline for this packet, in a call that has to be over by ``end``.

    NotConnected for a lookup if no time is left: a server cannot answer in no time, and would count
    as away.
    """
    now = time.monotonic()
    if exchange.lookup and now >= end:
        raise NotConnected("no time is left to ask")
    return end if exchange.share == 1 else now + (end - now) / exchange.share


class SteppedStore(Generic[Pool]):
    """The part that waiting and awaiting stores on servers share: the steps, and the servers that
    they are for.

    The first step of a read or a write, which is nearly always its last one, is taken without a
    generator, which would cost time. If it was not the last one, a generator continues from its
    outcome.
    """

    def __init__(
        self,
        name: str,
        steps: ServerSteps,
        servers: Mapping[Address | None, Node[Pool]],
        trouble: Trouble,
        *,
        wait: float,
    ) -> None:
        self._name = name
        self._steps = steps
        self._trouble = trouble
        self._wait = wait
        self.servers = servers
        """By address; the key is None if there is one server only."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name}>"

    def _call(self, end: float | None = None, trouble: Trouble | None = None) -> Call[Pool]:
        return Call(self.servers, trouble or self._trouble, self._wait, end)

    def _answer(
        self, operation: Operation, call: Call[Pool], first: First | None = None
    ) -> Steps[Reply]:
        """The steps of the operation. At their end it is noted whether the server serves."""
        try:
            reply = yield from self._steps.execute(operation, first)
        except redis.RedisError as error:
            raise call.trouble.failure(operation, error) from error
        if call.trouble.need is not None:
            call.trouble.served(operation)
        return reply

    def _after(self, operation: Operation, call: Call[Pool], first: First) -> Steps[Reply]:
        """The steps that remain after the first one."""
        steps = self._answer(operation, call, first)
        next(steps)
        return steps


class WaitingStore(SteppedStore[ConnectionPool]):
    """The store contract, carried out in steps. Thread-safe and fork-safe; connects when first
    used.
    """

    def execute(self, operation: Operation) -> Reply:
        """One round trip for a read or a write; another one if a connection broke, the script was
        not loaded, or a node redirects.
        """
        first = self._steps.first(operation)
        if first is None:
            call = self._call()
            return run(call.carry_out, self._answer(operation, call))
        address, packet, count, unpack = first
        pool, trouble = self.servers[address]
        end, outcome = time.monotonic() + self._wait, None
        try:
            outcome = pool.exchange(packet, count, end)
            reply = unpack(operation, outcome)
        except redis.RedisError as error:
            call = self._call(end, trouble)
            steps = self._after(operation, call, first)
            return run(call.carry_out, steps, outcome or error)
        if trouble.need is not None:
            trouble.served(operation)
        return reply

    def send(self, operation: Read) -> PendingRead:
        """Send the packet; its reply is read later."""
        call = self._call()
        steps = self._answer(operation, call)
        exchange = next(steps)
        try:
            while exchange.lookup:  # the steps find where to send it
                try:
                    outcome: Outcome = call.carry_out(exchange)
                except redis.RedisError as error:
                    outcome = error
                exchange = advance(steps, outcome)
            sent = call.turn_to(exchange).send(exchange.packet, exchange.replies, call.end)
        except redis.RedisError as error:
            return Answered(run(call.carry_out, steps, error))
        return Sent(steps, call, sent)


class Sent:
    """A read under way on a server."""

    __slots__ = ("_call", "_sent", "_steps")

    def __init__(
        self, steps: Steps[Reply], call: Call[ConnectionPool], sent: PendingReplies
    ) -> None:
        self._steps = steps
        self._call = call
        self._sent = sent

    def result(self, operation: Read) -> Reply:
        call = self._call
        call.restart()
        outcome: Outcome
        try:
            outcome = self._sent.receive(call.end)
        except redis.RedisError as error:
            outcome = error
        return run(call.carry_out, self._steps, outcome)

    def cancel(self) -> None:
        """If the reply has arrived, the connection stays open; otherwise it is closed."""
        if not self._sent.arrived:
            self._sent.close()
            return
        self._call.restart()
        with suppress(redis.RedisError):
            self._sent.receive(self._call.end)


class Answered:
    """A read whose reply is there."""

    __slots__ = ("_reply",)

    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    def result(self, operation: Read) -> Reply:
        return self._reply

    def cancel(self) -> None:
        pass
