"""The codec that carries more types than JSON has: what comes back equals what was put in."""

import datetime
import enum
import io
import json
import os
import struct
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import colander
import deform
import pytest
from apps import site
from hypothesis import given, settings
from hypothesis import strategies as st
from pyramid.config import Configurator
from pyramid.i18n import TranslationString, TranslationStringFactory
from pyramid.request import Request
from webtest import Upload

from pyramid_altsession import CorruptValue, SessionAPI, SessionKey
from pyramid_altsession.codecs import JSONCodec, RichCodec

NAME = "pyramid_altsession.codecs.rich"
ON = {"altsession.session.codec": NAME, "altsession.sync.enabled": "true"}


class Color(enum.Enum):
    """Named in the setting."""

    RED = "r"
    CRIMSON = RED  # another name of the same member
    BLUE = "b"


class Size(enum.StrEnum):
    """A str as well: the default codec stores its text."""

    SMALL = "s"


class Rights(enum.Flag):
    """Members that can be combined."""

    READ = 1
    WRITE = 2


class Unnamed(enum.Enum):
    """Not named in the setting."""

    ONE = 1


codec = RichCodec([Color, Size, Rights])
_ = TranslationStringFactory("shop")


def there_and_back(value: object) -> Any:
    return codec.decode("k", codec.encode("k", value))


