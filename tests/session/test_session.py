"""AltSession, key by key, on every store: what each call gives, costs and refuses."""

import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from accounts import api_on, id_of
from apps import Behind, Browser, Watched
from inside import state_in
from pyramid.response import Response

from pyramid_altsession import (
    AltSession,
    CorruptValue,
    IAltSession,
    InvalidKey,
    ISessionAPI,
    SessionAPI,
    SessionGone,
    StoreFull,
    StoreUnavailable,
    ValueTooLarge,
)
from pyramid_altsession.config.sources import read_settings
from pyramid_altsession.events import SessionCreated, SessionInvalidated, TokenRejected
from pyramid_altsession.interfaces import Store
from pyramid_altsession.protocol.messages import Operation, Read, Write
from pyramid_altsession.stores.memory import MemoryStore

Act = Callable[[AltSession], Any]


@pytest.fixture
def api(watched: Watched) -> SessionAPI:
    return api_on(watched)


@pytest.fixture
def browser(api: SessionAPI) -> Browser:
    """A browser without a cookie."""
    return Browser(api)


@pytest.fixture
def known(browser: Browser) -> Browser:
    """A browser whose session holds cart and name."""
    browser.does(lambda s: s.mset({"cart": [1, 2], "name": "Ann"}))
    return browser


# -- reads


def test_get_gives_the_value(known: Browser) -> None:
    """get returns what was set in an earlier request."""
    assert known.visit().get("cart") == [1, 2]


def test_get_gives_the_default(known: Browser) -> None:
    """get returns the default where there is no such key."""
    assert [known.visit().get("nope"), known.visit().get("nope", 7)] == [None, 7]


def test_stored_null_is_a_value(known: Browser) -> None:
    """A stored None is a value of its own: get does not fall back to the default."""
    known.does(lambda s: s.set("nothing", None))
    session = known.visit()
    assert (session.get("nothing", 7), session.exists("nothing")) == (None, True)


@pytest.mark.parametrize(
    "value",
    ["", "päß ⚡", 0, -1, 2**63, 1.5, True, False, [], {}, [1, [2, {"a": None}]], {"": {"b": []}}],
    ids=repr,
)
def test_values_come_back_equal(browser: Browser, value: object) -> None:
    """Every kind of JSON value comes back equal and of the same type."""
    browser.does(lambda s: s.set("k", value))
    found = browser.visit().get("k")
    assert (found, type(found)) == (value, type(value))


def test_tuples_come_back_as_lists(browser: Browser) -> None:
    """A tuple comes back as a list."""
    browser.does(lambda s: s.set("k", (1, (2,))))
    assert browser.visit().get("k") == [1, [2]]


def test_mget_gives_every_asked_key(known: Browser) -> None:
    """mget has an entry for every asked key, in order, with the default where none is stored."""
    found = known.visit().mget(["name", "nope", "cart", "name"], "-")
    assert list(found.items()) == [("name", "Ann"), ("nope", "-"), ("cart", [1, 2])]


def test_mget_takes_any_iterable(known: Browser) -> None:
    """mget takes a generator of keys."""
    assert known.visit().mget(key for key in ("name",)) == {"name": "Ann"}


def test_mget_of_nothing_costs_nothing(known: Browser, watched: Watched) -> None:
    """mget without keys is an empty dict and no command."""
    with watched.costs(0):
        assert known.visit().mget([]) == {}


def test_all_gives_every_key(known: Browser) -> None:
    """all returns every key of the application and none of ours."""
    assert known.visit().all() == {"cart": [1, 2], "name": "Ann"}


def test_keys_are_sorted(known: Browser) -> None:
    """keys returns the application's keys in order."""
    assert known.visit().keys() == ["cart", "name"]


def test_exists_of_the_session(known: Browser, api: SessionAPI) -> None:
    """exists tells whether the session is alive."""
    assert (known.visit().exists(), Browser(api).visit().exists()) == (True, False)


def test_exists_of_a_key(known: Browser) -> None:
    """exists with a key tells whether it is stored."""
    session = known.visit()
    assert (session.exists("cart"), session.exists("nope")) == (True, False)


def test_exists_does_not_decode(known: Browser, behind: Behind) -> None:
    """exists of a corrupt value is True."""
    behind.put(id_of(known), "cart", b"{broken")
    assert known.visit().exists("cart") is True


def test_created_is_the_servers_time_of_birth(known: Browser, behind: Behind) -> None:
    """created is when the session was made, as the hash says, in UTC."""
    milliseconds = int(behind.fields(id_of(known))["@c"])
    expected = datetime.fromtimestamp(milliseconds / 1000, UTC)
    assert known.visit().created() == expected


def test_created_of_a_session_just_made(browser: Browser, watched: Watched) -> None:
    """The request that made the session knows created without asking; before it is None."""
    session = browser.visit()
    before = session.created()
    session.set("k", 1)
    with watched.costs(0):
        made = session.created()
    browser.answer()
    assert (before, made) == (None, browser.visit().created())


def test_ttl_is_the_time_left(known: Browser, behind: Behind) -> None:
    """ttl is what the key has left, in seconds."""
    behind.end_in(id_of(known), 600)
    assert known.visit().ttl() == pytest.approx(600, abs=2)


def test_ttl_never_extends(known: Browser, behind: Behind) -> None:
    """ttl leaves the key's end alone even when a touch is long due."""
    behind.end_in(id_of(known), 30)
    session = known.visit()
    session.ttl()
    session.ttl()
    assert behind.left(id_of(known)) <= 30


def test_ttl_asks_each_time(known: Browser, watched: Watched, behind: Behind) -> None:
    """ttl is one round trip, remembered by nobody."""
    session = known.visit()
    with watched.costs(2):
        first = session.ttl()
        behind.end_in(id_of(known), 100)
        second = session.ttl()
    assert (first, second) == (pytest.approx(1320, abs=2), pytest.approx(100, abs=2))


# -- the ancestor's calls


def test_the_ancestors_calls(browser: Browser) -> None:
    """set, get, mget, mset, remove, invalidate and touch do what npm alt-session's do."""
    session = browser.visit()
    session.set("myKey", "myValue")
    session.mset({"myKey1": "a", "myKey2": {"b": [1]}})
    browser.answer()

    session = browser.visit()
    assert session.get("myKey") == "myValue"
    assert session.mget(["myKey1", "myKey2"]) == {"myKey1": "a", "myKey2": {"b": [1]}}
    assert session.touch() is True
    session.remove("myKey")
    session.remove(["myKey1", "myKey2"])
    assert session.all() == {}
    session.invalidate()
    browser.answer()

    assert browser.jar is None
    assert browser.visit().get("myKey") is None


def test_the_ancestors_middleware_recipe(known: Browser) -> None:
    """Keys fetched before a handler and stored after it make a synchronous session."""
    session = known.visit()
    plain = session.mget(["cart"])
    plain["cart"].append(3)
    session.mset(plain)
    known.answer()
    assert known.visit().get("cart") == [1, 2, 3]


# -- writes


def test_first_write_makes_a_session(browser: Browser, behind: Behind) -> None:
    """The first write of a visitor without a cookie makes a session and sets its cookie."""
    session = browser.visit()
    assert (session.id, session.new) == (None, False)
    session.set("k", 1)
    browser.answer()
    assert (session.id, session.new) == (id_of(browser), True)
    assert behind.ids() == [session.id]


