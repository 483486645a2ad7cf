"""Operations in a few words, for people: panels, headers and the messages of failed tests.

It holds nothing that gives access to a session: no cookie, no verifier, no CSRF token.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from ..protocol.fields import CREATED, CSRF_TOKEN, LOGIN, USER, State, is_key
from ..protocol.frame import split
from ..protocol.lifecycle import Invalidate, Login, Renew, Rotate, Touch
from ..protocol.messages import (
    Describe,
    End,
    Inspect,
    Listing,
    Operation,
    Prune,
    Read,
    Reply,
    Revoke,
    Scan,
    Write,
)
from ..protocol.verbs import Append, DataVerb, Increment
from .observed import Observation

OWN = {USER: "userid", LOGIN: "login", CREATED: "created"}
"""The package's own fields that calls read, with the names of these calls."""

LIVES: dict[type, str] = {Touch: "touched", Renew: "renewed", Rotate: "renewed", Login: "signed in"}
SHOWN = 200
"""Characters of a value that are shown."""


class Handle(str):
    """A session's handle, shortened for a narrow table."""

    __slots__ = ()


@dataclass
class Step:
    """One operation on the store. ``answer``: the state of the session in the reply, or the name
    of the error; empty where there is neither. ``became``: what became of the session:
    ``"touched"``, ``"renewed"``, ``"signed in"``, ``"ended"`` or ``"gone"``; empty otherwise.
    """

    kind: str
    """``"read"``, ``"write"``, ``"create"``, or ``"users"`` for what concerns several sessions."""
    verbs: tuple[str, ...]
    fields: tuple[str, ...]
    """Keys, and the package's own fields, which begin with ``@``."""
    answer: str = ""
    became: str = ""
    round_trips: int = 0
    sent: int = 0
    received: int = 0
    microseconds: int = 0
    session: str = "altsession"
    """The attribute of the request, if the step was recorded for one."""
    values: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, operation: Operation) -> "Step":
        if isinstance(operation, Read):
            fields = operation.fields
            return cls("read", ("all" if fields is None else "get",), fields or ())
        if not isinstance(operation, Write):
            return cls("users", *of_users(operation))
        parts = [*operation.verbs, operation.life]
        verbs = tuple(part.wire()[0].decode() for part in parts if part is not None)
        if operation.anybody:
            return cls("users", verbs, (short(operation.claim.id),))
        fields = tuple(name for verb in operation.verbs for name in verb.names or ())
        return cls("create" if operation.create else "write", verbs, fields)

    @classmethod
    def seen(cls, seen: Observation, values: bool = False) -> "Step":
        """The same step with its outcome; ``values``: also with the values that were read and
        written.
        """
        step = cls.of(seen.operation)
        if seen.reply is not None:
            step.answer = seen.reply.state.name.lower()
            step.became = became(seen.operation, seen.reply)
            if values:
                step.values = dict(values_in(seen.operation, seen.reply))
        elif seen.error is not None:
            step.answer = type(seen.error).__name__
        step.round_trips, step.sent, step.received = seen.round_trips, seen.sent, seen.received
        step.microseconds = round(seen.seconds * 1_000_000)
        return step

    @property
    def keys(self) -> list[str]:
        """The keys of the application."""
        return [name for name in self.fields if is_key(name)]

    @property
    def own(self) -> list[str]:
        """The other fields that were asked for, by the names of the calls."""
        return [OWN.get(name, name) for name in self.fields if not is_key(name)]

    @property
    def shape(self) -> str:
        """The step in words that are the same whatever sessions it concerns: ids are random."""
        unnamed = tuple("…" if isinstance(name, Handle) else name for name in self.fields)
        return str(replace(self, fields=unnamed))

    def __str__(self) -> str:
        parts = [self.kind, *self.verbs, *map(repr, self.keys), *self.own]
        if self.became:
            parts.append(f"({self.became})")
        return " ".join(parts)


@dataclass
class Trace:
    """The steps of one request, in order. ``values``: whether steps hold stored values. ``of``: the
    id() of the request, if there is one.
    """

    values: bool = False
    of: int = 0
    steps: list[Step] = field(default_factory=list)

    def note(self, seen: Observation, session: str = "altsession") -> None:
        self.steps.append(replace(Step.seen(seen, self.values), session=session))

    @property
    def round_trips(self) -> int:
        return sum(step.round_trips for step in self.steps)

    @property
    def microseconds(self) -> int:
        return sum(step.microseconds for step in self.steps)

    def __str__(self) -> str:
        """A line for each step."""
        return "\n".join([f"  {number}. {step}" for number, step in enumerate(self.steps, 1)])


def of_users(
    operation: Listing | Prune | Revoke | End | Describe | Inspect | Scan,
) -> tuple[tuple[str], tuple[str, ...]]:
    """Verb and keys of an operation on many sessions."""
    match operation:
        case Listing(user):
            return ("list",), (user,)
        case Prune(user):
            return ("prune",), (user,)
        case Revoke(user):
            return ("revoke",), (user,)
        case End(_, ids):
            return ("end",), tuple(short(id) for id in ids)
        case Describe(ids):
            return ("describe",), tuple(short(id) for id in ids)
        case Inspect(ids):
            return ("inspect",), tuple(short(id) for id in ids)
        case _:
            return ("scan",), ()


def short(id: str) -> Handle:
    return Handle(f"{id[:8]}…")


ALIVE = (State.LIVE, State.REFUSED, State.FULL, State.SESSION_LIMIT)
"""States after which the session is still there."""


def became(operation: Operation, reply: Reply) -> str:
    if not isinstance(operation, Read | Write):
        return ""
    if reply.state not in ALIVE:
        return "gone"
    life = operation.life if isinstance(operation, Write) else None
    if reply.state is not State.LIVE or not reply.done:
        return ""
    return "ended" if isinstance(life, Invalidate) else LIVES[type(life)]


def values_in(operation: Operation, reply: Reply) -> Iterator[tuple[str, str]]:
    """Keys and values, as text, that were read and written."""
    if reply.state is State.LIVE and isinstance(operation, Read | Write):
        for name, value in raw_values(operation, reply):
            if isinstance(value, bytes) and is_key(name) and name != CSRF_TOKEN:
                text = split(value)[1].decode(errors="replace")
                yield name, text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def raw_values(operation: Read | Write, reply: Reply) -> Iterator[tuple[str, Any]]:
    if isinstance(operation, Read):
        if operation.fields is None:
            yield from reply.values.items()
        else:
            yield from zip(operation.fields, reply.values, strict=True)
        return
    for verb, result in zip(operation.verbs, reply.values, strict=True):
        match verb:
            case Append():
                yield verb.name, verb.item
            case Increment():
                yield verb.name, result
            case DataVerb():
                yield verb.name, getattr(verb, "value", result)