def same(one: Any, other: Any) -> bool:
    """Equal, and of the same types all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, set | frozenset):
        return len(one) == len(other) and all(any(same(x, y) for y in other) for x in one)
    if isinstance(one, TranslationString):
        parts = ("domain", "default", "mapping", "context")
        return str(one) == str(other) and all(
            getattr(one, part) == getattr(other, part) for part in parts
        )
    return bool(one == other) and getattr(one, "fold", 0) == getattr(other, "fold", 0)


# -- values

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
OFFSETS = st.integers(-1439, 1439).map(
    lambda minutes: datetime.timezone(datetime.timedelta(minutes=minutes))
)
HASHABLE = (
    st.none()
    | st.booleans()
    | st.integers()
    | TEXT
    | st.binary(max_size=8)
    | st.datetimes(timezones=st.none() | OFFSETS)
    | st.dates()
    | st.times(timezones=st.none() | OFFSETS)
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.sampled_from([*Color, *Size, *Rights])
)
LEAVES = (
    HASHABLE
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.builds(
        TranslationString,
        TEXT,
        domain=st.none() | TEXT,
        default=st.none() | TEXT,
        mapping=st.none() | st.dictionaries(TEXT, st.integers() | st.dates(), min_size=1),
        context=st.none() | TEXT,
    )
)
# Names that look like tags, too.
NAMES = TEXT | st.sampled_from(["$bytes", "$dict", "$tuple", "$", "$unknown"])
IN_SETS = st.recursive(
    HASHABLE,
    lambda parts: st.frozensets(parts, max_size=3) | st.tuples(parts, parts),
    max_leaves=4,
)
VALUES = st.recursive(
    LEAVES | st.sets(IN_SETS, max_size=4) | IN_SETS,
    lambda parts: (
        st.lists(parts, max_size=4)
        | st.lists(parts, max_size=3).map(tuple)
        | st.dictionaries(NAMES, parts, max_size=3)
    ),
    max_leaves=12,
)


@pytest.mark.volume
@settings(max_examples=int(os.environ.get("ALTSESSION_VALUES", "500")))
@given(values=st.lists(VALUES, min_size=20, max_size=20))
def test_nested_values(values: list[object]) -> None:
    """Whatever is nested in whatever comes back equal, and of its own type; equal bytes each time,
    so that a change is told from none. Ten thousand values."""
    for value in values:
        raw = codec.encode("k", value)
        back = codec.decode("k", raw)
        assert same(back, value)
        assert codec.encode("k", back) == raw
        json.loads(raw)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda parts: st.lists(parts, max_size=4) | st.dictionaries(TEXT, parts, max_size=4),
)


@pytest.mark.slow
@given(value=JSON_VALUES)
def test_plain_json_stays_plain(value: object) -> None:
    """What JSON carries is the same bytes as under the default codec, both ways; the only other
    case is an object with one name that begins with $."""
    if b'"$' not in (raw := JSONCodec().encode("k", value)):
        assert codec.encode("k", value) == raw
        assert same(codec.decode("k", raw), value)
    assert same(there_and_back(value), value)


SECOND_TIME = datetime.datetime(2024, 10, 27, 2, 30, fold=1)
"""Half past two comes twice in this night."""

TAGGED: list[tuple[object, dict[str, object]]] = [
    (b"\xff\x00", {"$bytes": "/wA="}),
    (datetime.date(2024, 2, 29), {"$date": "2024-02-29"}),
    (datetime.datetime(2024, 2, 29, 12, 30), {"$datetime": "2024-02-29T12:30:00"}),
    (datetime.time(12, 30), {"$time": "12:30:00"}),
    (datetime.timedelta(days=-1, seconds=3), {"$timedelta": "-1 3 0"}),
    (Decimal("1.50"), {"$decimal": "1.50"}),
    (uuid.UUID(int=1), {"$uuid": "00000000-0000-0000-0000-000000000001"}),
    (SECOND_TIME, {"$fold": {"$datetime": "2024-10-27T02:30:00"}}),
    (SECOND_TIME.time(), {"$fold": {"$time": "02:30:00"}}),
    ((1, "a"), {"$tuple": [1, "a"]}),
    ({"b", "a"}, {"$set": ["a", "b"]}),
    (frozenset({2, 1}), {"$frozenset": [1, 2]}),
    (Color.RED, {"$enum": ["test_rich:Color", "RED"]}),
    (_("hi"), {"$translation": ["hi", "shop", "hi", None, None]}),
    ({"$bytes": 1}, {"$dict": {"$bytes": 1}}),
    ({"$bytes": 1, "b": 2}, {"$bytes": 1, "b": 2}),
]


@pytest.mark.parametrize(("value", "raw"), TAGGED, ids=[", ".join(raw) for _, raw in TAGGED])
def test_tags(value: object, raw: dict[str, object]) -> None:
    """What each type looks like on the server: a promise to what is stored there."""
    assert json.loads(codec.encode("k", value)) == raw
    assert same(there_and_back(value), value)


def test_a_zone_keeps_its_offset() -> None:
    """The instant comes back; the zone's name does not. A time that would lose it is refused."""
    noon = datetime.datetime(2024, 7, 1, 12, tzinfo=ZoneInfo("Europe/Berlin"))
    assert there_and_back(noon) == noon
    assert there_and_back(noon).utcoffset() == datetime.timedelta(hours=2)
    second = SECOND_TIME.replace(tzinfo=ZoneInfo("Europe/Berlin"))
    assert there_and_back(second).utcoffset() == datetime.timedelta(hours=1)
    assert there_and_back(second).fold == 1
    with pytest.raises(TypeError, match=r"'k'\['at'\]: a time whose zone has no fixed offset"):
        codec.encode("k", {"at": noon.timetz()})


def test_another_name_of_a_member() -> None:
    assert there_and_back([Color.CRIMSON, Size.SMALL]) == [Color.RED, Size.SMALL]


# -- what is refused


