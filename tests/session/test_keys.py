"""Typed keys: what goes in comes out with its type, and versions of an application side by side."""

import dataclasses
import enum
import inspect
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, NewType, TypedDict
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pytest
from apps import Site, Watched, site
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.request import Request
from workers import token_of

from pyramid_altsession import AltSession, CorruptValue, InvalidKey, SessionAPI, SessionKey
from pyramid_altsession.api import OpenSession
from pyramid_altsession.config.sources import read_settings
from pyramid_altsession.interfaces import Store
from pyramid_altsession.protocol.commands import field_name
from pyramid_altsession.stores.memory import MemoryStore

Act = Callable[[AltSession], Any]


class Item(msgspec.Struct):
    sku: UUID
    price: Decimal
    count: int = 1


class Cart(msgspec.Struct):
    items: list[Item] = []
    coupon: str | None = None


@dataclasses.dataclass
class Address:
    street: str
    lines: tuple[str, ...] = ()


class Options(TypedDict, total=False):
    dark: bool


class Point(NamedTuple):
    x: int
    y: float


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


class Right(enum.Flag):
    READ = 1
    WRITE = 2


class Tree(msgspec.Struct):
    name: str
    children: list["Tree"] = []


class Circle(msgspec.Struct, tag=True):
    radius: float


class Square(msgspec.Struct, tag=True):
    side: float


Amount = NewType("Amount", int)
ITEM = Item(UUID(int=7), Decimal("1.10"), 2)
CART = SessionKey("cart", Cart, default=Cart)
COUNT = SessionKey("count", int, default=int)
TAGS = SessionKey("tags", set[str])


@pytest.fixture
def watched() -> Watched:
    return Watched(MemoryStore())


@pytest.fixture
def api(watched: Watched) -> SessionAPI:
    return SessionAPI(read_settings({}), store=watched)


@pytest.fixture
def session(api: SessionAPI) -> OpenSession:
    """A live session that holds nothing."""
    return api.create()


def later(api: SessionAPI, session: OpenSession) -> OpenSession:
    """The same session in another request."""
    return api.open(token_of(session))


# -- types

ROUND_TRIPS: list[tuple[Any, object, object]] = [
    (Cart, Cart([ITEM], "HALF"), {"items": [{"sku": str(UUID(int=7)), "price": "1.10",
     "count": 2}], "coupon": "HALF"}),
    (list[Item], [ITEM], [{"sku": str(UUID(int=7)), "price": "1.10", "count": 2}]),
    (Address, Address("High St", ("a", "b")), {"street": "High St", "lines": ["a", "b"]}),
    (Options, {"dark": True}, {"dark": True}),
    (Point, Point(1, 2.5), [1, 2.5]),
    (Tree, Tree("a", [Tree("b")]), {"name": "a", "children": [{"name": "b", "children": []}]}),
    (Circle | Square, Square(2.0), {"type": "Square", "side": 2.0}),
    (datetime, datetime(2026, 2, 3, 4, 5, 6, 7, UTC), "2026-02-03T04:05:06.000007Z"),
    (datetime, datetime(2026, 2, 3), "2026-02-03T00:00:00"),
    (datetime, datetime(2026, 2, 3, tzinfo=timezone(timedelta(hours=2))),
     "2026-02-03T00:00:00+02:00"),
    (date, date(2026, 2, 3), "2026-02-03"),
    (time, time(4, 5), "04:05:00"),
    (timedelta, timedelta(days=1, microseconds=3), "P1DT0.000003S"),
    (Decimal, Decimal("0.10"), "0.10"),
    (UUID, UUID(int=1), str(UUID(int=1))),
    (bytes, b"\x00\xff", "AP8="),
    (Color, Color.RED, "red"),
    (Level, Level.LOW, 1),
    (Right, Right.READ | Right.WRITE, 3),
    (Literal["a", "b"], "b", "b"),
    (set[int], {3}, [3]),
    (frozenset[str], frozenset({"a"}), ["a"]),
    (tuple[int, str], (1, "a"), [1, "a"]),
    (dict[int, Color], {1: Color.RED, -2: Color.BLUE}, {"1": "red", "-2": "blue"}),
    (dict[UUID, date], {UUID(int=1): date(2026, 2, 3)}, {str(UUID(int=1)): "2026-02-03"}),
    (dict[date, set[int]], {date(2026, 2, 3): {1}}, {"2026-02-03": [1]}),
    (dict[Color, Level], {Color.RED: Level.LOW}, {"red": 1}),
    (dict[float, bool], {1.5: True}, {"1.5": True}),
    (dict[str, int], {"1": 1, "": 2}, {"1": 1, "": 2}),
    (int | None, None, None),
    (Annotated[int, msgspec.Meta(ge=0)], 7, 7),
    (Amount, Amount(7), 7),
    (int, 2**70, 2**70),
    (float, 0.1, 0.1),
    (bool, False, False),
    (str, "päß ⚡", "päß ⚡"),
    (Any, {"a": [1, None]}, {"a": [1, None]}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "value", "plain"), ROUND_TRIPS, ids=repr)
