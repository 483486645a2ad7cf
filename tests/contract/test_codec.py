"""Values and their bytes: what comes back equals what was put in, or is refused at once."""

import collections
import datetime
import decimal
import enum
import math
import uuid
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyramid_altsession.codecs import JSONCodec
from pyramid_altsession.errors import CorruptValue
from pyramid_altsession.protocol.keys import SessionKey

codec = JSONCodec()


def there_and_back(value: object) -> Any:
    return codec.decode("k", codec.encode("k", value))


# -- what is carried


@pytest.mark.parametrize(
    ("value", "raw"),
    [
        (None, b"null"),
        (True, b"true"),
        (0, b"0"),
        (-1.5, b"-1.5"),
        ("", b'""'),
        ("ü\u2028😀\x00", '"ü\u2028😀\\u0000"'.encode()),
        ([], b"[]"),
        ({}, b"{}"),
        ({"a": [1, None, {"b": "c"}]}, b'{"a":[1,null,{"b":"c"}]}'),
    ],
    ids=repr,
)
def test_plain_json(value: object, raw: bytes) -> None:
    """The bytes are JSON that any other program on the server can read."""
    assert codec.encode("k", value) == raw
    assert codec.decode("k", raw) == value


@pytest.mark.parametrize("value", [2**53 + 1, 2**64, -(2**63) - 1, 10**40, -(10**4000)])
def test_big_whole_numbers(value: int) -> None:
    """Whole numbers keep every digit."""
    assert there_and_back(value) == value
    assert there_and_back([{"n": value}]) == [{"n": value}]


def test_float_stays_float() -> None:
    """A float comes back as a float, to the last bit and with its sign."""
    for value in (1.0, 1e16, 5e-324, 1.7976931348623157e308, 0.1 + 0.2):
        back = there_and_back(value)
        assert (back, type(back)) == (value, float)
    assert math.copysign(1, there_and_back(-0.0)) == -1


def test_tuples_come_back_as_lists() -> None:
    """A tuple is carried as a list."""
    assert there_and_back((1, (2, 3))) == [1, [2, 3]]


class Text(str):
    """A str with a __str__ of its own, as lazy translations have."""

    def __str__(self) -> str:
        return "something else"


class Number(int):
    pass


class Fraction(float):
    pass


class Row(list):  # type: ignore[type-arg]
    pass


class Pair(NamedTuple):
    a: int
    b: int


class Colour(enum.StrEnum):
    RED = "red"


class Size(enum.IntEnum):
    BIG = 3


class Mixed(str, enum.Enum):  # noqa: UP042
    ONE = "one"


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Text("t"), "t"),
        (Number(5), 5),
        (Fraction(1.5), 1.5),
        (Row([1, Text("x")]), [1, "x"]),
        (Pair(1, 2), [1, 2]),
        (Colour.RED, "red"),
        (Size.BIG, 3),
        (Mixed.ONE, "one"),
        (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (collections.defaultdict(list, a=[1]), {"a": [1]}),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        ({Text("k"): 1, Colour.RED: 2, Mixed.ONE: 3}, {"k": 1, "red": 2, "one": 3}),
        ([Colour.RED, {"size": Size.BIG}], ["red", {"size": 3}]),
    ],
    ids=repr,
)
def test_subclasses_are_carried_as_what_they_extend(value: object, plain: object) -> None:
    """Subclasses of JSON's types (enums of them too) come back as the plain type."""
    for given_value, expected in [(value, plain), ([value], [plain]), ({"v": value}, {"v": plain})]:
        back = there_and_back(given_value)
        assert (back, type(back)) == (expected, type(expected))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**60), 10**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(), inner, max_size=4)
    ),
    max_leaves=20,
)