def within_itself() -> list[Any]:
    value: list[Any] = []
    value.append((value,))
    return value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": (1, {2, object()})}, r"'k'\['a'\]\[1\]\[\d\]: JSON cannot carry object"),
        ({"a": (Unnamed.ONE,)}, r"'k'\['a'\]\[0\]: JSON cannot carry Unnamed"),
        ([Rights.READ | Rights.WRITE], r"'k'\[0\]: .* is not one member of its enumeration"),
        ({"a": {1: b""}}, r"'k'\['a'\]: a dict's keys must be str for JSON, not 1"),
        ((float("nan"),), r"'k'\[0\]: nan is not JSON"),
        ([bytearray(b"a")], r"'k'\[0\]: JSON cannot carry bytearray"),
        (within_itself(), r"'k': nested too deeply"),
        (("\ud800",), "a str with a lone surrogate is not JSON"),
    ],
    ids=["object", "enum", "flag", "key", "nan", "bytearray", "circle", "surrogate"],
)
def test_refused(value: object, message: str) -> None:
    """At once, with the path to it."""
    with pytest.raises(TypeError, match=message):
        codec.encode("k", value)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"$unknown":1}',
        b'{"$unknown":[1]}',
        b'{"a":[{"$bytes":"?"}]}',
        b'{"$bytes":["a"]}',
        b'{"$date":"soon"}',
        b'{"$date":1}',
        b'{"$decimal":"x"}',
        b'{"$timedelta":"1 2"}',
        b'{"$timedelta":"9999999999 0 0"}',
        b'{"$tuple":"ab"}',
        b'{"$set":[[1]]}',
        b'{"$dict":1}',
        b'{"$fold":1}',
        b'{"$fold":{"$date":"2024-02-29"}}',
        b'{"$enum":["os:system","RED"]}',
        b'{"$enum":["test_rich:Color","GREEN"]}',
        b'{"$translation":["a"]}',
        b'{"$uuid":"1"}',
    ],
)
def test_tags_that_are_not_known(raw: bytes) -> None:
    """Nothing that a stored value says is imported or called; the error names the key only."""
    with pytest.raises(CorruptValue, match="'k' has a tag that this codec does not know") as info:
        codec.decode("k", raw)
    assert "os:system" not in str(info.value)


# -- in sessions

SEALING = {"session.codec_secret": "a-secret-of-this-test"}


@pytest.fixture(params=["plain", "sealed"])
def api(request: pytest.FixtureRequest) -> SessionAPI:
    """Over memory; ``sealed``: with a secret."""
    sealing = SEALING if request.param == "sealed" else {}
    enums = {"session.codec_enums": "test_rich.Color, test_rich.Size"}
    return SessionAPI.from_settings(
        {"redis.url": "memory://", "session.codec": NAME, **enums, **sealing}
    )


def test_calls(api: SessionAPI) -> None:
    """Every call works with such values, those that count or compare on the server too."""
    session = api.create({"set": {1, (2, 3)}, "color": Color.BLUE})
    assert session.all() == {"set": {1, (2, 3)}, "color": Color.BLUE}
    assert session.increment("visits") == 1
    assert session.compare_and_set("set", {(2, 3), 1}, frozenset())
    assert session.modify("set", lambda found: (found, b"")) == (frozenset(), b"")
    assert session.pop("set") == (frozenset(), b"")
    assert session.setdefault("day", datetime.date(2024, 2, 29)) == datetime.date(2024, 2, 29)


def test_typed_keys(api: SessionAPI) -> None:
    """A SessionKey says its own types, as over the default codec."""
    seen = SessionKey("seen", dict[str, datetime.date])
    session = api.create()
    session.set(seen, {"$date": datetime.date(2024, 2, 29)})
    assert session.get(seen) == {"$date": datetime.date(2024, 2, 29)}


def test_a_secret_seals() -> None:
    """What is written under the setting of a secret cannot be read in the store."""
    api = SessionAPI.from_settings({"redis.url": "memory://", "session.codec": NAME, **SEALING})
    token = api.create({"k": b"canary"}).token
    assert api.open(token).get("k") == b"canary"
    plain = SessionAPI.from_settings({"redis.url": "memory://", "session.codec": NAME})
    sealed, bare = api.commands.codec, plain.commands.codec
    assert type(sealed) is not type(bare)
    assert sealed.encode("k", (1,)) == bare.encode("k", (1,))


def test_changes_are_seen() -> None:
    """``request.session`` writes a value that was changed in place, and no other."""

    def change(request: Request) -> None:
        request.session["held"]["set"].add(2)
        request.session["same"]["set"] = set(request.session["same"]["set"])

    views: Any = {
        "fill": lambda request: request.session.update(held={"set": {1}}, same={"set": {1, 2, 3}}),
        "change": change,
        "show": lambda request: [
            sorted(request.session["held"]["set"]),
            request.session["held"]["set"] == {1, 2},
        ],
    }
    browser = site("memory://", views, settings=ON)
    browser.get("/fill")
    before = len(browser.watched.operations)
    browser.get("/change")
    writes = [op for op in browser.watched.operations[before:] if getattr(op, "verbs", ())]
    assert [[verb.name for verb in op.verbs] for op in writes] == [["held"]]  # type: ignore[attr-defined]
    assert browser.get("/show").json == [[1, 2], True]


