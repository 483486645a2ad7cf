"""The frame of a stored value: when the value ends, and which version of its key wrote it.

Most values have none. ``@<end>;<version>:<value>``: the end in milliseconds of the server's clock,
or nothing; ``;`` and the version, where it is not 1. JSON never begins with ``@``; a value of
another codec's that does gets the empty frame ``@:``. write.lua has the same few functions.
"""

import re

UNREADABLE = b"\0 its seal does not open \0"
"""Stands for a sealed value that was tampered with, or moved. No codec produces these bytes."""

_FRAME = re.compile(rb"@([0-9]{0,16})(?:;([0-9]{1,9}))?:")


def split(raw: bytes) -> tuple[bytes, bytes]:
    """The frame and the value; an empty frame if the value has none."""
    match = _FRAME.match(raw)
    return (raw[: match.end()], raw[match.end() :]) if match else (b"", raw)


def framed(value: bytes, version: int = 1, end: int | None = None) -> bytes:
    """The value, in a frame if it needs one."""
    if version == 1 and end is None and value[:1] != b"@":
        return value
    return b"@%b%b:%b" % (
        b"" if end is None else b"%d" % end,
        b"" if version == 1 else b";%d" % version,
        value,
    )


def version_of(raw: bytes) -> int:
    match = _FRAME.match(raw)
    return int(match[2] or 1) if match else 1


def end_of(raw: bytes) -> int | None:
    """When the value ends, ms; None: with the session."""
    match = _FRAME.match(raw)
    return int(match[1]) if match and match[1] else None


def ending(raw: bytes, end: int | None) -> bytes:
    """The same value with another end, or with none."""
    return framed(split(raw)[1], version_of(raw), end)


def holding(raw: bytes, value: bytes) -> bytes:
    """The frame of the first value around another value: same version, same end."""
    return framed(value, version_of(raw), end_of(raw))


def alive(raw: bytes | None, now: int) -> bytes | None:
    """The stored bytes; None when their end has come."""
    if raw is None or raw[:1] != b"@":
        return raw
    end = end_of(raw)
    return None if end is not None and end <= now else raw
