"""Turns calls into verbs: keys and values on one side, names and bytes on the other.

``request.altsession`` carries out one call at once, a batch several together. Both use this module,
which defines what a call asks and what its answer means.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from msgspec import Struct

from ..errors import CorruptValue, InvalidKey, ValueTooLarge
from .fields import Raw
from .frame import UNREADABLE, framed, split, version_of
from .keys import KNOWN, Key, SessionKey, Values, checked_name, milliseconds
from .verbs import (
    SAFE_INTEGER,
    CompareAndSet,
    Everything,
    Get,
    Increment,
    Pop,
    Remove,
    Set,
    SetDefault,
    Verb,
    pairs,
)

if TYPE_CHECKING:
    from ..interfaces import Codec

T = TypeVar("T")


def field_name(key: object) -> str:
    """The field's name for a key; InvalidKey before anything is sent."""
    if key.__class__ is str and key in KNOWN:
        return key
    return key.name if isinstance(key, SessionKey) else checked_name(key)


class Unset:
    """Stands for a default that was not given."""

    def __repr__(self) -> str:
        return "…"


UNSET = Unset()


class Command(Struct, Generic[T], frozen=True, eq=False):
    """Verbs, how to interpret their results, and the error if the server refuses one."""

    verbs: tuple[Verb, ...]
    result: Callable[[Sequence[Any]], T]
    refused: str = ""


def nothing(results: Sequence[Any]) -> None:
    pass