def test_round_trip(
    kind: Any, value: object, plain: object, api: SessionAPI, session: OpenSession
) -> None:
    """A value comes back equal and of its type, and a plain key sees it as JSON's own types."""
    key: SessionKey[Any, None] = SessionKey("k", kind)
    session.set(key, value)
    found = later(api, session).get(key)
    assert (found, type(found)) == (value, type(value))
    assert later(api, session).get("k") == plain


@pytest.mark.parametrize(("kind", "value", "plain"), ROUND_TRIPS, ids=repr)
def test_what_a_plain_key_stored(
    kind: Any, value: object, plain: object, api: SessionAPI, session: OpenSession
) -> None:
    """A typed key reads what was stored under the plain one."""
    session.set("k", plain)
    key: SessionKey[Any, None] = SessionKey("k", kind)
    assert later(api, session).get(key) == value


class Name(str):
    def __str__(self) -> str:
        return "something else"


class Number(int):
    pass


class Ratio(float):
    pass


@pytest.mark.parametrize(
    ("kind", "value", "plain"),
    [(str, Name("Ann"), "Ann"), (int, Number(3), 3), (float, Ratio(0.5), 0.5),
     (dict[str, list[str]], {"a": [Name("b")]}, {"a": ["b"]})],
    ids=repr,
)  # fmt: skip
def test_subclasses(
    kind: Any, value: object, plain: object, api: SessionAPI, session: OpenSession
) -> None:
    """A subclass of JSON's own types is carried as what it extends, as under a plain key."""
    key: SessionKey[Any, None] = SessionKey("k", kind)
    session.set(key, value)
    assert later(api, session).get("k") == plain


def test_each_reader_gets_its_own(session: OpenSession) -> None:
    """Changing what ``get`` gave changes nothing but that."""
    session.set(CART, Cart())
    session.get(CART).items.append(ITEM)
    assert session.get(CART) == Cart()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (CART, 7),
        (CART, None),
        (CART, {"items": 7}),
        (CART, Cart(items=["no item"])),  # type: ignore[list-item]
        (CART, Cart(coupon=object())),  # type: ignore[arg-type]
        (COUNT, "7"),
        (COUNT, 7.0),
        (COUNT, True),
        (TAGS, {1}),
        (SessionKey("k", Color), "green"),
        (SessionKey("k", date), "yesterday"),
        (SessionKey("k", Any), {(1, 2): 3}),
        (SessionKey("k", float), float("nan")),
        (SessionKey("k", str), "\ud800"),
        (SessionKey("k", Address), type("Other", (), {})()),
    ],
    ids=lambda value: str(value)[:20].partition(" object at")[0],
)
def test_a_value_that_does_not_fit(
    key: SessionKey[Any, Any], value: object, session: OpenSession, watched: Watched
) -> None:
    """TypeError that names the key, from every call that stores, before anything is sent."""
    calls: list[Act] = [
        lambda s: s.set(key, value),
        lambda s: s.mset({key: value}),
        lambda s: s.setdefault(key, value),
        lambda s: s.compare_and_set(key, None, value),
        lambda s: s.batch().set(key, value),
    ]
    with watched.costs(0):
        for call in calls:
            with pytest.raises(TypeError, match=key.name):
                call(session)
    with watched.costs(1), pytest.raises(TypeError, match=key.name):
        session.modify(key, lambda found: value)
    assert session.all(fresh=True) == {}