def test_mset_of_nothing_costs_nothing(browser: Browser, watched: Watched) -> None:
    """mset({}) is no command and makes no session."""
    with watched.costs(0):
        browser.visit().mset({})


def test_remove_counts(known: Browser) -> None:
    """remove tells how many of the keys were there, each counted once."""
    assert known.visit().remove(["cart", "nope", "name", "cart"]) == 2
    assert known.visit().all() == {}


def test_remove_of_one_key(known: Browser) -> None:
    """remove takes one str as one key."""
    session = known.visit()
    assert [session.remove("cart"), session.remove("cart")] == [1, 0]


def test_remove_of_nothing_costs_nothing(known: Browser, watched: Watched) -> None:
    """remove([]) is 0 and no command."""
    with watched.costs(0):
        assert known.visit().remove([]) == 0


def test_a_session_without_keys_lives(known: Browser) -> None:
    """Removing the last key does not end the session."""
    known.does(lambda s: s.remove(["cart", "name"]))
    assert known.visit().exists() is True


def test_pop_takes_out(known: Browser) -> None:
    """pop returns the value once, then the default."""
    assert known.does(lambda s: s.pop("name")) == "Ann"
    assert known.does(lambda s: s.pop("name", "-")) == "-"


def test_setdefault_keeps_what_is_there(known: Browser) -> None:
    """setdefault returns the stored value where there is one."""
    assert known.does(lambda s: s.setdefault("name", "Bob")) == "Ann"
    assert known.visit().get("name") == "Ann"


def test_setdefault_stores(known: Browser) -> None:
    """setdefault stores and returns the given value where there is none."""
    assert known.does(lambda s: s.setdefault("n", (1,))) == [1]
    assert known.visit().get("n") == [1]


def test_increment_counts_from_zero(known: Browser) -> None:
    """increment adds to 0 where nothing is stored, and to the stored number afterwards."""
    session = known.visit()
    sums = [session.increment("n"), session.increment("n", 5), session.increment("n", -7)]
    assert sums == [1, 6, -1]
    assert known.visit().get("n") == -1


@pytest.mark.parametrize("stored", ["Ann", 1.5, [1], None, True, "7"], ids=repr)
def test_increment_of_no_number(known: Browser, stored: object) -> None:
    """increment of something else is a TypeError, and leaves it as it is."""
    known.does(lambda s: s.set("x", stored))
    session = known.visit()
    with pytest.raises(TypeError, match=r"increment\('x'\): the stored value is no whole number"):
        session.increment("x")
    assert known.visit().get("x") == stored


def test_increment_beyond_the_safe_integers(known: Browser) -> None:
    """A sum beyond what JSON carries everywhere is a TypeError, and nothing is written."""
    known.does(lambda s: s.set("x", 2**53 - 2))
    assert known.does(lambda s: s.increment("x")) == 2**53 - 1
    with pytest.raises(TypeError, match="the sum is too large"):
        known.visit().increment("x")
    assert known.visit().get("x") == 2**53 - 1


@pytest.mark.parametrize("by", [2**53, -(2**53), 10**5000], ids=["2**53", "-2**53", "10**5000"])
def test_increment_by_too_much(known: Browser, watched: Watched, by: int) -> None:
    """A step beyond what JSON carries everywhere is a TypeError before anything is sent."""
    with watched.costs(0), pytest.raises(TypeError, match=r"by must be within ±\(2\*\*53 - 1\)"):
        known.visit().increment("x", by)


@pytest.mark.parametrize("by", [True, 1.0, "1", None], ids=repr)
def test_increment_by_no_number(known: Browser, watched: Watched, by: Any) -> None:
    """increment by anything but a whole number is a TypeError before anything is sent."""
    with watched.costs(0), pytest.raises(TypeError, match="by must be a whole number"):
        known.visit().increment("x", by)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.mset([("a", 1)]), "mset: wanted a mapping of keys to values, not list"),
        (lambda s: s.login("ann", info="phone"), "login: info must be a mapping, not str"),
    ],
    ids=["mset", "login"],
)
def test_no_mapping(known: Browser, watched: Watched, call: Any, message: str) -> None:
    """What has to be a mapping is looked at before anything is sent."""
    with watched.costs(0), pytest.raises(TypeError, match=message):
        call(known.visit())


def test_compare_and_set_on_equal(known: Browser) -> None:
    """compare_and_set stores when the stored value equals the expected one."""
    assert known.does(lambda s: s.compare_and_set("name", "Ann", "Bob")) is True
    assert known.visit().get("name") == "Bob"


def test_compare_and_set_on_other(known: Browser) -> None:
    """compare_and_set leaves another value alone."""
    assert known.does(lambda s: s.compare_and_set("name", "Cid", "Bob")) is False
    assert known.visit().get("name") == "Ann"


def test_compare_and_set_with_none(known: Browser) -> None:
    """An expected None stands for no value, and for a stored None."""
    known.does(lambda s: s.set("null", None))
    session = known.visit()
    done = [session.compare_and_set(key, None, 1) for key in ("fresh", "null", "name")]
    assert done == [True, True, False]


def test_compare_and_set_without_a_value(known: Browser) -> None:
    """An expected value where none is stored is no success."""
    assert known.visit().compare_and_set("fresh", 1, 2) is False


@pytest.mark.parametrize("expected", [{"a": 1, "b": [1, 2]}, {"b": (1, 2), "a": 1}])
def test_compare_and_set_sees_through_other_json(
    known: Browser, behind: Behind, watched: Watched, expected: object
) -> None:
    """The same value in other JSON (spaces, order, from a tuple) is equal, for one more trip."""
    behind.put(id_of(known), "x", b'{ "b": [1, 2], "a": 1 }')
    with watched.costs(2):
        assert known.visit().compare_and_set("x", expected, "new") is True
    assert known.visit().get("x") == "new"


def test_compare_and_set_gives_up(known: Browser, behind: Behind, watched: Watched) -> None:
    """compare_and_set is False when the same value is stored anew in other JSON each time."""
    spaces = iter(range(1, 1000))

    def rewrite(operation: Operation) -> None:
        behind.put(id_of(known), "x", b" " * next(spaces) + b"1")

    watched.before = rewrite
    with watched.costs(100):
        assert known.visit().compare_and_set("x", 1, 2) is False


def test_modify_applies_the_function(known: Browser, watched: Watched) -> None:
    """modify returns and stores function(value) in two round trips."""
    with watched.costs(2):
        assert known.does(lambda s: s.modify("cart", lambda cart: [*cart, 3])) == [1, 2, 3]
    assert known.visit().get("cart") == [1, 2, 3]


def test_modify_starts_with_the_default(browser: Browser) -> None:
    """modify gives the default to the function where nothing is stored, and makes a session."""
    assert browser.does(lambda s: s.modify("n", lambda n: n + 1, 41)) == 42
    assert browser.visit().get("n") == 42


def test_modify_again_when_somebody_was_faster(known: Browser, behind: Behind) -> None:
    """modify applies the function to the newer value when one was stored in between."""
    seen = []

    def add(cart: list[int]) -> list[int]:
        seen.append(cart)
        if len(seen) == 1:
            behind.put(id_of(known), "cart", b"[9]")
        return [*cart, 3]

    assert known.does(lambda s: s.modify("cart", add)) == [9, 3]
    assert seen == [[1, 2], [9]]


