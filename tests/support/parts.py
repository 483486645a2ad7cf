"""The verbs of a Write and its step of life, named and answered in one row; one of each verb."""

from typing import Any

from msgspec.structs import replace

from pyramid_altsession.protocol.fields import State, Timing
from pyramid_altsession.protocol.lifecycle import Life, LifeStep
from pyramid_altsession.protocol.messages import Reply, Write
from pyramid_altsession.protocol.token import Claim
from pyramid_altsession.protocol.verbs import (
    Append,
    CompareAndSet,
    DataVerb,
    Everything,
    Expect,
    Get,
    Increment,
    Pop,
    Remove,
    Set,
    SetDefault,
    Verb,
)

Part = Verb | Life

EVERY_VERB: tuple[Verb, ...] = (
    Expect("a", b"1"),
    Get("a"),
    Set("a", b"2"),
    CompareAndSet("a", b"1", b"2"),
    Pop("a"),
    Remove("a"),
    SetDefault("b", b""),
    Increment("n", 1),
    Append("l", b"1", 100),
    Everything(),
)
"""In this order they can be carried out together where ``a`` holds 1."""


def kinds_of_verbs() -> set[type[Verb]]:
    """Every verb that there is."""
    kinds = {*Verb.__subclasses__(), *DataVerb.__subclasses__()} - {DataVerb}
    return {kind for kind in kinds if kind.__module__ == Verb.__module__}


def write_of(claim: Claim, parts: tuple[Part, ...], timing: Timing, **more: Any) -> Write:
    """A Write of verbs and at most one step of life."""
    verbs = tuple([part for part in parts if not isinstance(part, LifeStep)])
    (life,) = [part for part in parts if isinstance(part, LifeStep)] or [None]
    return Write(claim, verbs, timing, life=life, **more)


def in_a_row(parts: tuple[Part, ...], reply: Reply) -> Reply:
    """The reply, with one value for each part."""
    if reply.state is not State.LIVE:
        return reply
    results = iter(reply.values)
    values = [reply.done if isinstance(part, LifeStep) else next(results) for part in parts]
    return replace(reply, values=[*values, *results])