LOCAL = timezone(timedelta(minutes=53, seconds=28))  # Berlin's until 1893
NOON = datetime(2024, 1, 1, 12, tzinfo=LOCAL)


class Visit(msgspec.Struct):
    at: datetime
    notes: dict[str, list[time]] = {}


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (datetime, NOON),
        (datetime, NOON.replace(tzinfo=timezone(-timedelta(microseconds=1)))),
        (datetime, datetime(1850, 1, 1, tzinfo=ZoneInfo("Europe/Berlin"))),
        (time, NOON.timetz()),
        (time, time(12, tzinfo=ZoneInfo("Europe/Berlin"))),
        (Visit, Visit(NOON)),
        (Visit, Visit(datetime(2024, 1, 1), {"a": [time(1), NOON.timetz()]})),
        (dict[datetime, int], {NOON: 1}),
        (set[datetime], {NOON}),
        (tuple[str, datetime], ("a", NOON)),
        (Any, [{"a": NOON}]),
    ],
    ids=str,
)
def test_an_offset_that_would_change(
    kind: Any, value: object, session: OpenSession, watched: Watched
) -> None:
    """A stored time has an offset of whole minutes; another one is refused, as it would move."""
    key: SessionKey[Any, None] = SessionKey("k", kind)
    with watched.costs(0), pytest.raises(TypeError, match=r"'k': .* the offset from UTC"):
        session.set(key, value)


def test_a_migration_whose_offset_would_change(api: SessionAPI, session: OpenSession) -> None:
    session.set("k", 1)
    key = SessionKey("k", datetime, version=2, migrate=lambda value, version: NOON)
    with pytest.raises(CorruptValue, match="migrate failed"):
        later(api, session).get(key)


def test_the_offset_of_a_zone(api: SessionAPI, session: OpenSession) -> None:
    """A time in a zone keeps its instant and its offset; keys of dicts as well."""
    noon = datetime(2024, 7, 1, 12, tzinfo=ZoneInfo("Europe/Berlin"))
    key = SessionKey("k", dict[datetime, datetime])
    session.set(key, {noon: noon})
    assert (found := later(api, session).get(key)) == {noon: noon}
    assert found is not None
    assert [at.utcoffset() for at in found] == [timedelta(hours=2)]


def test_a_value_within_itself(session: OpenSession, watched: Watched) -> None:
    """A value that holds itself is TypeError too."""
    endless: list[Any] = []
    endless.append(endless)
    with watched.costs(0), pytest.raises(TypeError, match="'k': the value is no list"):
        session.set(SessionKey("k", list), endless)


# -- defaults


def test_default_factory(session: OpenSession) -> None:
    """Where there is no value, the key's default makes one, a new one each time."""
    session.get(CART).items.append(ITEM)
    assert session.get(CART) == Cart()
    assert not session.exists(CART)


def test_falsy_default_factory(session: OpenSession) -> None:
    """A default is asked whatever its own truth value is."""

    class Maker(list[int]):
        def __call__(self) -> int:
            return 7

    assert session.get(SessionKey("k", int, default=Maker())) == 7


def test_explicit_default(session: OpenSession) -> None:
    """The call's own default comes before the key's, and may be anything."""
    found = [session.get(CART, None), session.get(CART, "-"), session.get(TAGS, 7)]
    assert found == [None, "-", 7]
    assert session.mget([CART, TAGS], 7) == {CART: 7, TAGS: 7}
    assert [session.pop(CART, 7), session.pop(TAGS, 7)] == [7, 7]


def test_no_default(session: OpenSession) -> None:
    """Without any default there is None."""
    assert [session.get(TAGS), session.pop(TAGS)] == [None, None]


def test_stored_null_is_a_value(session: OpenSession) -> None:
    """A stored None is no missing value."""
    key: SessionKey[Any, int] = SessionKey("k", Any, default=lambda: 7)
    session.set(key, None)
    assert session.get(key) is None


# -- every call


