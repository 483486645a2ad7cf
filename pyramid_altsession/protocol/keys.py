"""Keys: a ``str``, or a :class:`SessionKey` where a key has a type."""

from collections.abc import Callable, Mapping
from datetime import datetime, time, timedelta
from typing import Any, Generic, TypeVar, overload

import msgspec

from ..codecs.plain import plain_value
from ..errors import CorruptValue, InvalidKey
from .verbs import SAFE_INTEGER

MAX_KEY_BYTES = 512
LONGEST = 400 * 86400.0
"""Seconds: as long as browsers keep a cookie."""

_TIMES = (datetime, time)
_MINUTE = timedelta(minutes=1)

T = TypeVar("T")
D = TypeVar("D")

Migrate = Callable[[Any, int], Any]


class SessionKey(Generic[T, D]):
    """A key with a type: ``CART = SessionKey("cart", Cart, default=Cart)``.

    You can use it wherever a call takes a key; ``session.get(CART)`` is a ``Cart``. The type is
    anything that msgspec knows: ``msgspec.Struct``, dataclasses, ``TypedDict``, ``datetime``,
    ``Decimal``, ``UUID``, enums, sets, tuples, and containers of them. They are stored as plain
    JSON: ``session.get("cart")`` shows the same data. Storing a value that does not fit the type
    raises TypeError. A ``datetime`` or ``time`` keeps its offset from UTC, which has to be whole
    minutes, and loses its zone's name and its ``fold``.

    ``default`` makes the value if none is stored; without it the value is None. ``ttl``: seconds
    that a stored value lasts; calls that change a value in place keep its end.

    ``version`` is noted with each value; one stored under a plain key is of version 1. A stored
    value of another version, or one that does not fit, goes through ``migrate(value, version)``,
    which gets the plain JSON value and returns what this version stores; only the next ``set``
    writes that back. Without ``migrate``, reading it raises :exc:`CorruptValue`. Other keys still
    work, and the stored value stays. ``increment`` adds to the number that is stored, whatever its
    version.
    """

    __slots__ = ("default", "migrate", "name", "ttl", "type", "version")

    @overload
    def __init__(
        self: "SessionKey[T, T]",
        name: str,
        type: type[T],
        *,
        default: Callable[[], T],
        ttl: float | None = None,
        version: int = 1,
        migrate: Migrate | None = None,
    ) -> None: ...

    @overload
    def __init__(
        self: "SessionKey[T, None]",
        name: str,
        type: type[T],
        *,
        ttl: float | None = None,
        version: int = 1,
        migrate: Migrate | None = None,
    ) -> None: ...

    def __init__(
        self,
        name: str,
        type: type[T],
        *,
        default: Callable[[], Any] | None = None,
        ttl: float | None = None,
        version: int = 1,
        migrate: Migrate | None = None,
    ) -> None:
        if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version < 10**9:
            raise ValueError(f"{name!r}: version must be a whole number from 1, not {version!r}")
        for setting, given in (("default", default), ("migrate", migrate)):
            if given is not None and not callable(given):
                raise TypeError(f"{name!r}: {setting} must be a function or class, not {given!r}")
        try:
            msgspec.json.schema(type)  # a Decoder would let unknown classes pass
        except (TypeError, NameError) as error:
            fault = str(error).splitlines()[-1]
            raise TypeError(f"{name!r}: {type!r} is no type for a session: {fault}") from None
        self.name = checked_name(name)
        self.type = type
        self.default = default
        self.ttl = 0 if ttl is None else milliseconds(name, ttl)
        self.version = version
        self.migrate = migrate

    def __repr__(self) -> str:
        return f"SessionKey({self.name!r}, {self._wanted})"

    def __str__(self) -> str:
        return self.name

    def plain(self, value: T) -> Any:
        """The value as JSON's own types; TypeError when it does not fit."""
        try:
            plain = _builtins(value)
            self._convert(plain)
        except _Inexact as error:
            raise TypeError(f"{self.name!r}: {error}") from None
        except (TypeError, msgspec.ValidationError, RecursionError) as error:
            raise TypeError(f"{self.name!r}: the value is no {self._wanted}: {error}") from None
        return plain

    def typed(self, plain: Any, version: int) -> T:
        """The value for what is stored; CorruptValue when it does not fit."""
        if version == self.version:
            try:
                return self._convert(plain)
            except msgspec.ValidationError:
                fault = f"is no {self._wanted}"
        else:
            fault = f"is of version {version}, and {self.version} is wanted"
        message = f"the value stored under {self.name!r} {fault}"
        if self.migrate is None:
            raise CorruptValue(message) from None
        try:
            return self._convert(_builtins(self.migrate(plain, version)))
        except Exception as error:  # any error of the application's function
            raise CorruptValue(f"{message}; migrate failed") from error

    def check_increment(self) -> None:
        """TypeError unless the type takes every whole number: the server, which adds, does not know
        the type and cannot check the sum.
        """
        try:
            for number in (-SAFE_INTEGER, -1, 0, 1, SAFE_INTEGER):
                self._convert(number)
        except msgspec.ValidationError:
            raise TypeError(
                f"increment({self.name!r}): the server does not check whether the sum is"
                f" {self._wanted}; use modify(), which does"
            ) from None

    def _convert(self, plain: Any) -> T:
        return msgspec.convert(plain, self.type, str_keys=True)

    @property
    def _wanted(self) -> str:
        return self.type.__name__ if isinstance(self.type, type) else str(self.type)