class Commands:
    """The calls of one application: stateless, shared by all of its sessions."""

    def __init__(self, codec: "Codec", max_value_bytes: int) -> None:
        self.codec = codec
        self.limit = max_value_bytes

    # -- values

    def encode(self, name: str, value: Any) -> bytes:
        """The value of a plain key, without a frame."""
        raw = self.codec.encode(name, value)
        if len(raw) > self.limit:
            raise self._too_large(name, raw)
        return raw

    def check_size(self, name: str, raw: bytes) -> None:
        """ValueTooLarge for what is to be stored, its frame not counted."""
        if len(raw) > self.limit:
            value = split(raw)[1]
            if len(value) > self.limit:
                raise self._too_large(name, value)

    def _too_large(self, name: str, raw: bytes) -> ValueTooLarge:
        return ValueTooLarge(
            f"{name!r}: {len(raw)} bytes, and session.max_value_bytes is {self.limit}"
        )

    def stored(self, key: Key, value: Any) -> tuple[str, bytes]:
        """Name and bytes, as they are stored."""
        name, raw = self.framed(key, value)
        if len(raw) > self.limit:
            self.check_size(name, raw)
        return name, raw

    def framed(self, key: Key, value: Any) -> tuple[str, bytes]:
        """The same of any length, for comparison with what is stored."""
        if key.__class__ is not str and isinstance(key, SessionKey):
            return key.name, framed(self.codec.encode(key.name, key.plain(value)), key.version)
        name = field_name(key)
        raw = self.codec.encode(name, value)
        return name, framed(raw) if raw[:1] == b"@" else raw

    def decode(self, key: Key, raw: bytes) -> Any:
        """A new object each time; CorruptValue concerns only this key."""
        if raw == UNREADABLE:
            raise CorruptValue(
                f"the value stored under {str(key)!r} was not sealed for this session and key, or"
                " under a secret that is not among session.codec_secret"
            )
        value = split(raw)[1] if raw[:1] == b"@" else raw
        if key.__class__ is not str and isinstance(key, SessionKey):
            return key.typed(self.codec.decode(key.name, value), version_of(raw))
        return self.codec.decode(key, value)

    def value(self, key: Key, raw: Raw, default: Any = UNSET) -> Any:
        """The stored value, or the call's default, or the key's."""
        if raw is not None:
            return self.decode(key, raw)
        if default is not UNSET:
            return default
        return key.default() if isinstance(key, SessionKey) and key.default is not None else None

    def same(self, key: Key, one: Raw, other: Raw) -> bool:
        """Whether ``get`` returns the same value for both, although one may be in other JSON, of
        another version, or missing.
        """
        return bool(self.value(key, one) == self.value(key, other))

    # -- reads

    def get(self, key: Key, default: Any) -> Command[Any]:
        return Command(
            (Get(field_name(key)),), lambda results: self.value(key, results[0], default)
        )

    def mget(self, keys: Iterable[Key], default: Any) -> Command[dict[Key, Any]]:
        asked = several(keys)
        verbs = tuple([Get(field_name(key)) for key in asked])
        return Command(
            verbs,
            lambda results: {
                key: self.value(key, raw, default) for key, raw in zip(asked, results, strict=True)
            },
        )

    def all(self) -> Command[dict[str, Any]]:
        return Command((Everything(),), lambda results: self.values(pairs(results[0])))

    def keys(self) -> Command[list[str]]:
        return Command((Everything(),), lambda results: sorted(pairs(results[0])))

    def exists(self, key: Key) -> Command[bool]:
        return Command((Get(field_name(key)),), lambda results: results[0] is not None)

    def values(self, present: Mapping[str, Raw]) -> dict[str, Any]:
        return {name: self.decode(name, raw) for name, raw in present.items() if raw is not None}

    # -- writes

    def set(self, key: Key, value: Any, ttl: float | None) -> Command[None]:
        name, raw = self.stored(key, value)
        return Command((Set(name, raw, _ttl(key, ttl)),), nothing)

    def mset(self, values: Values) -> Command[None]:
        if not isinstance(values, Mapping):
            raise TypeError(
                f"mset: wanted a mapping of keys to values, not {type(values).__name__}"
            )
        verbs = [Set(*self.stored(key, value), _ttl(key)) for key, value in values.items()]
        return Command(tuple(verbs), nothing)

    def remove(self, keys: Key | Iterable[Key]) -> Command[int]:
        asked = [keys] if isinstance(keys, str | bytes | SessionKey) else keys
        names = dict.fromkeys([field_name(key) for key in asked])
        return Command(tuple([Remove(name) for name in names]), sum)

    def pop(self, key: Key, default: Any) -> Command[Any]:
        return Command(
            (Pop(field_name(key)),), lambda results: self.value(key, results[0], default)
        )

    def setdefault(self, key: Key, value: Any) -> Command[Any]:
        name, raw = self.stored(key, value)
        verb = SetDefault(name, raw, _ttl(key))
        return Command((verb,), lambda results: self.value(key, results[0], value))

    def increment(self, key: Key, by: int) -> Command[int]:
        name = field_name(key)
        if isinstance(by, bool) or not isinstance(by, int):
            raise TypeError(f"increment({name!r}): by must be a whole number, not {by!r}")
        if abs(by) > SAFE_INTEGER:
            raise TypeError(f"increment({name!r}): by must be within ±(2**53 - 1)")
        zero = framed(b"0")
        if isinstance(key, SessionKey):
            key.check_increment()
            zero = framed(b"0", key.version)
        return Command(
            (Increment(name, by, zero, _ttl(key)),),
            lambda results: int(split(results[0])[1]),
            f"increment({name!r}): the stored value is no whole number, or the sum is too large",
        )

    def comparison(self, key: Key, expected: Raw, value: Any) -> CompareAndSet:
        name, raw = self.framed(key, value)
        if len(raw) > self.limit and (expected is None or not self.same(key, expected, raw)):
            self.check_size(name, raw)
        return CompareAndSet(name, expected, raw, _ttl(key))

    def compare_and_set(self, key: Key, expected: Any, value: Any) -> Command[bool]:
        raw = None if expected is None else self.framed(key, expected)[1]
        return Command((self.comparison(key, raw, value),), lambda results: bool(results[0][0]))


def _ttl(key: Key, ttl: float | None = None) -> int:
    if ttl is not None:
        return milliseconds(field_name(key), ttl)
    return key.ttl if key.__class__ is not str and isinstance(key, SessionKey) else 0


def several(keys: Iterable[Key]) -> tuple[Key, ...]:
    if isinstance(keys, str | bytes | SessionKey):
        raise InvalidKey(f"keys must be a list of keys, not one key: {keys!r}")
    return tuple(keys)