def test_reads(api: SessionAPI, session: OpenSession, watched: Watched) -> None:
    """A typed key stands in every read, and costs what a plain one does."""
    session.mset({CART: Cart([ITEM]), "name": "Ann", TAGS: {"a"}})
    reader = later(api, session)
    with watched.costs(1):
        found = reader.mget([CART, "name", TAGS, COUNT])
        assert found == {CART: Cart([ITEM]), "name": "Ann", TAGS: {"a"}, COUNT: 0}
        assert list(found) == [CART, "name", TAGS, COUNT]
        assert [reader.exists(CART), reader.exists(COUNT), reader.exists("cart")] == [
            *(True, False, True)
        ]
        assert reader.get("tags") == ["a"]
    assert reader.keys() == ["cart", "name", "tags"]
    assert reader.all()["tags"] == ["a"]
    with watched.costs(1):
        assert reader.get(CART, fresh=True) == Cart([ITEM])


def test_both_kinds_of_one_key(session: OpenSession) -> None:
    """mget answers to what it was asked for: a plain and a typed key of one name."""
    session.set(CART, Cart())
    assert session.mget(["cart", CART]) == {"cart": {"items": [], "coupon": None}, CART: Cart()}


def test_prefetch(api: SessionAPI, session: OpenSession, watched: Watched) -> None:
    """A typed key can be asked for ahead."""
    session.set(CART, Cart([ITEM]))
    reader = later(api, session)
    with watched.costs(1):
        reader.prefetch(CART, "name")
        assert reader.get(CART) == Cart([ITEM])


def test_view_option() -> None:
    """A typed key, or several, in a view's option ``altsession``."""
    found: list[object] = []

    def read(request: Request) -> None:
        found.append(request.altsession.mget([CART, COUNT]))

    shop: Site = site(
        "memory://",
        {"put": lambda request: request.altsession.set(CART, Cart([ITEM]))},
        configure=lambda config: [
            config.add_route(name, f"/{name}")
            or config.add_view(read, route_name=name, renderer="json", altsession=option)
            for name, option in (("one", CART), ("more", (CART, "x", COUNT)))
        ],
    )
    shop.get("/put")
    shop.watched.operations.clear()
    shop.get("/more")
    assert len(shop.watched.operations) == 1
    shop.get("/one")
    assert found == [{CART: Cart([ITEM]), COUNT: 0}] * 2


@pytest.mark.parametrize(
    ("option", "fault"),
    [
        (5, "altsession: must be a key or several, not 5"),
        (b"ab", "altsession: a key must be a str or a SessionKey, not b'ab'"),
        (("cart", 5), "altsession: a key must be a str or a SessionKey, not 5"),
        ("@v", "altsession: a key must not be empty or begin with '@': '@v'"),
    ],
)
def test_view_option_of_another_type(option: object, fault: str) -> None:
    """A mistake of the programmer is found when the application starts."""

    def configure(config: Configurator) -> None:
        config.add_route("page", "/page")
        config.add_view(lambda r: "done", route_name="page", renderer="json", altsession=option)

    with pytest.raises(ConfigurationError, match=f": {re.escape(fault)}\n"):
        site("memory://", {}, configure=configure)


def test_remove_and_pop(api: SessionAPI, session: OpenSession) -> None:
    """remove takes typed keys, one or many, and pop gives the value with its type."""
    session.mset({CART: Cart([ITEM]), TAGS: {"a"}, "name": "Ann"})
    assert session.pop(CART) == Cart([ITEM])
    assert session.pop(CART) == Cart()
    assert session.remove([TAGS, "name", CART, "tags"]) == 2
    session.set(TAGS, {"b"})
    assert session.remove(TAGS) == 1
    assert later(api, session).all() == {}


def test_setdefault(api: SessionAPI, session: OpenSession) -> None:
    """setdefault stores what it is given, and gives what is stored, with its type."""
    assert session.setdefault(CART, Cart([ITEM])) == Cart([ITEM])
    assert later(api, session).setdefault(CART, Cart()) == Cart([ITEM])


def test_increment(session: OpenSession) -> None:
    """increment counts under a typed key and under its plain name alike."""
    assert [session.increment(COUNT), session.increment("count", 4)] == [1, 5]
    assert session.get(COUNT) == 5