def lists_for_tuples(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [lists_for_tuples(item) for item in value]
    if isinstance(value, dict):
        return {name: lists_for_tuples(item) for name, item in value.items()}
    return value


def typed(value: Any) -> Any:
    """With the type of every part, as 1 == True == 1.0."""
    if isinstance(value, list):
        return [typed(item) for item in value]
    if isinstance(value, dict):
        return {name: typed(item) for name, item in value.items()}
    return type(value), repr(value)


@pytest.mark.volume
@settings(max_examples=500, deadline=None, derandomize=True)
@given(json_values)
def test_round_trip(value: Any) -> None:
    """Everything JSON can say comes back equal and of the same type, tuples as lists."""
    assert typed(there_and_back(value)) == typed(lists_for_tuples(value))


def test_a_new_object_each_time() -> None:
    """Two decodings share nothing, so that a changed list does not leak into the next get."""
    raw = codec.encode("k", {"a": [1]})
    first = codec.decode("k", raw)
    first["a"].append(2)
    assert codec.decode("k", raw) == {"a": [1]}


def test_value_is_left_as_it_is() -> None:
    """Encoding changes nothing in the value."""
    value = {"a": Row([Text("x")])}
    codec.encode("k", value)
    assert (type(value["a"]), type(value["a"][0])) == (Row, Text)


# -- what is refused


@dataclass
class Point:
    x: int = 0


class Plain(enum.Enum):
    ONE = 1


NOT_JSON: list[tuple[object, str]] = [
    (datetime.datetime(2024, 1, 1), "datetime"),
    (datetime.date(2024, 1, 1), "date"),
    (datetime.timedelta(1), "timedelta"),
    (b"bytes", "bytes"),
    (bytearray(b"x"), "bytearray"),
    (memoryview(b"x"), "memoryview"),
    ({1}, "set"),
    (frozenset(), "frozenset"),
    (Point(), "Point"),
    (Plain.ONE, "Plain"),
    (uuid.UUID(int=0), "UUID"),
    (decimal.Decimal(1), "Decimal"),
    (1j, "complex"),
    (range(3), "range"),
    (collections.deque([1]), "deque"),
    ({}.keys(), "dict_keys"),
    (iter([]), "list_iterator"),
    (object(), "object"),
    (int, "type"),
    (Ellipsis, "ellipsis"),
]


@pytest.mark.parametrize(("value", "name"), NOT_JSON, ids=[name for _, name in NOT_JSON])
def test_what_json_cannot_carry(value: object, name: str) -> None:
    """Refused with the key, the path inside the value, and the type."""
    says = "JSON cannot carry {}; convert it to str, int, float, bool, None, list or dict"
    for whole, where in [
        (value, "'k'"),
        ([0, value], "'k'[1]"),
        ({"a": {"b": (1, [value])}}, "'k'['a']['b'][1][0]"),
    ]:
        with pytest.raises(TypeError) as caught:
            codec.encode("k", whole)
        refused, _, cure = str(caught.value).partition(", or ")
        assert refused == f"{where}: {says.format(name)}"
        assert cure in (
            "",
            "give the key its type: a SessionKey carries this, not in request.session",
        )


@pytest.mark.parametrize(
    "value",
    [datetime.datetime(2026, 1, 1), decimal.Decimal("1.5"), Point(1), uuid.UUID(int=1), {1, 2}],
    ids=lambda value: type(value).__name__,
)
def test_what_a_typed_key_can_carry(value: object) -> None:
    """Where a SessionKey of its type would carry the value, the message says so; and it does."""
    with pytest.raises(TypeError, match=r"or give the key its type: a SessionKey carries this"):
        codec.encode("k", [value])
    assert codec.decode("k", codec.encode("k", SessionKey("k", type(value)).plain(value)))


@pytest.mark.parametrize(
    "value", [object(), int, iter([]), {}.keys(), 1j], ids=lambda value: type(value).__name__
)
def test_what_no_key_can_carry(value: object) -> None:
    """Elsewhere it does not."""
    with pytest.raises(TypeError, match=r"None, list or dict$"):
        codec.encode("k", value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, Fraction("nan")], ids=repr)
def test_numbers_that_are_none(value: float) -> None:
    """NaN and infinity are not JSON."""
    for whole, where in [(value, "'k'"), ({"a": [value]}, "'k'['a'][0]")]:
        with pytest.raises(TypeError) as caught:
            codec.encode("k", whole)
        assert str(caught.value) == f"{where}: {value!r} is not JSON"


