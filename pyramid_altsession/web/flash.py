"""Flash queues of ``request.session``."""

import sys
from dataclasses import dataclass, field
from typing import Any

from ..errors import CorruptValue
from ..protocol.fields import Raw
from ..protocol.verbs import Append, Refused


@dataclass(frozen=True, slots=True)
class Flash(Append):
    """A message on its way to its queue, and the object that was handed in."""

    message: Any = field(repr=False, compare=False)


def messages_of(flashes: list[Flash]) -> list[Any]:
    return [flash.message for flash in flashes]


def appended(name: str, raw: Raw, flashes: list[Flash]) -> Raw:
    """The bytes of a queue with the messages; as it is, where it is none."""
    items = b",".join([flash.item for flash in flashes])
    try:
        return Append(name, items, sys.maxsize).apply(raw, 0)[0]
    except Refused:
        return raw


def checked(name: str, value: Any) -> list[Any]:
    """The messages of a queue; CorruptValue where it is none."""
    if not isinstance(value, list | tuple):
        raise CorruptValue(f"the flash queue {name!r} holds no list: set or remove it")
    return list(value)