def test_increment_of_a_newer_version(api: SessionAPI, session: OpenSession) -> None:
    """The first number has the key's version; later ones keep what they find."""
    newer = SessionKey("count", int, version=3)
    assert [session.increment(newer), session.increment("count")] == [1, 2]
    assert later(api, session).get(newer) == 2


@pytest.mark.parametrize("key", [CART, TAGS, SessionKey("k", bool), SessionKey("k", Color)])
def test_increment_of_no_number(
    key: SessionKey[Any, Any], session: OpenSession, watched: Watched
) -> None:
    """increment of a key whose type is no number is TypeError, and nothing is sent."""
    with watched.costs(0), pytest.raises(TypeError, match=key.name):
        session.increment(key)


BOUNDED = [
    Annotated[int, msgspec.Meta(ge=0)],
    Annotated[int, msgspec.Meta(le=10)],
    Annotated[int, msgspec.Meta(multiple_of=2)],
    Annotated[float, msgspec.Meta(ge=0)],
    Literal[1, 2],
    Level,
]


@pytest.mark.parametrize("by", [1, -1])
@pytest.mark.parametrize("kind", BOUNDED, ids=str)
def test_increment_of_a_type_with_bounds(
    kind: Any, by: int, session: OpenSession, watched: Watched
) -> None:
    """The server, which adds, does not check them: whatever the step, it is TypeError, which names
    the call that does."""
    key = SessionKey("count", kind)
    with watched.costs(0), pytest.raises(TypeError, match=r"modify\(\)"):
        session.increment(key, by)
    with watched.costs(0), pytest.raises(TypeError, match=r"modify\(\)"), session.batch() as batch:
        batch.increment(key, by)


def test_modify_of_a_type_with_bounds(session: OpenSession) -> None:
    """modify keeps them."""
    key = SessionKey("credits", Annotated[int, msgspec.Meta(ge=0)], default=int)
    assert session.modify(key, lambda credits: credits + 5) == 5
    assert session.modify(key, lambda credits: credits - 5) == 0
    with pytest.raises(TypeError, match="credits"):
        session.modify(key, lambda credits: credits - 1)
    assert session.get(key, fresh=True) == 0


@pytest.mark.parametrize("kind", [int | None, float, Any, NewType("Number", int)], ids=str)
def test_increment_of_types_that_take_any_number(kind: Any, session: OpenSession) -> None:
    """Where every whole number fits, increment may go up and down."""
    key = SessionKey("count", kind)
    assert [session.increment(key, by) for by in (2, -5)] == [2, -3]
    assert session.get(key) == -3


def test_compare_and_set(session: OpenSession) -> None:
    """Typed values are compared and stored."""
    assert session.compare_and_set(CART, None, Cart([ITEM]))
    assert not session.compare_and_set(CART, None, Cart())
    assert not session.compare_and_set(CART, Cart(), Cart())
    assert session.compare_and_set(CART, Cart([ITEM]), Cart(coupon="HALF"))
    assert session.get(CART, fresh=True) == Cart(coupon="HALF")


def test_compare_and_set_of_the_default(session: OpenSession) -> None:
    """What ``get`` gave where nothing is stored is what compare_and_set can expect."""
    seen = session.get(CART)
    assert session.compare_and_set(CART, seen, Cart([ITEM]))
    assert not session.compare_and_set(CART, seen, Cart(coupon="HALF"))
    assert session.get(CART, fresh=True) == Cart([ITEM])


def test_compare_and_set_of_a_set(session: OpenSession, watched: Watched) -> None:
    """Sets are equal whatever order another process wrote them in."""
    for order in (["a", "b", "c"], ["c", "b", "a"]):
        session.set("tags", order)
        assert session.compare_and_set(TAGS, {"b", "c", "a"}, {"d"})


def test_modify(session: OpenSession, watched: Watched) -> None:
    """modify works on the typed value, from the key's default on."""

    def add(cart: Cart) -> Cart:
        return Cart([*cart.items, ITEM])

    assert session.modify(CART, add) == Cart([ITEM])
    with watched.costs(2):
        assert session.modify(CART, add) == Cart([ITEM, ITEM])
    assert session.modify(TAGS, lambda tags: {*tags, "a"}, {"x"}) == {"x", "a"}


