"""The frame of a stored value: its end and its version, in front of any bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyramid_altsession.protocol.frame import (
    UNREADABLE,
    alive,
    end_of,
    ending,
    framed,
    holding,
    split,
    version_of,
)

values = st.binary(max_size=40) | st.sampled_from(
    [b"", b"@", b"@:", b"@1:", b"@@", b"@12;3:x", b"@;2:@;3:", b"\n@:", b"\xff\x00", UNREADABLE]
)
versions = st.integers(1, 10**9 - 1)
ends = st.none() | st.integers(0, 10**16 - 1)


@given(values, versions, ends)
def test_round_trip(value: bytes, version: int, end: int | None) -> None:
    """Whatever bytes a value has, it comes out of its frame as it was, with version and end."""
    raw = framed(value, version, end)
    assert (split(raw)[1], version_of(raw), end_of(raw)) == (value, version, end)
    assert b"".join(split(raw)) == raw


@given(values, versions, ends, ends)
def test_another_end(value: bytes, version: int, end: int | None, other: int | None) -> None:
    """Another end leaves value and version as they are."""
    assert ending(framed(value, version, end), other) == framed(value, version, other)


@given(values, values, versions, ends)
def test_another_value(value: bytes, other: bytes, version: int, end: int | None) -> None:
    """Another value takes over version and end."""
    assert holding(framed(value, version, end), other) == framed(other, version, end)


@given(values, versions, st.integers(0, 10**13))
def test_alive_until_its_end(value: bytes, version: int, end: int) -> None:
    """A value is there until the millisecond of its end, and one without an end always."""
    raw, endless = framed(value, version, end), framed(value, version)
    assert alive(raw, end - 1) == raw
    assert alive(raw, end) is None
    assert alive(endless, end) == endless


def test_nothing_is_alive_never() -> None:
    """Nothing stored stays nothing."""
    assert alive(None, 0) is None


@pytest.mark.parametrize(
    ("value", "version", "end", "raw"),
    [
        (b"1", 1, None, b"1"),
        (b"", 1, None, b""),
        (b"@", 1, None, b"@:@"),
        (b"1", 2, None, b"@;2:1"),
        (b"1", 1, 5, b"@5:1"),
        (b"@1:1", 3, 1700000000000, b"@1700000000000;3:@1:1"),
    ],
)
def test_bytes(value: bytes, version: int, end: int | None, raw: bytes) -> None:
    """What other programs, and an older or newer release of this one, find on the server."""
    assert framed(value, version, end) == raw


@pytest.mark.parametrize(
    "raw",
    [
        b"@", b"@1", b"@1;", b"@1;:", b"@x:1", b"@-1:1", b"@1.5:1", b"@ 1:1", b"@1;2", b"@1;2;3:1",
        b"@1;-2:1", b"@;:1", b"@12345678901234567:1", b"@1;1234567890:1", "@١:1".encode(),
        b"@1\n:1", b" @1:1", b"1@1:", b"@@1:1",
    ],
    ids=repr,
)  # fmt: skip
def test_malformed(raw: bytes) -> None:
    """A malformed frame is none: the bytes are a value that goes with the session."""
    assert (split(raw), version_of(raw), end_of(raw)) == ((b"", raw), 1, None)
    assert alive(raw, 10**15) == raw