class _Inexact(TypeError):
    """A value that would be stored as another one."""


def _builtins(value: object) -> Any:
    plain = msgspec.to_builtins(value, str_keys=True, enc_hook=plain_value)
    # msgspec writes offsets in minutes, and a time of day without a zone that needs a date.
    precise = msgspec.to_builtins(value, builtin_types=_TIMES, enc_hook=plain_value)
    if precise != plain:  # it holds times, or a dict whose keys are no str
        _check_exact(precise)
    return plain


def _check_exact(value: object) -> None:
    parts = [value]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            if len(msgspec.to_builtins(dict.fromkeys(part), str_keys=True)) < len(part):
                raise _Inexact("two keys of a dict would be stored as the same text")
            parts += (*part.keys(), *part.values())
        elif isinstance(part, list | tuple):
            parts += part
        elif isinstance(part, _TIMES) and part.tzinfo is not None:
            offset = part.utcoffset()
            if offset is None or offset % _MINUTE:
                raise _Inexact(
                    f"{part!r}: the offset from UTC would not be stored exactly; convert it, for"
                    " example to UTC"
                )


Key = str | SessionKey[Any, Any]
Values = Mapping[str, Any] | Mapping[SessionKey[Any, Any], Any] | Mapping[Key, Any]


KNOWN: set[str] = set()
"""Keys that were checked already."""
_MOST_KNOWN = 1024
"""How many of them are remembered: with 512 bytes each they take half a megabyte."""


def checked_name(key: object) -> str:
    """The name of the key's field; InvalidKey if it cannot have one."""
    if not isinstance(key, str):
        raise InvalidKey(f"a key must be a str or a SessionKey, not {key!r}")
    key = str.__str__(key)  # the text itself, even if its class has its own __str__
    if not key or key[0] == "@":
        raise InvalidKey(f"a key must not be empty or begin with '@': {key!r}")
    try:
        size = len(key) if key.isascii() else len(key.encode())
    except UnicodeEncodeError:
        raise InvalidKey(f"a key must be encodable as UTF-8: {key!r}") from None
    if size > MAX_KEY_BYTES:
        raise InvalidKey(
            f"a key must have at most {MAX_KEY_BYTES} bytes, not {size}: {key[:40]!r}…"
        )
    if len(KNOWN) < _MOST_KNOWN:
        KNOWN.add(key)
    return key


def encodable(call: str, value: object, name: str = "id") -> bytes:
    """A user id or a session id as the server gets it. Messages call it by this name."""
    if not isinstance(value, str):
        raise TypeError(f"{call}: the {name} must be a str, not {value!r}")
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise InvalidKey(f"{call}: the {name} must be encodable as UTF-8: {value!r}") from None


def milliseconds(name: str, ttl: float) -> int:
    """A value's time to live, given in seconds."""
    if isinstance(ttl, bool) or not isinstance(ttl, int | float):
        raise TypeError(f"{name!r}: ttl must be a number of seconds, not {ttl!r}")
    if not 0.001 <= ttl <= LONGEST:
        raise ValueError(f"{name!r}: ttl must be 0.001 seconds to 400 days, not {ttl!r}")
    return round(ttl * 1000)