def test_batch(session: OpenSession, watched: Watched) -> None:
    """Typed keys in a batch give typed results."""
    with watched.costs(1), session.batch() as batch:
        batch.set(CART, Cart([ITEM]))
        handles = [
            *(batch.get(CART), batch.exists(CART), batch.setdefault(TAGS, {"a"})),
            *(batch.increment(COUNT, 2), batch.mget([COUNT, "cart"]), batch.pop(CART)),
            *(batch.remove(TAGS), batch.get(TAGS), batch.get(CART)),
        ]
    plain = msgspec.to_builtins(Cart([ITEM]))
    assert [handle.result() for handle in handles] == [
        *(Cart([ITEM]), True, {"a"}, 2, {COUNT: 2, "cart": plain}, Cart([ITEM]), 1, None, Cart())
    ]


# -- versions


class Old(msgspec.Struct):
    """The cart of version 1."""

    skus: list[str]


class New(msgspec.Struct):
    """The cart of version 2."""

    lines: dict[str, int]


def upgrade(found: Any, version: int) -> New:
    assert version == 1
    return New(dict.fromkeys(found["skus"], 1))


OLD = SessionKey("cart", Old)
NEW = SessionKey("cart", New, version=2, migrate=upgrade)


def test_rolling_deploy(store: Store) -> None:
    """Versions 1 and 2 of an application on the same sessions, forward and back."""
    first, second = [SessionAPI(read_settings({}), store=store) for _ in range(2)]
    session = first.create({OLD: Old(["a", "b"]), "name": "Ann"})
    token = token_of(session)
    untouched = token_of(first.create({OLD: Old(["x"]), "name": "Bob"}))
    # Version 2 reads what 1 wrote, and only what it sets becomes its own.
    assert second.open(token).get(NEW) == New({"a": 1, "b": 1})
    assert first.open(token).get(OLD) == Old(["a", "b"])
    newer = second.open(token)
    newer.modify(NEW, lambda cart: New({**cart.lines, "c": 3}))
    newer.set("theme", "dark")
    # Back on version 1 that one key is unreadable, and no other.
    older = first.open(token)
    with pytest.raises(CorruptValue, match="'cart' is of version 2, and 1 is wanted"):
        older.get(OLD)
    assert older.mget(["name", "theme"]) == {"name": "Ann", "theme": "dark"}
    older.increment("visits")
    assert first.open(untouched).get(OLD) == Old(["x"])
    assert older.exists(OLD)
    assert older.keys(fresh=True) == ["cart", "name", "theme", "visits"]
    # What version 1 could not read is whole for version 2.
    assert second.open(token).get(NEW) == New({"a": 1, "b": 1, "c": 3})
    assert second.open(token).get("cart") == {"lines": {"a": 1, "b": 1, "c": 3}}
    # Version 1 may start it anew, and 2 reads on.
    first.open(token).set(OLD, Old(["z"]))
    assert second.open(token).get(NEW) == New({"z": 1})


def test_migrating_writes_nothing(api: SessionAPI, session: OpenSession, watched: Watched) -> None:
    """Reading migrates each time; only a set writes the new version."""
    session.set(OLD, Old(["a"]))
    reader = later(api, session)
    with watched.costs(1):
        assert [reader.get(NEW), reader.get(NEW)] == [New({"a": 1})] * 2
        assert reader.mget([NEW]) == {NEW: New({"a": 1})}
    assert later(api, session).get(OLD) == Old(["a"])
    reader.set(NEW, reader.get(NEW))
    assert later(api, session).get("cart") == {"lines": {"a": 1}}
    with pytest.raises(CorruptValue, match="of version 2"):
        later(api, session).get(OLD)


@pytest.mark.parametrize(
    "read",
    [
        lambda s: s.get(NEW),
        lambda s: s.mget([NEW])[NEW],
        lambda s: s.setdefault(NEW, New({})),
        lambda s: s.pop(NEW),
        lambda s: s.modify(NEW, lambda found: found),
    ],
)
def test_every_reader_migrates(read: Act, session: OpenSession) -> None:
    """Whatever call reads a value of an older version, it gets it migrated."""
    session.set(OLD, Old(["a"]))
    assert read(session) == New({"a": 1})


