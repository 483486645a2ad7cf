"""Values <-> JSON bytes, strictly: what comes back equals what was put in.

Tuples come back as lists; everything else that JSON cannot carry is refused, with the path to
the culprit, before anything is sent.
"""

import math
from typing import Any

import msgspec

from .errors import CorruptValue

_BASES: tuple[type, ...] = (int, float, list, tuple, dict)
_PLAIN = frozenset({str, int, bool, type(None)})


class JSONCodec:
    """The default codec: plain JSON, readable by any other program on the same server."""

    def encode(self, key: str, value: Any) -> bytes:
        """Bytes of ``value``; TypeError names the key and the path inside the value."""
        try:
            if type(value) not in _PLAIN:
                _check(value, key, ())
            return _encoder.encode(value)
        except UnicodeEncodeError:
            where = _where(key, _culprit(value, ()))
            raise TypeError(f"{where}: a str with a lone surrogate is not JSON") from None
        except ValueError:
            where = _where(key, _culprit(value, ()))
            raise TypeError(f"{where}: a whole number with too many digits for JSON") from None
        except RecursionError:
            raise TypeError(f"{key!r}: nested too deeply (or within itself) for JSON") from None

    def decode(self, key: str, raw: bytes) -> Any:
        """A new object each time; CorruptValue names the key, never the stored bytes."""
        try:
            return _decoder.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise CorruptValue(f"the value stored under {key!r} is not JSON") from None


def _plain(value: object) -> object:
    """Subclasses of JSON's own types are carried as the type they extend."""
    if isinstance(value, str):
        return str.__str__(value)  # what it holds, whatever its own __str__ says
    return next(base(value) for base in _BASES if isinstance(value, base))


_encoder = msgspec.json.Encoder(enc_hook=_plain)
_decoder = msgspec.json.Decoder()


def _check(value: object, key: str, path: tuple[object, ...]) -> None:
    if isinstance(value, dict):
        for name, item in value.items():
            if not isinstance(name, str):
                raise TypeError(
                    f"{_where(key, path)}: a dict's keys must be str for JSON, not {name!r}"
                )
            if type(item) not in _PLAIN:
                _check(item, key, (*path, name))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            if type(item) not in _PLAIN:
                _check(item, key, (*path, index))
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{_where(key, path)}: {value!r} is not JSON")
    elif not isinstance(value, str | int):
        raise TypeError(
            f"{_where(key, path)}: JSON cannot carry {type(value).__qualname__};"
            " convert it to str, int, float, bool, None, list or dict"
        )


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


def _where(key: str, path: tuple[object, ...]) -> str:
    return repr(key) + "".join(f"[{step!r}]" for step in path)
