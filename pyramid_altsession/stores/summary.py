"""A summary of an operation, for metrics and traces, without any keys, values or ids."""

from typing import NamedTuple

from ..protocol.fields import State, is_key
from ..protocol.lifecycle import Invalidate, LifeStep, Login, Renew, Rotate
from ..protocol.messages import Describe, End, Inspect, Operation, Prune, Read, Reply, Write
from .observed import Observation

LIVES: dict[type[LifeStep], str] = {
    Login: "login",
    Renew: "renew",
    Rotate: "renew",
    Invalidate: "invalidate",
}
OK, UNCONFIRMED, UNUSED = "ok", "unconfirmed", "unused"


class Summary(NamedTuple):
    """``operation``: ``read``, ``write``, ``create``, ``login``, ``renew`` or ``invalidate`` of a
    session; of many: ``listing``, ``prune``, ``revoke``, ``end``, ``describe``, ``inspect`` or
    ``scan``.

    ``outcome``: ``ok``; the name of the error, as ``StoreUnavailable``; the state of a session that
    was not served, such as ``dead`` or ``rejected``; ``unconfirmed`` if no replica confirmed; or
    ``unused`` for a prefetch whose answer was not taken, or an awaited call that was cancelled.
    ``keys``: how many keys, or how many sessions where it concerns many.
    """

    operation: str
    outcome: str
    keys: int

    @classmethod
    def of(cls, seen: Observation) -> "Summary":
        operation = seen.operation
        return cls(kind_of(operation), outcome_of(seen), count(operation, seen.reply))


def kind_of(operation: Operation) -> str:
    if not isinstance(operation, Write):
        return type(operation).__name__.lower()
    life = LIVES.get(type(operation.life)) if operation.life else None
    return life or ("create" if operation.create else "write")


def outcome_of(seen: Observation) -> str:
    if seen.reply is None:
        return UNUSED if seen.error is None else type(seen.error).__name__
    if seen.reply.state is State.LIVE:
        return OK if seen.reply.confirmed else UNCONFIRMED
    return seen.reply.state.name.lower()


def count(operation: Operation, reply: Reply | None) -> int:
    match operation:
        case Read(fields=None):
            found = reply.values if reply and reply.state is State.LIVE else ()
        case Read():
            found = operation.fields or ()
        case Write():
            found = {name for verb in operation.verbs for name in verb.names or ()}
        case End() | Describe() | Inspect():
            return len(operation.ids)
        case Prune():
            return len(operation.entries)
        case _:
            return 0
    return sum(map(is_key, found))