def test_compare_and_set_across_versions(session: OpenSession) -> None:
    """What is compared is what ``get`` gives, not what an older version meant by it."""
    euros = SessionKey("price", int)
    cents = SessionKey("price", int, version=2, migrate=lambda found, version: found * 100)
    session.set(euros, 5)
    assert not session.compare_and_set(cents, 5, 600)
    assert session.compare_and_set(cents, 500, 600)
    assert session.get(cents, fresh=True) == 600


def test_migrate_gets_what_does_not_fit(session: OpenSession) -> None:
    """A value of the same version that does not fit goes through migrate too, as plain JSON."""
    seen: list[object] = []

    def repair(found: object, version: int) -> dict[str, object]:
        seen.append((found, version))
        return {"lines": {"a": 1}}

    session.set("cart", ["a"])
    assert session.get(SessionKey("cart", New, migrate=repair)) == New({"a": 1})
    assert seen == [(["a"], 1)]


@pytest.mark.parametrize(
    "migrate",
    [
        None,
        lambda found, version: 1 / 0,
        lambda found, version: {"lines": "none"},
        lambda found, version: object(),
        lambda found, version: New({"a": "b"}),  # type: ignore[dict-item]
        lambda found: New({}),
    ],
)
def test_corrupt(migrate: Any, api: SessionAPI, session: OpenSession, watched: Watched) -> None:
    """A value that does not fit, and is not migrated, is CorruptValue for its key alone; set and
    remove repair it, and until then its bytes stay."""
    key = SessionKey("cart", New, version=2, migrate=migrate)
    session.mset({"cart": ["canary"], "name": "Ann"})
    calls: list[Act] = [
        lambda s: s.get(key),
        lambda s: s.mget([key, "name"]),
        lambda s: s.setdefault(key, New({})),
        lambda s: s.modify(key, lambda found: found),
        lambda s: s.compare_and_set(key, New({}), New({"a": 1})),
    ]
    for call in calls:
        with pytest.raises(CorruptValue, match="'cart'") as caught:
            call(later(api, session))
        assert "canary" not in str(caught.value)
    assert later(api, session).all() == {"cart": ["canary"], "name": "Ann"}
    assert later(api, session).exists(key)
    later(api, session).set(key, New({"a": 1}))
    assert later(api, session).get(key) == New({"a": 1})
    session.set("cart", ["canary"])
    assert later(api, session).remove(key) == 1


def test_a_batch_with_a_corrupt_value(session: OpenSession) -> None:
    """In a batch too it is that one handle whose result raises."""
    session.mset({"cart": "canary", "name": "Ann"})
    with session.batch() as batch:
        cart, name = batch.get(CART), batch.get("name")
    assert name.result() == "Ann"
    with pytest.raises(CorruptValue, match="the value stored under 'cart' is no Cart"):
        cart.result()


def test_a_newer_version_without_migrate(session: OpenSession) -> None:
    """What a newer version of the application wrote is CorruptValue, also where it would fit."""
    session.set(SessionKey("count", int, version=2), 5)
    with pytest.raises(CorruptValue, match="'count' is of version 2, and 1 is wanted"):
        session.get(COUNT)
    assert session.get("count") == 5


# -- definitions


class Unknown:
    pass


class Holder(msgspec.Struct):
    things: dict[str, list[Unknown]]