def test_modify_gives_up(known: Browser, behind: Behind) -> None:
    """modify raises RuntimeError after a hundred tries."""
    numbers = iter(range(1000))

    def disturbed(cart: object) -> str:
        behind.put(id_of(known), "cart", b"%d" % next(numbers))
        return "mine"

    with pytest.raises(RuntimeError, match=r"modify\('cart'\): other requests were faster 100"):
        known.visit().modify("cart", disturbed)


def test_touch_restarts_the_time_to_idle(known: Browser, behind: Behind) -> None:
    """touch gives the key tti + touch_interval from now."""
    behind.end_in(id_of(known), 30)
    assert known.visit().touch() is True
    assert behind.left(id_of(known)) == pytest.approx(1320, abs=2)


@pytest.mark.parametrize(
    "write",
    [
        lambda s: s.set("k", 1),
        lambda s: s.remove("nope"),
        lambda s: s.increment("n"),
        lambda s: s.compare_and_set("name", "Cid", 1),
        lambda s: s.renew(),
    ],
    ids=["set", "remove", "increment", "compare_and_set", "renew"],
)
def test_every_write_restarts_the_time_to_idle(known: Browser, behind: Behind, write: Act) -> None:
    """Each write, even one that changes nothing, counts as a use."""
    behind.end_in(id_of(known), 30)
    known.does(write)
    assert behind.left(id_of(known)) == pytest.approx(1320, abs=2)


def test_renew_changes_the_cookie_alone(known: Browser, behind: Behind) -> None:
    """renew gives a new verifier to the same id and data."""
    old = known.jar
    session = known.visit()
    assert session.renew() is True
    known.answer()
    assert known.jar != old
    assert id_of(known) == str(old).partition(".")[0] == session.id
    assert known.visit().all() == {"cart": [1, 2], "name": "Ann"}


def test_renewed_away_cookie_reads_nothing(known: Browser) -> None:
    """The cookie from before renew reads the default and refuses writes."""
    old = Browser(known.api, known.jar)
    known.does(lambda s: s.renew())
    assert old.visit().get("name") is None
    with pytest.raises(SessionGone):
        old.visit().set("name", "Eve")
    assert known.visit().get("name") == "Ann"


def test_request_goes_on_after_its_own_renew(known: Browser) -> None:
    """The request that renewed reads and writes on."""
    session = known.visit()
    session.renew()
    session.set("name", "Bob")
    assert session.get("cart") == [1, 2]
    known.answer()
    assert known.visit().get("name") == "Bob"


def test_invalidate_forgets_everything(known: Browser, behind: Behind) -> None:
    """invalidate leaves nothing but a tombstone that ends with gone_window; cookie dropped."""
    id = id_of(known)
    session = known.visit()
    assert session.invalidate() is True
    known.answer()
    assert (known.jar, session.id) == (None, None)
    assert [name[:1] for name in behind.fields(id)] == ["@"]
    assert set(behind.fields(id)) == {"@x"}
    assert 0 < behind.left(id) <= 10


def test_no_tombstone_without_a_window(store: Store, behind: Behind) -> None:
    """With gone_window = 0 invalidate leaves nothing at all."""
    browser = Browser(api_on(store, gone_window=0))
    browser.does(lambda s: s.set("k", 1))
    browser.does(lambda s: s.invalidate())
    assert behind.ids() == []


def test_write_after_own_invalidate_starts_anew(known: Browser) -> None:
    """After invalidate the same request may start a new session; nothing old is in it."""
    old = id_of(known)
    session = known.visit()
    session.invalidate()
    assert session.get("name") is None
    session.set("k", 1)
    known.answer()
    assert id_of(known) != old
    assert known.visit().all() == {"k": 1}


def test_session_made_and_ended_in_one_request(browser: Browser) -> None:
    """set and invalidate in one request without a cookie leave no cookie at all."""
    session = browser.visit()
    session.set("k", 1)
    session.invalidate()
    response = browser.answer()
    assert (response.headers.getall("Set-Cookie"), session.new) == ([], False)


def test_repr_shows_state_and_id(known: Browser) -> None:
    """repr tells where the request stands with its session, and the id alone."""
    session = known.visit()
    assert repr(session) == "<AltSession unseen None>"
    session.exists()
    assert repr(session) == f"<AltSession alive {id_of(known)}>"


def test_interface_is_provided(known: Browser, api: SessionAPI) -> None:
    """Sessions provide IAltSession and have every name that it promises; likewise the API."""
    session = known.visit()
    assert IAltSession.providedBy(session)
    assert ISessionAPI.providedBy(api)
    assert [name for name in IAltSession if not hasattr(session, name)] == []
    assert [name for name in ISessionAPI if not hasattr(api, name)] == []


# -- without a session


READS: dict[str, tuple[Act, object]] = {
    "get": (lambda s: s.get("k"), None),
    "mget": (lambda s: s.mget(["k"]), {"k": None}),
    "all": (lambda s: s.all(), {}),
    "keys": (lambda s: s.keys(), []),
    "exists": (lambda s: s.exists(), False),
    "exists key": (lambda s: s.exists("k"), False),
    "created": (lambda s: s.created(), None),
    "ttl": (lambda s: s.ttl(), None),
}
FRUITLESS: dict[str, tuple[Act, object]] = {
    "remove": (lambda s: s.remove(["k", "l"]), 0),
    "pop": (lambda s: s.pop("k", "-"), "-"),
    "touch": (lambda s: s.touch(), False),
    "renew": (lambda s: s.renew(), False),
    "invalidate": (lambda s: s.invalidate(), False),
    "compare_and_set": (lambda s: s.compare_and_set("k", 1, 2), False),
}
STARTERS: dict[str, tuple[Act, object]] = {
    "set": (lambda s: s.set("k", 1), None),
    "mset": (lambda s: s.mset({"k": 1}), None),
    "setdefault": (lambda s: s.setdefault("k", 1), 1),
    "increment": (lambda s: s.increment("k"), 1),
    "compare_and_set": (lambda s: s.compare_and_set("k", None, 1), True),
    "modify": (lambda s: s.modify("k", lambda v: 1), 1),
}