def catalogue(folder: Path, language: str, message: str, translation: str) -> None:
    """A compiled gettext catalogue of the domain ``shop``
    (https://www.gnu.org/software/gettext/manual/html_node/MO-Files.html)."""
    pairs = [(b"", b"Content-Type: text/plain; charset=UTF-8\n")]
    pairs.append((message.encode(), translation.encode()))
    texts = [text for pair in zip(*pairs, strict=True) for text in pair]
    start, table, body = 28 + 8 * len(texts), b"", b""
    for text in texts:
        table += struct.pack("<2I", len(text), start + len(body))
        body += text + b"\0"
    head = struct.pack("<7I", 0x950412DE, 0, len(pairs), 28, 28 + 8 * len(pairs), 0, start)
    place = folder / language / "LC_MESSAGES"
    place.mkdir(parents=True)
    (place / "shop.mo").write_bytes(head + table + body)


def test_flash_messages_are_translated(tmp_path: Path) -> None:
    """A translation string that is flashed in one request is shown in the next one in the language
    that its visitor has chosen by then."""
    catalogue(tmp_path, "de", "Saved ${n} items", "${n} Dinge gespeichert")
    catalogue(tmp_path, "fr", "Saved ${n} items", "${n} objets enregistrés")
    views: Any = {
        "save": lambda request: request.session.flash(_("Saved ${n} items", mapping={"n": 3})),
        "show": lambda request: [
            request.localizer.translate(message) for message in request.session.pop_flash()
        ],
    }

    def configure(config: Configurator) -> None:
        config.add_translation_dirs(str(tmp_path))

    browser = site("memory://", views, settings=ON, configure=configure)
    for language, shown in (
        ("de", "3 Dinge gespeichert"),
        ("fr", "3 objets enregistrés"),
        ("en", "Saved 3 items"),
    ):
        browser.get("/save?_LOCALE_=de")
        assert browser.get(f"/show?_LOCALE_={language}").json == [shown]


# -- files of uploads


class Uploads:
    """deform's temporary store in a session: the file's bytes under the upload's own key."""

    def __init__(self, session: Any) -> None:
        self.session = session

    def __contains__(self, uid: str) -> bool:
        return f"upload.{uid}" in self.session

    def get(self, uid: str, default: Any = None) -> Any:
        kept = self.session.get(f"upload.{uid}")
        return {**kept, "fp": io.BytesIO(kept["fp"])} if kept else default

    def __getitem__(self, uid: str) -> dict[str, Any]:
        return self.get(uid)

    def __setitem__(self, uid: str, data: Any) -> None:
        data["fp"].seek(0)
        self.session[f"upload.{uid}"] = {**data, "fp": data["fp"].read()}

    def preview_url(self, uid: str) -> None:
        return None


def test_a_file_survives_a_failed_validation() -> None:
    """A form with a file is sent back for its title; sent again without the file, it is whole."""

    def upload(request: Request) -> Any:
        schema = colander.Schema()
        widget = deform.widget.FileUploadWidget(Uploads(request.session))
        schema.add(colander.SchemaNode(deform.FileData(), name="file", widget=widget))
        schema.add(colander.SchemaNode(colander.String(), name="title"))
        try:
            found = deform.Form(schema).validate(request.POST.items())
        except deform.ValidationFailure as failure:
            return {"uid": failure.cstruct["file"]["uid"]}
        return {"name": found["file"]["filename"], "file": found["file"]["fp"].read().hex()}

    browser = site("memory://", {"upload": upload}, settings=ON)
    start, end = ("__start__", "file:mapping"), ("__end__", "file:mapping")
    picture = ("upload", Upload("cat.png", b"\x89PNG\xff"))
    failed = browser.post("/upload", [start, picture, end, ("title", "")])
    again = browser.post("/upload", [start, ("uid", failed.json["uid"]), end, ("title", "A cat")])
    assert again.json == {"name": "cat.png", "file": "89504e47ff"}
