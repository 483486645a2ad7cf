"""The frame of a stored value: when the value ends, and which version of its key wrote it.

Most values have none. ``@<end>;<version>:<value>``: the end in milliseconds of the server's clock,
or nothing; ``;`` and the version, where it is not 1. JSON never begins with ``@``; a value of
another codec's that does gets the empty frame ``@:``. write.lua has the same few functions.
"""

import re

_FRAME = re.compile(rb"@([0-9]{0,16})(?:;([0-9]{1,9}))?:")


def split(raw: bytes) -> tuple[bytes, bytes]:
    """Frame and value; the frame is empty where there is none."""
    match = _FRAME.match(raw)
    return (raw[: match.end()], raw[match.end() :]) if match else (b"", raw)


def framed(value: bytes, version: int = 1) -> bytes:
    """The value, in a frame if it needs one."""
    if version != 1:
        return b"@;%d:%b" % (version, value)
    return b"@:" + value if value[:1] == b"@" else value


def version_of(raw: bytes) -> int:
    match = _FRAME.match(raw)
    return int(match[2] or 1) if match else 1


def end_of(raw: bytes) -> int | None:
    """When the value ends, ms; None: with the session."""
    match = _FRAME.match(raw)
    return int(match[1]) if match and match[1] else None


def ending(raw: bytes, end: int | None) -> bytes:
    """The same value with another end, or with none."""
    frame, value = split(raw)
    version = int(frame[1:-1].partition(b";")[2] or 1)
    raw = framed(value, version)
    if end is None:
        return raw
    return b"@%d%b" % (end, raw[1:] if raw[:1] == b"@" else b":" + raw)


def alive(raw: bytes | None, now: int) -> bytes | None:
    """What is stored, unless its end has come: then there is nothing."""
    if raw is None or raw[:1] != b"@":
        return raw
    end = end_of(raw)
    return None if end is not None and end <= now else raw