def local() -> type:
    """A type whose parts cannot be found by their names."""

    class Lost(msgspec.Struct):
        part: "Nowhere"  # type: ignore[name-defined]  # noqa: F821

    return Lost


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: SessionKey("@v", int), InvalidKey, "must not be empty or begin with '@': '@v'"),
        (lambda: SessionKey("", int), InvalidKey, "must not be empty or begin with '@': ''"),
        (lambda: SessionKey("k" * 513, int), InvalidKey, "at most 512 bytes, not 513"),
        (lambda: SessionKey(7, int), InvalidKey, "must be a str or a SessionKey, not 7"),  # type: ignore[call-overload]
        *[
            (lambda version=version: SessionKey("k", int, version=version), ValueError,
             f"'k': version must be a whole number from 1, not {version!r}")
            for version in (0, -1, 10**9, 1.0, True, "1", None)
        ],
        *[
            (lambda ttl=ttl: SessionKey("k", int, ttl=ttl), ValueError,
             f"'k': ttl must be 0.001 seconds to 400 days, not {ttl!r}")
            for ttl in (0, -1, 0.0001, float("nan"), float("inf"), 401 * 86400)
        ],
        *[
            (lambda ttl=ttl: SessionKey("k", int, ttl=ttl), TypeError,
             f"'k': ttl must be a number of seconds, not {ttl!r}")
            for ttl in ("60", True, timedelta(seconds=60))
        ],
        *[
            (lambda default=default: SessionKey("k", int, default=default), TypeError,
             f"'k': default must be a function or class, not {default!r}")
            for default in (0, [], "x", Cart())
        ],
        (lambda: SessionKey("k", int, migrate="upgrade"), TypeError,  # type: ignore[call-overload]
         "'k': migrate must be a function or class, not 'upgrade'"),
        (lambda: SessionKey("k", Unknown), TypeError,
         f"'k': {Unknown!r} is no type for a session: type {Unknown!r} is not supported"),
        (lambda: SessionKey("k", Holder), TypeError,
         f"'k': {Holder!r} is no type for a session: type {Unknown!r} is not supported"),
        (lambda: SessionKey("k", complex), TypeError,
         "'k': <class 'complex'> is no type for a session: type <class 'complex'> is not"),
        (lambda: SessionKey("k", "Cart"), TypeError, "'k': 'Cart' is no type for a session"),  # type: ignore[call-overload]
        (lambda: SessionKey("k", Cart()), TypeError, "'k': Cart("),  # type: ignore[call-overload]
        (lambda: SessionKey("k", local()), TypeError, "name 'Nowhere' is not defined"),
        (lambda: SessionKey("k", datetime | str), TypeError, "more than one str-like type"),  # type: ignore[call-overload]
    ],
    ids=lambda part: inspect.getsource(part).strip()[:40] if inspect.isfunction(part) else "",
)  # fmt: skip
def test_bad_definition(make: Callable[[], object], error: type[Exception], message: str) -> None:
    """A faulty definition fails where it stands, with one line that names the key."""
    with pytest.raises(error) as caught:
        make()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_how_a_key_looks() -> None:
    """In messages and templates."""
    shown = [repr(CART), str(CART), repr(SessionKey("k", list[int]))]
    assert shown == ["SessionKey('cart', Cart)", "cart", "SessionKey('k', list[int])"]


def test_one_key_is_no_list_of_keys(session: OpenSession) -> None:
    """mget wants several keys, and says so."""
    with pytest.raises(
        InvalidKey, match=r"a list of keys, not one key: SessionKey\('cart', Cart\)"
    ):
        session.mget(CART)  # type: ignore[arg-type]


class Shown(str):
    """A text that shows itself as another one."""

    def __str__(self) -> str:
        return "@v"


def test_key_that_shows_itself_as_another_one(session: OpenSession) -> None:
    """What counts is its text; what it shows as does not become a key that is allowed."""
    session.set(Shown("a"), 1)
    with pytest.raises(InvalidKey):
        session.set("@v", "planted")
    (found,) = session.keys()
    assert (found, type(found)) == ("a", str)


@pytest.mark.parametrize(
    "value",
    [{1: "a", "1": "b"}, {"1": "a", 1: "b"}],
)
def test_dict_whose_keys_become_one(session: OpenSession, value: dict[int | str, str]) -> None:
    """It is refused, because one of its values would be lost."""
    key = SessionKey("k", list[dict[int | str, str]])
    with pytest.raises(TypeError, match="two keys of a dict would be stored as the same text"):
        session.set(key, [value])
    assert not session.exists("k")
    session.set(key, [{1: "a", "2": "b"}])
    assert session.get("k", fresh=True) == [{"1": "a", "2": "b"}]


def test_keys_beyond_those_that_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many keys are remembered as good ones is limited; all others are looked at anew."""
    monkeypatch.setattr("pyramid_altsession.protocol.keys._MOST_KNOWN", 0)
    assert field_name("a key that no other test has") == "a key that no other test has"
