"""Values <-> bytes as JSON.

JSON is strict: a value comes back equal to the one that was stored. Tuples come back as lists;
any other value that JSON cannot carry is refused before anything is sent, with the path to it.
"""

import math
import re
from collections.abc import Iterable
from typing import Any

import msgspec

from ..errors import CorruptValue

_BASES: tuple[type, ...] = (int, float, list, tuple, dict)
_NESTING = (list, tuple, dict)
PLAIN = frozenset({str, int, bool, type(None)})

MAX_DEPTH = 256
"""How deep lists and dicts may be nested. Reading and writing take some of Python's stack for each
level; without this limit it would depend on the caller's stack which values work.
"""


class JSONCodec:
    """The default codec: plain JSON, readable by any other program on the same server."""

    def encode(self, key: str, value: Any) -> bytes:
        """Bytes of ``value``; TypeError names the key and the path inside the value."""
        try:
            if type(value) not in PLAIN:
                check_part(value, key, ())
            return _encoder.encode(value)
        except UnicodeEncodeError:
            where = where_in(key, _culprit(value, ()))
            raise TypeError(f"{where}: a str with a lone surrogate is not JSON") from None
        except ValueError:
            where = where_in(key, _culprit(value, ()))
            raise TypeError(f"{where}: a whole number with too many digits for JSON") from None
        except RecursionError:
            if not _is_deep(value):
                raise  # the caller has used up the stack: no fault of the value
            raise too_deep(key) from None

    def decode(self, key: str, raw: bytes) -> Any:
        """A new object each time; CorruptValue names the key, never the stored bytes."""
        try:
            value = _decoder.decode(raw)
            if (
                len(raw) <= MAX_DEPTH
                or raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH
                or not _is_deep(value)
            ):
                return value
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass
        except RecursionError:
            if not _is_deep_text(raw):
                raise  # the caller has used up the stack: no fault of the value
        raise CorruptValue(f"the value stored under {key!r} is not JSON") from None


def plain_value(value: object) -> object:
    """Subclasses of JSON's own types are carried as the type they extend."""
    if isinstance(value, str):
        return str.__str__(value)  # the text itself, even if its class has its own __str__
    for base in _BASES:
        if isinstance(value, base):
            return base(value)
    raise TypeError(f"JSON cannot carry {type(value).__qualname__}")


_encoder = msgspec.json.Encoder(enc_hook=plain_value)
_decoder = msgspec.json.Decoder()
_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)


def _is_deep(value: object) -> bool:
    """Whether lists and dicts are nested more than MAX_DEPTH deep. It goes level by level, which
    needs no stack, and counts each object once in a level, because a value that contains itself
    would grow without end.
    """
    level: list[Any] = [[value]]
    for _ in range(MAX_DEPTH + 1):
        parts = [part for whole in level for part in _parts(whole)]
        level = list({id(part): part for part in parts if isinstance(part, _NESTING)}.values())
        if not level:
            return False
    return True


def _parts(whole: Any) -> Iterable[Any]:
    return whole.values() if isinstance(whole, dict) else whole


def _is_deep_text(raw: bytes) -> bool:
    """The same for JSON text that cannot be decoded."""
    depth = 0
    for character in _TEXT.sub(b"", raw):
        depth += (character in b"[{") - (character in b"]}")
        if depth > MAX_DEPTH:
            return True
    return False


def check_part(value: object, key: str, path: tuple[object, ...]) -> None:
    """TypeError, with key and path, unless JSON can carry this part of a value."""
    if len(path) >= MAX_DEPTH and isinstance(value, _NESTING):
        raise RecursionError
    if isinstance(value, dict):
        for name, item in value.items():
            if not isinstance(name, str):
                raise TypeError(
                    f"{where_in(key, path)}: a dict's keys must be str for JSON, not {name!r}"
                )
            if type(item) not in PLAIN:
                check_part(item, key, (*path, name))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            if type(item) not in PLAIN:
                check_part(item, key, (*path, index))
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{where_in(key, path)}: {value!r} is not JSON")
    elif not isinstance(value, str | int):
        raise TypeError(
            f"{where_in(key, path)}: JSON cannot carry {type(value).__qualname__};"
            f" convert it to str, int, float, bool, None, list or dict{_or_typed(value)}"
        )


def too_deep(key: str) -> TypeError:
    return TypeError(f"{key!r}: nested too deeply (or within itself) for JSON")


def _or_typed(value: object) -> str:
    try:
        msgspec.to_builtins(value, str_keys=True, enc_hook=plain_value)
    except (TypeError, ValueError, RecursionError):
        return ""
    return ", or give the key its type: a SessionKey carries this, not in request.session"


def _culprit(value: object, path: tuple[object, ...]) -> tuple[object, ...]:
    """Path to the innermost part that the encoder refuses."""
    parts: Any = ()
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    for step, part in parts:
        try:
            _encoder.encode(part)
        except ValueError:
            return _culprit(part, (*path, step))
    return path


def where_in(key: str, path: tuple[object, ...]) -> str:
    return repr(key) + "".join(f"[{step!r}]" for step in path)