@pytest.mark.parametrize("key", [1, None, True, 1.5, (1,), b"x"], ids=repr)
def test_keys_of_a_dict(key: object) -> None:
    """A dict's keys are str, as another type would come back as one."""
    for whole, where in [({key: 1}, "'k'"), ([{"a": {"b": 1, key: 2}}], "'k'[0]['a']")]:
        with pytest.raises(TypeError) as caught:
            codec.encode("k", whole)
        assert str(caught.value) == f"{where}: a dict's keys must be str for JSON, not {key!r}"


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ("\ud800", "'k'"),
        (["fine", "\udfff"], "'k'[1]"),
        ({"a": [{"b": ("x", "y\ud800z")}], "c": "fine"}, "'k'['a'][0]['b'][1]"),
        ({"a": {"fine": 1, "\ud800": 1}}, "'k'['a']"),
        ([Text("\ud800")], "'k'[0]"),
    ],
)
def test_lone_surrogates(value: object, where: str) -> None:
    """Half a character is not text; the path leads to it, or to the dict whose key it is."""
    with pytest.raises(TypeError) as caught:
        codec.encode("k", value)
    assert str(caught.value) == f"{where}: a str with a lone surrogate is not JSON"


def test_whole_numbers_without_end() -> None:
    """A whole number that Python itself would not read back is refused."""
    with pytest.raises(TypeError) as caught:
        codec.encode("k", {"a": [1, 10**5000]})
    assert str(caught.value) == "'k'['a'][1]: a whole number with too many digits for JSON"


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def within_itself() -> list[Any]:
    value: list[Any] = []
    value.append({"again": value})
    return value


@pytest.mark.parametrize("value", [nested(100_000), within_itself()], ids=["deep", "endless"])
def test_nested_too_deeply(value: object) -> None:
    """A value without an end, or too deep for a reader, is refused."""
    with pytest.raises(TypeError) as caught:
        codec.encode("k", value)
    assert str(caught.value) == "'k': nested too deeply (or within itself) for JSON"


def test_nested_deeply_enough() -> None:
    """What a session may reasonably hold is carried."""
    assert there_and_back(nested(200)) == nested(200)


# -- what cannot be read

BROKEN = [
    b"", b" ", b"\xff", b'"\xff\xfe"', b"\xef\xbb\xbf1", b'"\xed\xa0\x80"', b'"\\ud800"', b'"open',
    b"[1,", b"{", b'{"a"}', b"{1:2}", b"{'a':1}", b"[1 2]", b"1 2", b"-", b"01", b"1.", b".5",
    b"+1",
    b"NaN", b"Infinity", b"-Infinity", b"1e400", b"nul", b"True", b"undefined", b"'a'", b'"\x00"',
    b'"\n"', b"[1,]", b"// 1", b"9" * 5_000, b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000,
    b'{"a":' * 100_000, b"@1700000000000:1", b"\x80\x04\x95canary.", b"canary",
]  # fmt: skip


@pytest.mark.parametrize("raw", BROKEN, ids=lambda raw: repr(raw[:20]))
def test_undecodable_bytes(raw: bytes) -> None:
    """What is not JSON is CorruptValue with the key, and shows nothing of what is stored."""
    with pytest.raises(CorruptValue) as caught:
        codec.decode("cart", raw)
    assert str(caught.value) == "the value stored under 'cart' is not JSON"
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.volume
@settings(max_examples=1000, deadline=None, derandomize=True)
@given(st.binary() | st.text(alphabet='[]{}",:0123456789.eE+-\\untrfals ').map(str.encode))
def test_any_bytes(raw: bytes) -> None:
    """Any bytes at all are a value or CorruptValue, nothing else; a value survives."""
    try:
        value = codec.decode("k", raw)
    except CorruptValue:
        return
    assert there_and_back(value) == value


@pytest.mark.parametrize(("raw", "deep"), [(b"[1]", False), (b"[" * 300, True)])
def test_a_decoder_at_the_end_of_the_stack(
    monkeypatch: pytest.MonkeyPatch, raw: bytes, deep: bool
) -> None:
    """A value too deep for JSON is corrupt; where the caller's stack is at its end, the value is
    not to blame. Which Python raises when differs, so a decoder that always does stands in."""

    def decode(raw: bytes) -> Any:
        raise RecursionError

    monkeypatch.setattr("pyramid_altsession.codecs.plain._decoder", SimpleNamespace(decode=decode))
    with pytest.raises(CorruptValue if deep else RecursionError):
        JSONCodec().decode("k", raw)