def cases(table: dict[str, tuple[Act, object]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("act", "expected"), table.values(), ids=table)


@cases(READS | FRUITLESS)
def test_without_cookie_nothing_is_asked(
    browser: Browser, watched: Watched, act: Act, expected: object
) -> None:
    """Without a cookie, reads and writes that store nothing cost no command and set no cookie."""
    with watched.costs(0):
        assert browser.does(act) == expected
    assert browser.jar is None


@cases(READS)
def test_expired_cookie_reads_as_no_session(
    known: Browser, behind: Behind, watched: Watched, act: Act, expected: object
) -> None:
    """With an expired cookie a read finds nothing, once asked, and the cookie is left alone."""
    behind.end_in(id_of(known), 0)
    jar = known.jar
    session = known.visit()
    with watched.costs(1):
        assert act(session) == expected
        assert act(session) == expected
    assert known.answer().headers.getall("Set-Cookie") == []
    assert known.jar == jar


@cases({name: case for name, case in FRUITLESS.items() if name != "invalidate"})
def test_expired_cookie_and_nothing_to_store(
    known: Browser, behind: Behind, watched: Watched, act: Act, expected: object
) -> None:
    """With an expired cookie a write that stores nothing costs one command and starts nothing."""
    behind.end_in(id_of(known), 0)
    jar = known.jar
    with watched.costs(1):
        assert known.does(act) == expected
    assert (known.jar, behind.ids()) == (jar, [])


def test_invalidate_with_an_expired_cookie_drops_it(
    known: Browser, behind: Behind, watched: Watched
) -> None:
    """invalidate on a session long dead is no error, and drops the cookie."""
    behind.end_in(id_of(known), 0)
    with watched.costs(1):
        assert known.does(lambda s: s.invalidate()) is False
    assert known.jar is None


@cases(STARTERS)
def test_writes_that_start_a_session(
    browser: Browser, watched: Watched, act: Act, expected: object
) -> None:
    """Each write that stores something starts a session with one command."""
    with watched.costs(1):
        assert browser.does(act) == expected
    assert browser.visit().get("k") == 1


@cases({name: case for name, case in STARTERS.items() if name != "modify"})
def test_expired_cookie_costs_a_second_command(
    known: Browser, behind: Behind, watched: Watched, act: Act, expected: object
) -> None:
    """With an expired cookie a write starts a session of another id with two commands."""
    old = id_of(known)
    behind.end_in(old, 0)
    with watched.costs(2):
        assert known.does(act) == expected
    assert (known.visit().all(), id_of(known) == old) == ({"k": 1}, False)


def test_wrong_verifier_harms_nothing(known: Browser, watched: Watched) -> None:
    """A guessed verifier reads nothing, its write starts another session; the owner keeps all."""
    guess = Browser(known.api, f"{id_of(known)}.{'A' * 43}")
    assert guess.visit().all() == {}
    guess.does(lambda s: s.set("name", "Eve"))
    assert id_of(guess) != id_of(known)
    assert known.visit().all() == {"cart": [1, 2], "name": "Ann"}


def test_name_already_taken_gets_another(
    api: SessionAPI, known: Browser, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new session never takes a name that is in use: it is made under a further one."""
    ids = iter([id_of(known), "B" * 22])
    monkeypatch.setattr("secrets.token_urlsafe", lambda n: next(ids) if n == 16 else "v" * 43)
    with watched.costs(2):
        session = api.create({"k": 1})
    assert (session.id, session.all()) == ("B" * 22, {"k": 1})
    assert known.visit().get("name") == "Ann"


# -- gone


EVERY: dict[str, Act] = {
    "get": lambda s: s.get("new"),
    "get again": lambda s: s.get("name"),
    "mget": lambda s: s.mget(["name", "new"]),
    "all": lambda s: s.all(),
    "keys": lambda s: s.keys(),
    "exists": lambda s: s.exists(fresh=True),
    "exists key": lambda s: s.exists("new"),
    "created": lambda s: s.created(),
    "ttl": lambda s: s.ttl(),
    "set": lambda s: s.set("k", 1),
    "mset": lambda s: s.mset({"k": 1}),
    "remove": lambda s: s.remove("name"),
    "pop": lambda s: s.pop("name"),
    "setdefault": lambda s: s.setdefault("k", 1),
    "increment": lambda s: s.increment("k"),
    "compare_and_set": lambda s: s.compare_and_set("k", None, 1),
    "modify": lambda s: s.modify("k", lambda v: 1),
    "touch": lambda s: s.touch(),
    "renew": lambda s: s.renew(),
    "invalidate": lambda s: s.invalidate(),
}
every = pytest.mark.parametrize("act", EVERY.values(), ids=EVERY)


@pytest.mark.parametrize("end", ["renew", "invalidate", "expire"])
@every
def test_seen_alive_then_gone(known: Browser, behind: Behind, act: Act, end: str) -> None:
    """A session seen alive that ends under a request is SessionGone at the next call that asks,
    and at every call from then on; the browser's cookie is left alone."""
    slow = Browser(known.api, known.jar)
    session = slow.visit()
    assert session.get("name") == "Ann"
    if end == "expire":
        behind.end_in(id_of(known), 0)
    else:
        known.does(EVERY[end])
    ids = behind.ids()
    if act is EVERY["get again"]:
        assert act(session) == "Ann"  # remembered, and nothing was asked
    else:
        with pytest.raises(SessionGone):
            act(session)
        for call in EVERY.values():
            with pytest.raises(SessionGone):
                call(session)
    assert slow.answer().headers.getall("Set-Cookie") == []
    assert behind.ids() == ids


def test_exists_of_a_session_known_alive(known: Browser, watched: Watched) -> None:
    """exists of a session that this request has seen alive costs nothing."""
    session = known.visit()
    session.get("name")
    with watched.costs(0):
        assert session.exists() is True


def test_gone_is_told_by_id(known: Browser) -> None:
    """A session that went away under the request keeps its id, for the log."""
    session = known.visit()
    session.exists()
    Browser(known.api, known.jar).does(lambda s: s.invalidate())
    with pytest.raises(SessionGone):
        session.set("k", 1)
    assert session.id == id_of(known)


def test_refused_verb_counts_as_seen_alive(known: Browser) -> None:
    """An increment that was refused has seen the session alive: afterwards it can be gone."""
    session = known.visit()
    with pytest.raises(TypeError):
        session.increment("name")
    Browser(known.api, known.jar).does(lambda s: s.invalidate())
    with pytest.raises(SessionGone):
        session.get("name")


WRITES = {name: EVERY[name] for name in list(EVERY)[9:]}


@pytest.mark.parametrize("act", [a for n, a in WRITES.items() if n != "modify"],
                         ids=[n for n in WRITES if n != "modify"])  # fmt: skip
def test_cookie_renewed_just_now(known: Browser, behind: Behind, act: Act) -> None:
    """With a cookie that another request renewed just now every write is SessionGone, at once
    and after a read too; nothing is made, and the cookie is left alone."""
    old = Browser(known.api, known.jar)
    known.does(lambda s: s.renew())
    with pytest.raises(SessionGone):
        act(old.visit())
    assert old.answer().headers.getall("Set-Cookie") == []
    session = old.visit()
    assert session.all() == {}
    with pytest.raises(SessionGone):
        act(session)
    assert behind.ids() == [id_of(known)]
    assert known.visit().all() == {"cart": [1, 2], "name": "Ann"}


@pytest.mark.parametrize(
    "act",
    [a for n, a in WRITES.items() if n != "invalidate"],
    ids=[n for n in WRITES if n != "invalidate"],
)
def test_cookie_invalidated_just_now(known: Browser, behind: Behind, act: Act) -> None:
    """With a cookie whose session was ended just now every write is SessionGone."""
    old = Browser(known.api, known.jar)
    known.does(lambda s: s.invalidate())
    with pytest.raises(SessionGone):
        act(old.visit())
    assert behind.ids() == [id_of(old)]  # the tombstone
    assert old.visit().all() == {}


def test_second_logout_is_no_error(known: Browser) -> None:
    """invalidate of a session that another request ended just now is no error, and leaves the
    cookie to the answer that ended it."""
    slow = Browser(known.api, known.jar)
    jar = slow.jar
    known.does(lambda s: s.invalidate())
    assert slow.does(lambda s: s.invalidate()) is False
    assert slow.jar == jar


def test_write_after_a_second_logout(known: Browser) -> None:
    """After invalidate found a session that another request ended just now, a write of the same
    request starts nothing either."""
    slow = Browser(known.api, known.jar).visit()
    known.does(lambda s: s.invalidate())
    assert slow.invalidate() is False
    with pytest.raises(SessionGone):
        slow.set("k", 1)


@pytest.mark.parametrize("end", ["renew", "invalidate"])
def test_after_the_window(known: Browser, behind: Behind, end: str) -> None:
    """gone_window seconds later the old cookie is one without a session: its write starts one."""
    old = Browser(known.api, known.jar)
    known.does(EVERY[end])
    behind.pass_time(id_of(old), 10)
    old.does(lambda s: s.set("k", 1))
    assert old.visit().all() == {"k": 1}


def test_invalidate_with_a_stale_cookie(known: Browser, behind: Behind) -> None:
    """invalidate with a cookie renewed long ago drops that cookie; the session lives on."""
    old = Browser(known.api, known.jar)
    known.does(lambda s: s.renew())
    behind.pass_time(id_of(old), 10)
    assert old.does(lambda s: s.invalidate()) is False
    assert old.jar is None
    assert known.visit().get("name") == "Ann"


def test_own_age_is_added_to_the_window(known: Browser, behind: Behind) -> None:
    """A request that began before the cookie was replaced stays refused however slow it is."""
    slow = Browser(known.api, known.jar)
    session = slow.visit()
    state_in(session).began -= 60
    known.does(lambda s: s.renew())
    behind.pass_time(id_of(known), 60)
    with pytest.raises(SessionGone):
        session.set("k", 1)


def test_no_window_at_all(store: Store) -> None:
    """With gone_window = 0 a write with a renewed-away cookie starts a session at once, even in
    a slow request."""
    browser = Browser(api_on(store, gone_window=0))
    browser.does(lambda s: s.set("k", 1))
    old = Browser(browser.api, browser.jar)
    session = old.visit()
    state_in(session).began -= 60
    browser.does(lambda s: s.renew())
    session.set("k", 2)
    assert browser.visit().get("k") == 1


# -- cache


def test_each_key_is_read_once(known: Browser, watched: Watched) -> None:
    """A key, there or not, is asked for once per request."""
    session = known.visit()
    with watched.costs(1):
        session.mget(["name", "nope"])
        assert [session.get("name"), session.get("nope"), session.exists("name")] == [
            "Ann",
            None,
            True,
        ]


def test_mget_asks_only_for_what_is_unknown(known: Browser, watched: Watched) -> None:
    """mget fetches the keys that were not read yet, and no others."""
    session = known.visit()
    session.get("name")
    session.mget(["name", "cart"])
    last = watched.operations[-1]
    assert isinstance(last, Read)
    assert last.fields == ("cart",)


def test_after_all_everything_is_known(known: Browser, watched: Watched) -> None:
    """After all or keys no read asks the server again."""
    session = known.visit()
    with watched.costs(1):
        session.keys()
        session.all()
        session.mget(["cart", "nope"])
        session.created()


def test_new_session_is_known_whole(browser: Browser, watched: Watched) -> None:
    """The request that made the session reads it without a command."""
    session = browser.visit()
    with watched.costs(1):
        session.mset({"a": 1, "b": 2})
        assert session.all() == {"a": 1, "b": 2}
        assert session.get("c") is None
        assert session.exists() is True


FRESH: dict[str, tuple[Act, object]] = {
    "get": (lambda s: s.get("name", fresh=True), "Bob"),
    "mget": (lambda s: s.mget(["name"], fresh=True), {"name": "Bob"}),
    "all": (lambda s: s.all(fresh=True), {"cart": [1, 2], "name": "Bob"}),
    "keys": (lambda s: s.keys(fresh=True), ["cart", "name"]),
    "exists": (lambda s: s.exists(fresh=True), True),
    "exists key": (lambda s: s.exists("name", fresh=True), True),
}


@cases(FRESH)
def test_fresh_asks_again(
    known: Browser, watched: Watched, behind: Behind, act: Act, expected: object
) -> None:
    """fresh=True asks the server although everything is remembered."""
    session = known.visit()
    session.all()
    behind.put(id_of(known), "name", b'"Bob"')
    with watched.costs(1):
        assert act(session) == expected


def test_mutated_value_does_not_leak(known: Browser) -> None:
    """A list changed in place is not what the next get returns."""
    session = known.visit()
    session.get("cart").append(3)
    assert session.get("cart") == [1, 2]
    session.all()["cart"].append(3)
    assert session.mget(["cart"]) == {"cart": [1, 2]}


def test_value_changed_after_set_does_not_leak(known: Browser) -> None:
    """A list changed after set is remembered as it was stored."""
    session = known.visit()
    cart = [7]
    session.set("cart", cart)
    cart.append(8)
    assert session.get("cart") == [7]


REMEMBERED: dict[str, tuple[Act, object]] = {
    "set": (lambda s: s.set("n", 5), 5),
    "mset": (lambda s: s.mset({"n": 6}), 6),
    "remove": (lambda s: s.remove("n"), None),
    "pop": (lambda s: s.pop("n"), None),
    "setdefault": (lambda s: s.setdefault("n", 7), 1),
    "increment": (lambda s: s.increment("n"), 2),
    "compare_and_set": (lambda s: s.compare_and_set("n", 1, 8), 8),
    "failed compare_and_set": (lambda s: s.compare_and_set("n", 9, 8), 1),
    "modify": (lambda s: s.modify("n", lambda n: n + 10), 11),
}


@cases(REMEMBERED)
def test_own_writes_are_remembered(
    known: Browser, watched: Watched, act: Act, expected: object
) -> None:
    """After a write the key's value is known without asking, atomic results included."""
    known.does(lambda s: s.set("n", 1))
    session = known.visit()
    session.get("n")
    act(session)
    with watched.costs(0):
        assert session.get("n") == expected
    assert known.visit().get("n") == expected


def test_renew_keeps_the_memo(known: Browser, watched: Watched) -> None:
    """What was read before renew is still known after it."""
    session = known.visit()
    session.all()
    session.renew()
    with watched.costs(0):
        assert session.get("name") == "Ann"


def test_write_without_reply_is_read_anew(known: Browser, watched: Watched) -> None:
    """After StoreUnavailable on a write it is not known what is stored: the key is asked anew."""
    session = known.visit()
    session.all()

    def lose(operation: Operation) -> None:
        raise StoreUnavailable("reply lost")

    watched.after = lose
    with pytest.raises(StoreUnavailable):
        session.set("name", "Bob")
    watched.after = lambda operation: None
    with watched.costs(1):
        assert session.get("name") == "Bob"
    with watched.costs(0):
        assert session.get("cart") == [1, 2]


class Timeout(BaseException):
    """As gevent.Timeout is one: no Exception, and from anywhere."""


def test_write_torn_away_is_read_anew(known: Browser, watched: Watched) -> None:
    """The same holds when something else tears the write away, such as gevent.Timeout."""
    session = known.visit()
    session.all()

    def tear(operation: Operation) -> None:
        raise Timeout

    watched.after = tear
    with suppress(Timeout):
        session.set("name", "Bob")
    watched.after = lambda operation: None
    assert session.get("name") == "Bob"


def test_read_without_reply_changes_nothing(known: Browser, watched: Watched) -> None:
    """StoreUnavailable on a read leaves what is known, and the next read asks again."""
    session = known.visit()
    session.get("name")

    def fail(operation: Operation) -> None:
        raise StoreUnavailable("away")

    watched.before = fail
    with pytest.raises(StoreUnavailable):
        session.get("cart")
    assert session.get("name") == "Ann"
    watched.before = lambda operation: None
    assert session.get("cart") == [1, 2]


def test_store_full_is_told(known: Browser, watched: Watched) -> None:
    """StoreFull on a write reaches the caller as StoreUnavailable does."""

    def full(operation: Operation) -> None:
        raise StoreFull("full")

    watched.before = full
    with pytest.raises(StoreUnavailable):
        known.visit().set("k", 1)


# -- bad input: nothing is sent

BAD_KEYS = ["", "@v", "@", "k" * 513, "ä" * 257, "\ud800", 1, b"k", ("k",), True]
KEYED: dict[str, Callable[[AltSession, Any], object]] = {
    "get": lambda s, k: s.get(k),
    "mget": lambda s, k: s.mget([k]),
    "exists": lambda s, k: s.exists(k),
    "set": lambda s, k: s.set(k, 1),
    "mset": lambda s, k: s.mset({k: 1}),
    "remove": lambda s, k: s.remove([k]),
    "pop": lambda s, k: s.pop(k),
    "setdefault": lambda s, k: s.setdefault(k, 1),
    "increment": lambda s, k: s.increment(k),
    "compare_and_set": lambda s, k: s.compare_and_set(k, 1, 2),
    "modify": lambda s, k: s.modify(k, lambda v: v),
}


@pytest.fixture
def lonely() -> Iterator[tuple[Browser, Watched]]:
    """A known browser on the memory store: what is refused does not reach any store."""
    watched = Watched(MemoryStore())
    browser = Browser(api_on(watched))
    browser.does(lambda s: s.set("name", "Ann"))
    return browser, watched


@pytest.mark.parametrize("call", KEYED.values(), ids=KEYED)
@pytest.mark.parametrize("key", BAD_KEYS, ids=lambda key: ascii(key)[:12])
def test_bad_keys(
    lonely: tuple[Browser, Watched], call: Callable[[AltSession, Any], object], key: object
) -> None:
    """A key that is no proper str is InvalidKey, a ValueError, before anything is sent."""
    browser, watched = lonely
    with watched.costs(0), pytest.raises(InvalidKey, match="key") as caught:
        call(browser.visit(), key)
    assert isinstance(caught.value, ValueError)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("call", [c for n, c in KEYED.items() if n != "exists"])
def test_none_is_no_key(
    lonely: tuple[Browser, Watched], call: Callable[[AltSession, Any], object]
) -> None:
    """None is no key, but for exists, where it asks for the session."""
    browser, watched = lonely
    with watched.costs(0), pytest.raises(InvalidKey, match="key"):
        call(browser.visit(), None)


@pytest.mark.parametrize("key", ["k" * 512, "ä" * 256, "a b\n\0", "v@", "⚡"], ids=ascii)
def test_good_keys(browser: Browser, key: str) -> None:
    """Any other str of up to 512 bytes is a key."""
    browser.does(lambda s: s.set(key, 1))
    assert browser.visit().all() == {key: 1}


def test_one_str_is_no_list_of_keys(lonely: tuple[Browser, Watched]) -> None:
    """mget of one str is InvalidKey instead of a key for each letter."""
    browser, watched = lonely
    with watched.costs(0), pytest.raises(InvalidKey, match="list of keys"):
        browser.visit().mget("name")


def test_bytes_are_no_list_of_keys(lonely: tuple[Browser, Watched]) -> None:
    """The message shows the bytes as they were given, not the number of the first one."""
    browser, watched = lonely
    name: Any = b"ab"
    with watched.costs(0), pytest.raises(InvalidKey, match="a str or a SessionKey, not b'ab'"):
        browser.visit().remove(name)
    with watched.costs(0), pytest.raises(InvalidKey, match="not one key: b'ab'"):
        browser.visit().mget(name)


BAD_VALUES: list[tuple[Any, str]] = [
    (object(), r"'k': JSON cannot carry object"),
    ({"a": [0, {1, 2}]}, r"'k'\['a'\]\[1\]: JSON cannot carry set"),
    ({"a": {1: 2}}, r"'k'\['a'\]: a dict's keys must be str"),
    ([1.0, float("nan")], r"'k'\[1\]: nan is not JSON"),
    (b"raw", r"'k': JSON cannot carry bytes"),
    ("\ud800", r"'k': a str with a lone surrogate"),
]
VALUED: dict[str, Callable[[AltSession, Any], object]] = {
    "set": lambda s, v: s.set("k", v),
    "mset": lambda s, v: s.mset({"good": 1, "k": v}),
    "setdefault": lambda s, v: s.setdefault("k", v),
    "compare_and_set": lambda s, v: s.compare_and_set("k", None, v),
    "compare_and_set expected": lambda s, v: s.compare_and_set("k", v, 1),
}
valued = pytest.mark.parametrize("call", VALUED.values(), ids=VALUED)


@valued
@pytest.mark.parametrize(("value", "message"), BAD_VALUES, ids=[m[:20] for _, m in BAD_VALUES])
def test_bad_values(
    lonely: tuple[Browser, Watched],
    call: Callable[[AltSession, Any], object],
    value: object,
    message: str,
) -> None:
    """A value that JSON cannot carry is a TypeError with key and path before anything is sent."""
    browser, watched = lonely
    with watched.costs(0), pytest.raises(TypeError, match=message):
        call(browser.visit(), value)


@pytest.mark.parametrize("call", [*VALUED.values()][:-1], ids=[*VALUED][:-1])
def test_large_values(
    lonely: tuple[Browser, Watched], call: Callable[[AltSession, Any], object]
) -> None:
    """A value of more than max_value_bytes is ValueTooLarge before anything is sent."""
    browser, watched = lonely
    with watched.costs(0), pytest.raises(ValueTooLarge, match=r"'k': 65537 bytes.*65536"):
        call(browser.visit(), "x" * 65535)


def test_largest_value(browser: Browser) -> None:
    """A value of exactly max_value_bytes is stored."""
    value = "x" * 65534
    browser.does(lambda s: s.set("k", value))
    assert browser.visit().get("k") == value


def test_modify_refuses_before_writing(known: Browser) -> None:
    """What modify's function gives is checked like any value."""
    with pytest.raises(TypeError, match="'cart': JSON cannot carry set"):
        known.visit().modify("cart", set)
    assert known.visit().get("cart") == [1, 2]


# -- corrupt values

BROKEN = [b"", b"{", b"\xff", b"nul", b'{"a":1} x', b"[" * 5000]


@pytest.mark.parametrize("raw", BROKEN, ids=lambda raw: repr(raw[:9]))
def test_corrupt_value_concerns_its_key_alone(known: Browser, behind: Behind, raw: bytes) -> None:
    """An undecodable field is CorruptValue that names the key; the other keys still work."""
    behind.put(id_of(known), "cart", raw)
    session = known.visit()
    with pytest.raises(CorruptValue, match="'cart'") as caught:
        session.get("cart")
    assert isinstance(caught.value, ValueError)
    assert (session.get("name"), session.keys()) == ("Ann", ["cart", "name"])
    with pytest.raises(CorruptValue, match="'cart'"):
        session.all()


REPAIRS: dict[str, tuple[Act, object]] = {
    "set": (lambda s: s.set("cart", 1), 1),
    "remove": (lambda s: s.remove("cart"), None),
}


@cases(REPAIRS)
def test_corrupt_value_is_repaired(
    known: Browser, behind: Behind, act: Act, expected: object
) -> None:
    """set and remove repair a corrupt key."""
    behind.put(id_of(known), "cart", b"{")
    session = known.visit()
    act(session)
    assert session.get("cart") == known.visit().get("cart") == expected


def test_corrupt_value_popped(known: Browser, behind: Behind) -> None:
    """pop of a corrupt key says so, and has removed it."""
    behind.put(id_of(known), "cart", b"{")
    with pytest.raises(CorruptValue):
        known.visit().pop("cart")
    assert known.visit().get("cart") is None


def test_corrupt_value_compared(known: Browser, behind: Behind) -> None:
    """compare_and_set with a corrupt key says so and leaves it."""
    behind.put(id_of(known), "cart", b"{")
    with pytest.raises(CorruptValue, match="'cart'"):
        known.visit().compare_and_set("cart", [1, 2], [])


# -- what calls cost


def test_reads_and_writes_cost_one(known: Browser, watched: Watched) -> None:
    """The first call of a request costs one command, whichever it is."""
    for name, act in EVERY.items():
        if name in ("modify", "renew", "invalidate"):
            continue
        with watched.costs(1):
            known.does(act)


def test_thousand_reads_touch_at_most_once(known: Browser, watched: Watched) -> None:
    """1000 reading requests within one touch interval send at most one touch."""
    for _ in range(1000):
        known.visit().get("name")
    assert watched.touches == 0


def test_touch_when_due(known: Browser, watched: Watched, behind: Behind) -> None:
    """When less than tti is left a read restarts it, once; the next reads do not."""
    behind.end_in(id_of(known), 1199)
    with watched.costs(2):
        assert known.visit().get("name") == "Ann"
    assert behind.left(id_of(known)) == pytest.approx(1320, abs=2)
    for _ in range(1000):
        known.visit().get("name")
    assert watched.touches == 1


def test_no_touch_before_it_is_due(known: Browser, watched: Watched, behind: Behind) -> None:
    """When more than tti is left a read costs one command and moves nothing."""
    behind.end_in(id_of(known), 1202)
    with watched.costs(1):
        known.visit().get("name")
    assert behind.left(id_of(known)) <= 1202


def test_no_touch_at_the_deadline(store: Store, behind: Behind) -> None:
    """In the last tti of its lifetime a session is read 1000 times with at most one touch, and
    its end does not move."""
    watched = Watched(store)
    browser = Browser(api_on(watched, tti=1200, lifetime=86400))
    browser.does(lambda s: s.set("k", 1))
    id = id_of(browser)
    now = int(behind.fields(id)["@t"])
    behind.put(id, "@d", b"%d" % (now + 600_000))
    behind.end_in(id, 300)  # the touch that is due now runs into the deadline
    for _ in range(1000):
        assert browser.visit().get("k") == 1
    assert watched.touches == 1
    assert behind.left(id) == pytest.approx(600, abs=60)  # a touch would make it 1200


def test_every_use_touches_with_interval_zero(store: Store, behind: Behind) -> None:
    """With touch_interval = 0 every reading request restarts the tti."""
    watched = Watched(store)
    browser = Browser(api_on(watched, touch_interval=0))
    browser.does(lambda s: s.set("k", 1))
    behind.end_in(id_of(browser), 1199)
    browser.visit().get("k")
    behind.end_in(id_of(browser), 1199)
    browser.visit().get("k")
    assert watched.touches == 2


@pytest.mark.parametrize(
    "error", [StoreUnavailable("slow"), StoreFull("full")], ids=["slow", "full"]
)
def test_failed_touch_does_not_fail_the_read(
    known: Browser, watched: Watched, behind: Behind, error: Exception
) -> None:
    """A read succeeds although the touch that it owed did not."""

    def refuse(operation: Operation) -> None:
        if isinstance(operation, Write):
            raise error

    watched.before = refuse
    behind.end_in(id_of(known), 30)
    session = known.visit()
    assert (session.get("name"), session.get("cart")) == ("Ann", [1, 2])


def test_session_that_ends_before_its_touch(
    known: Browser, watched: Watched, behind: Behind
) -> None:
    """A session that ends between a read and the touch it owed: that read's value is returned,
    and the next call is SessionGone."""

    def end(operation: Operation) -> None:
        if isinstance(operation, Read):
            behind.end_in(id_of(known), 0)

    behind.end_in(id_of(known), 30)
    watched.after = end
    session = known.visit()
    assert session.get("name") == "Ann"
    with pytest.raises(SessionGone):
        session.get("name")


def test_key_without_an_end_gets_one(known: Browser, behind: Behind, store: Store) -> None:
    """A session whose key lost its TTL by hand gets one at the next read."""
    if behind.client is None:
        behind.end_in(id_of(known), 10**6)
    else:
        behind.client.persist(f"sess:{id_of(known)}")
    known.visit().get("name")
    assert behind.left(id_of(known)) == pytest.approx(1320, abs=2)


# -- a cookie sent twice


def test_whichever_is_live_serves(known: Browser) -> None:
    """Of two cookies of one name the live one serves reads and writes, in either order."""
    other = f"{'A' * 22}.{'B' * 43}"
    for jar in (f"{known.jar}; sid={other}", f"{other}; sid={known.jar}"):
        assert Browser(known.api, jar).visit().get("name") == "Ann"
        session = Browser(known.api, jar).visit()
        session.set("name", "Ann")
        assert session.id == id_of(known)


def test_two_live_cookies(known: Browser) -> None:
    """Of two live cookies the first serves the whole request."""
    second = known.api.create({"name": "Bob"})
    session = Browser(known.api, f"{known.jar}; sid={second.token}").visit()
    session.set("k", 1)
    assert session.mget(["name", "k"]) == {"name": "Ann", "k": 1}
    assert second.get("k") is None


def test_replaced_and_dead_cookie(known: Browser, watched: Watched) -> None:
    """When none is live and one was replaced just now, a write is SessionGone."""
    old = known.jar
    known.does(lambda s: s.renew())
    dead = f"{'A' * 22}.{'B' * 43}"
    for jar in (f"{old}; sid={dead}", f"{dead}; sid={old}"):
        with watched.costs(3), pytest.raises(SessionGone):
            Browser(known.api, jar).visit().set("k", 1)


# -- sessions without a request


def test_create_and_open(api: SessionAPI) -> None:
    """create makes a session with values; open finds it by its token."""
    made = api.create({"name": "Ann"})
    assert made.token is not None
    found = api.open(made.token)
    assert (found.get("name"), found.id, found.new, made.new) == ("Ann", made.id, False, True)


def test_create_without_values(api: SessionAPI, watched: Watched) -> None:
    """create() makes an empty session with one command."""
    with watched.costs(1):
        session = api.create()
    assert session.all() == {}


def test_create_checks_its_values(api: SessionAPI, watched: Watched) -> None:
    """create refuses bad keys and values before anything is sent."""
    with watched.costs(0):
        with pytest.raises(InvalidKey):
            api.create({"@v": 1})
        with pytest.raises(TypeError):
            api.create({"k": object()})


def test_open_costs_nothing(known: Browser, watched: Watched) -> None:
    """open is no command; the first call is one."""
    assert known.jar is not None
    with watched.costs(0):
        session = known.api.open(known.jar)
    with watched.costs(1):
        assert session.get("name") == "Ann"


def test_open_and_the_cookie_are_one_session(known: Browser) -> None:
    """What a worker writes is what the next request reads."""
    assert known.jar is not None
    known.api.open(known.jar).set("job", "done")
    assert known.visit().get("job") == "done"


def test_renew_changes_the_token(api: SessionAPI) -> None:
    """renew gives an open session another token; the old one is dead."""
    session = api.create({"name": "Ann"})
    old = session.token
    assert old is not None
    assert session.renew() is True
    assert session.token not in (None, old)
    assert api.open(str(session.token)).get("name") == "Ann"
    with pytest.raises(SessionGone):
        api.open(old).get("name")


def test_token_is_told_while_the_session_lives(known: Browser) -> None:
    """An open session has its token before it was seen alive, and none after invalidate."""
    assert known.jar is not None
    session = known.api.open(known.jar)
    assert session.token == known.jar
    session.exists()
    assert session.token == known.jar
    session.invalidate()
    assert session.token is None


@pytest.mark.parametrize("why", ["unknown", "malformed", "expired", "renewed", "invalidated"])
@pytest.mark.parametrize("name", EVERY)
def test_open_never_makes_a_session(api: SessionAPI, behind: Behind, name: str, why: str) -> None:
    """Every call on a dead open session is SessionGone, again and again; exists is False."""
    made = api.create({"name": "Ann"})
    token = str(made.token)
    if why == "unknown":
        token = f"{'A' * 22}.{'B' * 43}"
    elif why == "malformed":
        token = "nonsense"
    elif why == "expired":
        behind.end_in(str(made.id), 0)
    elif why == "renewed":
        made.renew()
    else:
        made.invalidate()
    ids = behind.ids()
    session = api.open(token)
    for _ in range(2):
        if name == "exists":
            assert session.exists(fresh=True) is False
        else:
            with pytest.raises(SessionGone):
                EVERY[name](session)
    assert behind.ids() == ids


def test_open_session_ended_by_itself(api: SessionAPI) -> None:
    """After its own invalidate an open session makes no other: every call is SessionGone."""
    session = api.create({"name": "Ann"})
    assert session.invalidate() is True
    for act in (EVERY["get"], EVERY["set"], EVERY["invalidate"]):
        with pytest.raises(SessionGone):
            act(session)


def test_check(api: SessionAPI, watched: Watched, behind: Behind) -> None:
    """check is silent on a server that serves, in eight commands that leave nothing to see."""
    with watched.costs(8):
        api.check()
    assert list(api.scan()) == []


@pytest.mark.parametrize("kind", [Read, Write])
def test_check_fails(api: SessionAPI, watched: Watched, kind: type) -> None:
    """check raises what a read, and what a write, cannot do."""

    def refuse(operation: Operation) -> None:
        if isinstance(operation, kind):
            raise StoreUnavailable("read only")

    watched.before = refuse
    with pytest.raises(StoreUnavailable):
        api.check()


def test_close_leaves_the_sessions(known: Browser) -> None:
    """After close the sessions are there, and a later use connects anew."""
    known.api.close()
    assert known.visit().get("name") == "Ann"
    known.api.close()
    known.api.close()


def test_from_settings() -> None:
    """from_settings makes an API from a mapping, nested, dotted or from an .ini file."""
    for mapping in (
        {"redis": {"url": "memory://"}},
        {"redis.url": "memory://"},
        {"altsession.redis.url": "memory://", "other": 1},
    ):
        api = SessionAPI.from_settings(mapping)
        assert repr(api) == "<SessionAPI <MemoryStore>>"
        assert api.create({"k": 1}).get("k") == 1


def test_from_settings_that_are_no_mapping() -> None:
    """An address is easily taken for the settings."""
    url: Any = "redis://localhost"
    with pytest.raises(TypeError, match="the settings must be a mapping, not str"):
        SessionAPI.from_settings(url)


def test_other_codec(store: Store) -> None:
    """An API may have a codec of the application's."""

    class Reversed:
        def encode(self, key: str, value: Any) -> bytes:
            return bytes(reversed(value.encode()))

        def decode(self, key: str, raw: bytes) -> Any:
            return bytes(reversed(raw)).decode()

    api = SessionAPI(read_settings({}), store=store, codec=Reversed())
    session = api.create({"k": "abc"})
    assert session.get("k", fresh=True) == "abc"


# -- events: within calls (with the request: test_http)


def test_events_come_after_the_call_is_done(store: Store) -> None:
    """A subscriber finds the session in its final state, and may itself use it."""
    told: list[tuple[type, Any, Any]] = []

    def subscriber(event: Any) -> None:
        told.append((type(event), event.id, session.id))
        if isinstance(event, SessionCreated):
            session.set("made", True)

    api = SessionAPI(read_settings({}), store=store, notify=subscriber)
    session = Browser(api).visit()
    assert session.increment("k") == 1
    assert session.all() == {"k": 1, "made": True}
    session.invalidate()
    created, invalidated = told
    assert created == (SessionCreated, created[1], created[1])
    assert invalidated == (SessionInvalidated, created[1], None)


def test_subscriber_of_a_rejection_may_write(store: Store) -> None:
    """TokenRejected is sent when the write that met it is done, so a subscriber's write does not
    get between."""
    told = []
    session: AltSession

    def subscriber(event: Any) -> None:
        told.append(type(event))
        if isinstance(event, TokenRejected):
            session.set("noted", event.id)

    api = SessionAPI(read_settings({}), store=store, notify=subscriber)
    owner = api.create()
    browser = Browser(api, f"{owner.id}.{'A' * 43}")
    session = browser.visit()
    session.set("k", 1)
    browser.answer()
    assert told == [SessionCreated, TokenRejected, SessionCreated]
    assert browser.visit().all() == {"k": 1, "noted": owner.id}


def test_event_of_a_call_that_failed(known: Browser, watched: Watched) -> None:
    """An event is sent even if the call that met it fails afterwards."""
    told: list[Any] = []
    api = api_on(watched, told.append)

    def fail_creating(operation: Operation) -> None:
        if isinstance(operation, Write) and operation.create:
            raise StoreUnavailable("away")

    watched.before = fail_creating
    with pytest.raises(StoreUnavailable):
        Browser(api, f"{id_of(known)}.{'A' * 43}").visit().set("k", 1)
    assert [type(event) for event in told] == [TokenRejected]


def test_rejection_is_told_once(known: Browser, watched: Watched) -> None:
    """However often a request uses a rejected cookie, it is told once."""
    told: list[Any] = []
    api = api_on(watched, told.append)
    session = Browser(api, f"{id_of(known)}.{'A' * 43}").visit()
    session.get("a")
    session.touch()
    session.pop("b")
    assert [repr(event) for event in told] == [f"<TokenRejected {id_of(known)}>"]


# -- secrets


def test_errors_hold_no_secret(known: Browser, watched: Watched) -> None:
    """Neither str nor repr of an error, nor its traceback with all local values of our frames,
    holds a verifier, old or new."""
    assert known.jar is not None
    verifiers = [known.jar.partition(".")[2]]

    def fail(operation: Operation) -> None:
        if isinstance(operation, Write) and hasattr(operation.life, "verifier"):
            verifiers.append(operation.life.verifier)
        raise StoreUnavailable("away")

    watched.before = fail
    for act in EVERY.values():
        session = known.visit()
        with pytest.raises(StoreUnavailable) as caught:
            act(session)
        shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
        for frame in shown.stack:
            if "pyramid_altsession" not in frame.filename:
                frame.locals = None
        text = "".join(shown.format()) + str(caught.value) + repr(caught.value)
        assert [v for v in verifiers if v in text] == []
    assert len(verifiers) == 2


def test_empty_response_says_nothing(browser: Browser) -> None:
    """An answer to a request that did not use its session is untouched."""
    browser.visit()
    response = Response()
    before = list(response.headerlist)
    browser.latest._process_response_callbacks(response)
    assert response.headerlist == before
