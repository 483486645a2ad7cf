"""JSON with tags, for values of more types than JSON has.

Values that JSON can carry are written as plain JSON. Any other value is an object with one name,
its tag: ``{"$date": "2024-02-29"}``. If an object of the application looks like a tagged value, it
is put into ``{"$dict": …}``.
"""

from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import msgspec
from pyramid.i18n import TranslationString

from ..config.table import SessionSettings
from ..errors import CorruptValue
from .plain import MAX_DEPTH, PLAIN, JSONCodec, check_part, too_deep, where_in
from .sealed import EncryptedCodec

_MARK = "$"
_MAYBE_TAGGED = b'"$'
_encoder = msgspec.json.Encoder()

Path = tuple[object, ...]


def rich(settings: SessionSettings) -> "RichCodec | EncryptedCodec":
    """``altsession.session.codec = pyramid_altsession.codecs.rich``: JSON that carries more types.

    Besides JSON's own: bytes, datetime, date, time, timedelta, Decimal, UUID, set, frozenset,
    tuple, Pyramid's ``TranslationString`` and the members of the enumerations that
    ``session.codec_enums`` names. A time keeps its offset from UTC and loses the name of its zone.
    A subclass comes back as the type it extends. Values of JSON's own types are stored as the
    default codec stores them. With ``session.codec_secret`` values are sealed as well, as by
    :func:`encrypted`.
    """
    codec = RichCodec(settings.codec_enums)
    return EncryptedCodec(settings.codec_secret, codec) if settings.codec_secret else codec


class RichCodec(JSONCodec):
    """JSON with tags; see :func:`rich`."""

    def __init__(self, enums: Iterable[type[Enum]] = ()) -> None:
        self._names = {kind: f"{kind.__module__}:{kind.__qualname__}" for kind in enums}
        self._enums = {name: kind for kind, name in self._names.items()}

    def encode(self, key: str, value: Any) -> bytes:
        """Bytes of ``value``; TypeError names the key and the path inside the value."""
        return super().encode(key, self._tagged(value, key, ()))

    def decode(self, key: str, raw: bytes) -> Any:
        """A new object each time; CorruptValue names the key, never the stored bytes."""
        value = super().decode(key, raw)
        if _MAYBE_TAGGED not in raw:
            return value
        try:
            return self._restored(value)
        except (ValueError, TypeError, LookupError, ArithmeticError):
            raise CorruptValue(
                f"the value stored under {key!r} has a tag that this codec does not know, or one"
                " that does not fit what it holds"
            ) from None

    def _tagged(self, value: Any, key: str, path: Path) -> Any:
        if type(value) in PLAIN:
            return value
        if isinstance(value, Enum) and type(value) in self._names:
            return self._member(value, key, path)
        if isinstance(value, TranslationString):
            return {"$translation": self._translation(value, key, path)}
        for kind, tag, write in _SCALARS:
            if isinstance(value, kind):
                return _with_fold(value, {tag: write(value)})
        if isinstance(value, time):
            return _with_fold(value, {"$time": _time(value, key, path)})
        if not isinstance(value, dict | list | tuple | set | frozenset):
            check_part(value, key, path)
            return value
        if len(path) >= MAX_DEPTH:
            raise too_deep(key)
        if isinstance(value, dict):
            return self._object(value, key, path)
        items = [self._tagged(item, key, (*path, index)) for index, item in enumerate(value)]
        if isinstance(value, list):
            return items
        if isinstance(value, tuple):
            return {"$tuple": items}
        # Sorted, so that equal sets become equal bytes.
        tag = "$set" if isinstance(value, set) else "$frozenset"
        return {tag: sorted(items, key=_encoder.encode)}

    def _object(self, value: dict[Any, Any], key: str, path: Path) -> dict[str, Any]:
        check_part(dict.fromkeys(value), key, path)  # are all its keys str?
        found = {name: self._tagged(item, key, (*path, name)) for name, item in value.items()}
        return {"$dict": found} if len(found) == 1 and next(iter(found))[:1] == _MARK else found

    def _member(self, value: Enum, key: str, path: Path) -> dict[str, Any]:
        kind = type(value)
        if value.name not in kind.__members__:
            raise TypeError(
                f"{where_in(key, path)}: {value!r} is not one member of its enumeration"
            )
        return {"$enum": [self._names[kind], value.name]}

    def _translation(self, value: TranslationString, key: str, path: Path) -> list[Any]:
        mapping = value.mapping and self._tagged(dict(value.mapping), key, (*path, "mapping"))
        return [str.__str__(value), value.domain, value.default, mapping or None, value.context]

    def _restored(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._restored(item) for item in value]
        if not isinstance(value, dict):
            return value
        if len(value) != 1:
            return {name: self._restored(item) for name, item in value.items()}
        [(name, held)] = value.items()
        if name[:1] != _MARK:
            return {name: self._restored(held)}
        if name == "$dict":
            return {inner: self._restored(item) for inner, item in {**held}.items()}
        if name == "$fold":
            return _second(self._restored(held))
        if name == "$enum":
            kind, member = held
            return self._enums[kind][member]
        if name == "$translation":
            msgid, domain, default, mapping, context = held
            return TranslationString(msgid, domain, default, self._restored(mapping), context)
        if isinstance(held, list):
            return _COLLECTIONS[name](self._restored(held))
        return _READ[name](held)


def _time(value: time, key: str, path: Path) -> str:
    if value.tzinfo is not None and value.utcoffset() is None:
        raise TypeError(
            f"{where_in(key, path)}: a time whose zone has no fixed offset would lose its zone"
        )
    return value.isoformat()


def _with_fold(value: object, tagged: dict[str, Any]) -> dict[str, Any]:
    """ISO 8601 does not tell the second of two equal times, when clocks are set back."""
    return {"$fold": tagged} if getattr(value, "fold", 0) else tagged


def _second(value: object) -> datetime | time:
    if not isinstance(value, datetime | time):
        raise ValueError
    return value.replace(fold=1)


def _bytes(text: str) -> bytes:
    return b64decode(text, validate=True)


def _timedelta(text: str) -> timedelta:
    days, seconds, microseconds = text.split(" ")
    return timedelta(int(days), int(seconds), int(microseconds))


_SCALARS: tuple[tuple[type, str, Callable[[Any], str]], ...] = (
    (bytes, "$bytes", lambda value: b64encode(value).decode()),
    (datetime, "$datetime", datetime.isoformat),  # before date, which it extends
    (date, "$date", date.isoformat),
    (timedelta, "$timedelta", lambda v: f"{v.days} {v.seconds} {v.microseconds}"),
    (Decimal, "$decimal", str),
    (UUID, "$uuid", str),
)
_READ: dict[str, Callable[[str], Any]] = {
    "$bytes": _bytes,
    "$datetime": datetime.fromisoformat,
    "$date": date.fromisoformat,
    "$time": time.fromisoformat,
    "$timedelta": _timedelta,
    "$decimal": Decimal,
    "$uuid": UUID,
}
_COLLECTIONS: dict[str, Callable[[list[Any]], Any]] = {
    "$tuple": tuple,
    "$set": set,
    "$frozenset": frozenset,
}
