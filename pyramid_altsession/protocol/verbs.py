"""Verbs: the parts of a write. The script (write.lua) and the memory store carry them out."""

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar

from msgspec import Struct

from .fields import CREATED, FieldCache, Raw, is_key
from .frame import end_of, ending, split

if TYPE_CHECKING:
    from .lifecycle import Life

SAFE_INTEGER = 2**53 - 1
"""The largest whole number that every JSON reader, and the server's script, holds exactly."""


class Refused(Exception):
    """A verb cannot be carried out on what its field holds; ``args[0]`` is the verb's position."""


class Verb(Struct, frozen=True):
    """One thing to do to the data of a live session.

    ``creates``: whether a visitor without a session gets one for this. ``repeatable``: whether
    doing it twice is the same as doing it once, so that it may be sent again after a lost reply.
    """

    creates: ClassVar[bool] = True
    repeatable: ClassVar[bool] = False

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...] | None:
        """The fields that it is about; None: every key."""

    @abstractmethod
    def wire(self) -> tuple[bytes, ...]:
        """Name and arguments for the script; each name has a fixed number of arguments."""

    def absent(self) -> Any:
        """Its result if there is no session and none is made for it."""
        return None

    @abstractmethod
    def work(self, fields: Mapping[str, Raw], now: int) -> tuple[dict[str, Raw], Any]:
        """The verb's meaning, which the script has to match: returns the fields that change, and
        the result, or raises Refused.

        ``fields``: the content of the fields that it is about, perhaps with others. A field is None
        or missing if it has no value, or the value's end has come.
        """

    @abstractmethod
    def note(self, cache: FieldCache, result: Any) -> None:
        """Update what the request remembers. If the result does not show a field's new content,
        forget the field, because another request may have written it since it was read.
        """


_CREATES = attrgetter("creates")


def creates(verbs: Collection[Verb], life: "Life | None") -> bool:
    """Whether a visitor without a session gets one for these."""
    return (life is not None and life.creates) or any(map(_CREATES, verbs))


class DataVerb(Verb, frozen=True):
    """A verb about one field. ``ttl``: milliseconds that a value stored by it lasts; 0: as long
    as the session. Verbs that change a value in place keep its end."""

    name: str

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    @abstractmethod
    def apply(self, held: Raw, now: int) -> tuple[Raw, Any]:
        """The same as ``work`` for its only field: what it holds afterwards, and the result."""

    def work(self, fields: Mapping[str, Raw], now: int) -> tuple[dict[str, Raw], Any]:
        value, result = self.apply(fields.get(self.name), now)
        return {self.name: value}, result

    def note(self, cache: FieldCache, result: Any) -> None:
        cache.fields[self.name] = result


def lasting(raw: bytes, ttl: int, now: int) -> bytes:
    return ending(raw, now + ttl) if ttl else raw


class Get(DataVerb, frozen=True):
    """Result: what the field holds at this place among the verbs. Not repeatable, because a second
    time it would see what the other verbs did the first time.
    """

    creates: ClassVar[bool] = False

    def wire(self) -> tuple[bytes, ...]:
        return b"get", self.name.encode()

    def apply(self, held: Raw, now: int) -> tuple[Raw, Any]:
        return held, held


class Set(DataVerb, frozen=True):
    """Result: the value's end in ms, or None where it has none."""

    value: bytes
    ttl: int = 0
    repeatable: ClassVar[bool] = True

    def wire(self) -> tuple[bytes, ...]:
        return b"set", self.name.encode(), self.value, b"%d" % self.ttl

    def apply(self, held: Raw, now: int) -> tuple[Raw, Any]:
        return lasting(self.value, self.ttl, now), b"%d" % (now + self.ttl) if self.ttl else None

    def note(self, cache: FieldCache, result: Any) -> None:
        cache.fields[self.name] = self.value if result is None else ending(self.value, int(result))


class Remove(DataVerb, frozen=True):
    """Result: 1 when there was such a field, else 0."""

    creates: ClassVar[bool] = False

    def wire(self) -> tuple[bytes, ...]:
        return b"remove", self.name.encode()

    def absent(self) -> int:
        return 0

    def apply(self, held: Raw, now: int) -> tuple[Raw, Any]:
        return None, int(held is not None)

    def note(self, cache: FieldCache, result: Any) -> None:
        cache.fields[self.name] = None


class Pop(DataVerb, frozen=True):
    """Result: the bytes taken out, or None."""

    creates: ClassVar[bool] = False

    def wire(self) -> tuple[bytes, ...]:
        return b"pop", self.name.encode()

    def apply(self, held: Raw, now: int) -> tuple[Raw, Any]:
        return None, held

    def note(self, cache: FieldCache, result: Any) -> None:
        cache.fields[self.name] = None


class SetDefault(DataVerb, frozen=True):
    """Result: the bytes that the field holds afterwards."""

    value: bytes
    ttl: int = 0

    def wire(self) -> tuple[bytes, ...]:
        return b"setdefault", self.name.encode(), self.value, b"%d" % self.ttl

    def apply(self, held: Raw, now: int) -> tuple[Raw, Any]:
        value = lasting(self.value, self.ttl, now) if held is None else held
        return value, value


class Increment(DataVerb, frozen=True):
    """Result: the new number as bytes, in its frame. Refused when the field holds anything else.

    ``start``: zero, in the frame that a new number gets.
    """

    by: int
    start: bytes = b"0"
    ttl: int = 0

    def wire(self) -> tuple[bytes, ...]:
        number = b"%d" % self.by
        return b"increment", self.name.encode(), number, self.start, b"%d" % self.ttl

    def apply(self, held: Raw, now: int) -> tuple[Raw, Any]:
        frame, text = split(lasting(self.start, self.ttl, now) if held is None else held)
        digits = text.removeprefix(b"-")
        if len(text) > 17 or not digits.isdigit():
            raise Refused
        number = int(text) + self.by
        if abs(int(text)) > SAFE_INTEGER or abs(number) > SAFE_INTEGER:
            raise Refused
        value = b"%b%d" % (frame, number)
        return value, value


class CompareAndSet(DataVerb, frozen=True):
    """Result: [1, the new bytes], or [0, what the field holds instead of ``expected``].

    Whatever their ends, equal values are equal.
    """

    expected: Raw
    value: bytes
    ttl: int = 0

    @property
    def creates(self) -> bool:  # type: ignore[override]
        return self.expected is None

    def wire(self) -> tuple[bytes, ...]:
        given = b"0" if self.expected is None else b"1"
        return (
            *(b"compare_and_set", self.name.encode(), given, self.expected or b""),
            *(self.value, b"%d" % self.ttl),
        )

    def absent(self) -> Any:
        return [0, None]

    def apply(self, held: Raw, now: int) -> tuple[Raw, Any]:
        if held is None or self.expected is None:
            if held is not self.expected:
                return held, [0, held]
            value = lasting(self.value, self.ttl, now)
        else:
            if ending(held, None) != ending(self.expected, None):
                return held, [0, held]
            value = ending(self.value, end_of(held))
        return value, [1, value]

    def note(self, cache: FieldCache, result: Any) -> None:
        cache.fields[self.name] = result[1]


class Append(DataVerb, frozen=True):
    """Append one item to a JSON list (a new list if there is none). The result is 1, not the list,
    which is not needed. Refused if the field holds anything else, or if the list would have more
    than ``limit`` bytes.
    """

    item: bytes
    limit: int

    def wire(self) -> tuple[bytes, ...]:
        return b"append", self.name.encode(), self.item, b"%d" % self.limit

    def apply(self, held: Raw, now: int) -> tuple[Raw, Any]:
        frame, text = split(b"[]" if held is None else held)
        if text[:1] != b"[" or text[-1:] != b"]":
            raise Refused
        items = self.item if text == b"[]" else text[1:-1] + b"," + self.item
        if len(items) + 2 > self.limit:
            raise Refused
        return b"%b[%b]" % (frame, items), 1

    def note(self, cache: FieldCache, result: Any) -> None:
        cache.forget(self.name)  # other requests may have appended


class Expect(DataVerb, frozen=True):
    """Result 1. Refused unless the field holds exactly this: the verbs after it rely on that."""

    expected: Raw
    creates: ClassVar[bool] = False

    def wire(self) -> tuple[bytes, ...]:
        given = b"0" if self.expected is None else b"1"
        return b"expect", self.name.encode(), given, self.expected or b""

    def apply(self, held: Raw, now: int) -> tuple[Raw, Any]:
        if held != self.expected:
            raise Refused
        return held, 1

    def note(self, cache: FieldCache, result: Any) -> None:
        cache.fields[self.name] = self.expected


class Everything(Verb, frozen=True):
    """Result: name, bytes, name, bytes … of everything that the application stored. Not repeatable,
    like Get.
    """

    creates: ClassVar[bool] = False

    @property
    def names(self) -> None:
        return None

    def wire(self) -> tuple[bytes, ...]:
        return (b"everything",)

    def absent(self) -> Any:
        return []

    def work(self, fields: Mapping[str, Raw], now: int) -> tuple[dict[str, Raw], Any]:
        return {}, flat(fields)

    def note(self, cache: FieldCache, result: Any) -> None:
        ours = {name: raw for name, raw in cache.fields.items() if name[:1] == "@"}
        cache.fields = ours | pairs(result)
        cache.complete = CREATED in ours


def flat(fields: Mapping[str, Raw]) -> list[bytes]:
    """Names and bytes, one after the other, of the fields that hold a value."""
    held = [(name.encode(), raw) for name, raw in fields.items() if raw is not None]
    return [part for both in held for part in both]


def pairs(parts: Sequence[bytes]) -> dict[str, Raw]:
    """The same as a dict of keys."""
    names = [name.decode(errors="replace") for name in parts[::2]]
    return {n: raw for n, raw in zip(names, parts[1::2], strict=True) if is_key(n)}
