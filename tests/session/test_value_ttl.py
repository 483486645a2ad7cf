"""A value's own time to live: the same on every store, plain and sealed, by the server's clock."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from apps import Behind, Browser, Watched, site
from inside import state_in
from pyramid.request import Request
from servers import SUPPORT, Server
from workers import in_threads, token_of

from pyramid_altsession import AltSession, SessionAPI, SessionKey
from pyramid_altsession.api import OpenSession
from pyramid_altsession.codecs import EncryptedCodec
from pyramid_altsession.config.sources import read_settings
from pyramid_altsession.protocol.fields import Timing
from pyramid_altsession.protocol.frame import end_of
from pyramid_altsession.stores.memory import MemoryStore

Act = Callable[[AltSession], Any]
CODE = SessionKey("code", str, ttl=60)
TRIES = SessionKey("tries", int, ttl=60)


@pytest.fixture(params=["plain", "sealed"])
def codec(request: pytest.FixtureRequest) -> EncryptedCodec | None:
    return EncryptedCodec(("a secret of sixteen",)) if request.param == "sealed" else None


@pytest.fixture
def api(watched: Watched, codec: EncryptedCodec | None) -> SessionAPI:
    return SessionAPI(read_settings({}), store=watched, codec=codec)


@pytest.fixture
def session(api: SessionAPI) -> OpenSession:
    """A live session with two values that have no end."""
    return api.create({"count": 1, "name": "Ann"})


def later(api: SessionAPI, session: OpenSession) -> OpenSession:
    """The same session in another request."""
    return api.open(token_of(session))


def end(behind: Behind, session: AltSession, key: str) -> int | None:
    """When a value ends, as the store holds it."""
    assert session.id is not None
    return end_of(behind.fields(session.id)[key])


def now(behind: Behind) -> float:
    """Milliseconds of the store's clock."""
    if behind.client is None:
        assert isinstance(behind.store, MemoryStore)
        return behind.store.clock() * 1000
    seconds, micros = behind.client.time()
    return float(seconds * 1000 + micros / 1000)


def ends_in(
    ttl: float, began: float, behind: Behind, session: AltSession, key: str = "tries"
) -> bool:
    """Whether the value ends ``ttl`` seconds after a moment between ``began`` and now, give or take
    a millisecond."""
    found = end(behind, session, key)
    return found is not None and began - 1 <= found - ttl * 1000 <= now(behind) + 1


def batched(*calls: Callable[[Any], Any]) -> Act:
    """The results of a batch."""

    def act(session: AltSession) -> list[Any]:
        with session.batch() as batch:
            handles = [call(batch) for call in calls]
        return [handle.result() for handle in handles]

    return act


def prefetched(session: AltSession) -> Any:
    session.prefetch("code")
    return session.get("code")


# -- the end

ACTS: dict[str, tuple[Act, Any, Any]] = {
    "get": (lambda s: s.get("code"), "1234", None),
    "get default": (lambda s: s.get("code", "-"), "1234", "-"),
    "typed get": (lambda s: s.get(CODE), "1234", None),
    "mget": (lambda s: s.mget(["code", "name"]), {"code": "1234", "name": "Ann"},
             {"code": None, "name": "Ann"}),
    "all": (lambda s: s.all(), {"code": "1234", "tries": 3, "count": 1, "name": "Ann"},
            {"count": 1, "name": "Ann"}),
    "keys": (lambda s: s.keys(), ["code", "count", "name", "tries"], ["count", "name"]),
    "exists": (lambda s: s.exists("code"), True, False),
    "prefetch": (prefetched, "1234", None),
    "pop": (lambda s: s.pop("code"), "1234", None),
    "remove": (lambda s: s.remove(["code", "name"]), 2, 1),
    "setdefault": (lambda s: s.setdefault("code", "new"), "1234", "new"),
    "increment": (lambda s: s.increment("tries"), 4, 1),
    "typed increment": (lambda s: s.increment(TRIES, 5), 8, 5),
    "compare_and_set": (lambda s: s.compare_and_set("code", "1234", "new"), True, False),
    "compare_and_set nothing": (lambda s: s.compare_and_set("code", None, "new"), False, True),
    "modify": (lambda s: s.modify("code", lambda found: [found]), ["1234"], [None]),
    "batch that reads": (
        batched(lambda b: b.get("code"), lambda b: b.mget(["tries"]), lambda b: b.exists("code")),
        ["1234", {"tries": 3}, True], [None, {"tries": None}, False]),
    "batch that reads all": (
        batched(lambda b: b.all(), lambda b: b.keys(), lambda b: b.get("code")),
        [{"code": "1234", "tries": 3, "count": 1, "name": "Ann"},
         ["code", "count", "name", "tries"], "1234"],
        [{"count": 1, "name": "Ann"}, ["count", "name"], None]),
    "batch that writes": (
        batched(lambda b: b.set("x", 1), lambda b: b.get("code"), lambda b: b.exists("code"),
                lambda b: b.all(), lambda b: b.remove("x"), lambda b: b.keys()),
        [None, "1234", True, {"code": "1234", "tries": 3, "count": 1, "name": "Ann", "x": 1}, 1,
         ["code", "count", "name", "tries"]],
        [None, None, False, {"count": 1, "name": "Ann", "x": 1}, 1, ["count", "name"]]),
    "batch that counts": (
        batched(lambda b: b.increment("tries"), lambda b: b.pop("code"), lambda b: b.all(),
                lambda b: b.setdefault("code", "new"), lambda b: b.keys()),
        [4, "1234", {"tries": 4, "count": 1, "name": "Ann"}, "new",
         ["code", "count", "name", "tries"]],
        [1, None, {"tries": 1, "count": 1, "name": "Ann"}, "new",
         ["code", "count", "name", "tries"]]),
}  # fmt: skip


@pytest.mark.parametrize("name", ACTS)
def test_before_and_after_the_end(
    name: str, api: SessionAPI, session: OpenSession, behind: Behind
) -> None:
    """Every call finds the value before its end, and a second after it nothing. Before it there
    are two minutes, which is for the calls of a busy machine."""
    act, before, after = ACTS[name]
    for seconds, expected in ((480, before), (601, after)):
        session.mset({"count": 1, "name": "Ann"})
        session.set("code", "1234", ttl=600)
        session.set("tries", 3, ttl=600)
        behind.pass_time(str(session.id), seconds)
        assert act(later(api, session)) == expected


def test_the_end_is_the_servers(api: SessionAPI, session: OpenSession, behind: Behind) -> None:
    """The end that is stored is the server's now and the seconds given."""
    for ttl in (0.25, 400 * 86400):
        began = now(behind)
        session.set("code", "1234", ttl=ttl)
        assert ends_in(ttl, began, behind, session, "code")


def test_the_session_neither_lives_longer_nor_shorter(
    api: SessionAPI, session: OpenSession, behind: Behind
) -> None:
    """A value's time to live is its own: the session's stays."""
    times = Timing.of(read_settings({}).session)
    whole = (times.tti + times.interval) / 1000
    for ttl in (1, 400 * 86400):
        began = time.monotonic()
        session.set("code", "1234", ttl=ttl)
        left = behind.left(str(session.id))
        passed = time.monotonic() - began
        assert whole - passed - 0.01 <= left <= whole


def test_the_same_request(session: OpenSession, watched: Watched) -> None:
    """What was set is known to its request, without a round trip."""
    session.set("code", "1234", ttl=60)
    with watched.costs(0):
        assert session.get("code") == "1234"


@pytest.mark.process
@pytest.mark.parametrize("hours", [0, 1, -1])
def test_a_clock_that_is_wrong_by_an_hour(hours: int, any_server: Server) -> None:
    """An application whose clocks are an hour off finds the same, on every server."""
    script = SUPPORT / "skewed.py"
    token = token_of(SessionAPI(read_settings({"redis.url": any_server.url})).create())
    command = [sys.executable, script, str(hours), any_server.url, token]
    answer = subprocess.run(command, capture_output=True, check=True, timeout=300)
    assert json.loads(answer.stdout)["ends"] == {
        "480": ["1234", True, {"code": "1234", "tries": 1}, 2, "1234", None],
        "601": [None, False, {}, 1, None, None],
    }


# -- what gives, keeps and takes off an end


@pytest.mark.parametrize(
    "act",
    [
        lambda s: s.set("code", "new"),
        lambda s: s.mset({"code": "new", "x": 1}),
        lambda s: (s.pop("code"), s.setdefault("code", "new")),
        lambda s: (s.remove("code"), s.set("code", "new")),
        batched(lambda b: b.set("code", "new"), lambda b: b.increment("count")),
        batched(lambda b: b.pop("code"), lambda b: b.compare_and_set("code", None, "new")),
    ],
)
def test_set_takes_the_end_off(
    act: Act, api: SessionAPI, session: OpenSession, behind: Behind
) -> None:
    """A value that is set without a time to live goes with the session again."""
    session.set("code", "1234", ttl=60)
    act(later(api, session))
    assert end(behind, session, "code") is None
    behind.pass_time(str(session.id), 61)
    assert later(api, session).get("code") == "new"


@pytest.mark.parametrize(
    "act",
    [
        lambda s: s.increment("tries"),
        lambda s: s.increment(TRIES),
        lambda s: s.compare_and_set("tries", 3, 4),
        lambda s: s.compare_and_set(TRIES, 3, 4),
        lambda s: s.modify("tries", lambda found: found + 1),
        lambda s: s.modify(TRIES, lambda found: found + 1),
        batched(lambda b: b.increment(TRIES), lambda b: b.set("x", 1)),
        batched(lambda b: b.compare_and_set("tries", 3, 4), lambda b: b.get("tries")),
    ],
)
def test_a_change_in_place_keeps_the_end(
    act: Act, api: SessionAPI, session: OpenSession, behind: Behind
) -> None:
    """What changes a value keeps its end, to the millisecond."""
    session.set("tries", 3, ttl=30)
    before = end(behind, session, "tries")
    assert before is not None
    act(later(api, session))
    assert end(behind, session, "tries") == before
    assert later(api, session).get("tries") == 4


@pytest.mark.parametrize(
    "act",
    [
        lambda s: s.setdefault("tries", 4),
        lambda s: s.setdefault(TRIES, 4),
        lambda s: s.compare_and_set(TRIES, 5, 4),
        lambda s: s.touch(),
        lambda s: s.renew(),
        lambda s: s.login("ann"),
        lambda s: s.get("tries"),
        batched(lambda b: b.get("tries"), lambda b: b.increment("count")),
    ],
)
def test_what_changes_nothing_keeps_the_end(act: Act, session: OpenSession, behind: Behind) -> None:
    """So does what leaves the value alone."""
    session.set("tries", 3, ttl=30)
    before = behind.fields(str(session.id))["tries"]
    act(session)
    assert behind.fields(str(session.id))["tries"] == before


def test_set_again_begins_anew(session: OpenSession, behind: Behind) -> None:
    """A time to live that is given again counts from now."""
    for ttl in (30, 90, 60):
        began = now(behind)
        session.set("code", "1234", ttl=ttl)
        assert ends_in(ttl, began, behind, session, "code")


MAKERS: dict[str, Act] = {
    "set": lambda s: s.set(TRIES, 1),
    "mset": lambda s: s.mset({TRIES: 1, "x": 1}),
    "setdefault": lambda s: s.setdefault(TRIES, 1),
    "increment": lambda s: s.increment(TRIES),
    "compare_and_set": lambda s: s.compare_and_set(TRIES, None, 1),
    "modify": lambda s: s.modify(TRIES, lambda found: 1),
    "batch": batched(lambda b: b.set("x", 1), lambda b: b.set(TRIES, 1)),
    "batch that counts": batched(lambda b: b.set("x", 1), lambda b: b.increment(TRIES)),
    "batch with all": batched(lambda b: b.increment(TRIES), lambda b: b.all()),
    "batch that counts on": batched(lambda b: b.set(TRIES, 0), lambda b: b.increment("tries")),
}


@pytest.mark.parametrize("name", MAKERS)
def test_the_keys_own_time_to_live(name: str, session: OpenSession, behind: Behind) -> None:
    """A key with a time to live gives it to a value that a call makes, whatever the call."""
    began = now(behind)
    MAKERS[name](session)
    assert ends_in(60, began, behind, session)


@pytest.mark.parametrize("name", MAKERS)
def test_the_first_value_of_a_visitor(name: str, api: SessionAPI, behind: Behind) -> None:
    """So it does where the session is made by that call."""
    browser = Browser(api)
    began = now(behind)
    browser.does(MAKERS[name])
    session = browser.visit()
    assert session.get(TRIES) == 1
    assert ends_in(60, began, behind, session)
    behind.pass_time(str(session.id), 61)
    assert browser.visit().get(TRIES) is None


def test_the_calls_own_time_to_live(session: OpenSession, behind: Behind) -> None:
    """One that is given with the call comes before the key's."""
    began = now(behind)
    session.set(TRIES, 1, ttl=30)
    with session.batch() as batch:
        batch.set(CODE, "1234", ttl=90)
    assert ends_in(30, began, behind, session)
    assert ends_in(90, began, behind, session, "code")


def test_what_a_call_gave_is_what_is_stored(session: OpenSession, behind: Behind) -> None:
    """The request knows a value with the very end that the server gave it, so that a change in
    place, later on, keeps it."""
    for act in MAKERS.values():
        session.remove("tries")
        act(session)
        known = state_in(session).cache.fields["tries"]
        assert known is not None
        assert end_of(known) == end(behind, session, "tries")


@pytest.mark.parametrize(
    ("ttl", "error"),
    [(0, ValueError), (-1, ValueError), (0.0001, ValueError), (float("nan"), ValueError),
     (float("inf"), ValueError), (401 * 86400, ValueError), ("60", TypeError), (True, TypeError)],
    ids=repr,
)  # fmt: skip
def test_bad_time_to_live(
    ttl: Any, error: type[Exception], session: OpenSession, watched: Watched
) -> None:
    """What is no time to live is refused at the call, with the key, and nothing is sent."""
    for call in (session.set, session.batch().set):
        with watched.costs(0), pytest.raises(error, match=f"'k': ttl must be .* not {ttl!r}"):
            call("k", 1, ttl=ttl)


# -- what is left of it


def test_an_ended_value_goes_with_the_next_write(
    api: SessionAPI, session: OpenSession, behind: Behind
) -> None:
    """Reads leave an ended value where it is, invisible; a write that meets it takes it away."""
    writes: list[Act] = [
        *(lambda s: s.remove("code"), lambda s: s.pop("code")),
        lambda s: s.compare_and_set("code", "1234", "new"),
        batched(lambda b: b.get("code"), lambda b: b.set("x", 1)),
        batched(lambda b: b.all(), lambda b: b.set("x", 1)),
        batched(lambda b: b.all(), lambda b: b.increment("x")),
    ]
    for write in writes:
        session.set("code", "1234", ttl=60)
        behind.pass_time(str(session.id), 61)
        reader = later(api, session)
        assert [reader.get("code"), reader.keys()] == [None, reader.keys()]
        assert "code" in behind.fields(str(session.id))
        write(later(api, session))
        assert "code" not in behind.fields(str(session.id))


def test_memory(any_server: Server) -> None:
    """A session with one such value costs at most 40 bytes more, on every server."""
    api = SessionAPI(read_settings({"redis.url": any_server.url}))

    def memory(keys: int, ttl: int | None) -> int:
        session = api.create({f"key{number}": number for number in range(keys)})
        session.set("code", "123456", ttl=ttl)
        return int(any_server.client.memory_usage(f"sess:{session.id}"))

    def cost(keys: int, ttl: int | None) -> int:
        """The least of many alike: an allocator gives some a free piece that is larger."""
        return min(memory(keys, ttl) for _ in range(20))

    # 15 bytes; larger sessions are allotted in steps of 64.
    assert max(cost(keys, 60) - cost(keys, None) for keys in range(12)) <= 40
    api.close()


# -- one-time values


def test_a_one_time_value(api: SessionAPI, session: OpenSession, behind: Behind) -> None:
    """Of 64 that take it at once one gets it; after its end nobody does."""
    for seconds, winners in ((480, ["1234"]), (601, [])):
        session.set("code", "1234", ttl=600)
        behind.pass_time(str(session.id), seconds)
        takers = [later(api, session) for _ in range(64)]
        found = in_threads(64, lambda number, takers=takers: takers[number].pop("code"))
        assert [code for code in found if code is not None] == winners


# -- request.session


def test_the_synchronous_layer() -> None:
    """``request.session`` sees no value that ended, keeps an end where it changes the value in
    place, and takes it off where it puts another."""

    def in_place(request: Request) -> None:
        request.session["basket"].append(2)

    def another(request: Request) -> None:
        request.session["basket"] = [3]

    def put(request: Request) -> None:
        request.altsession.set("basket", [1], ttl=600)
        request.altsession.set("name", "Ann")

    def look(request: Request) -> list[Any]:
        session = request.session
        return [session.get("basket"), "basket" in session, dict(session), len(session)]

    shop = site(
        "memory://",
        {"put": put, "look": look, "in_place": in_place, "another": another},
        settings={"altsession.sync.enabled": "true"},
    )
    behind = Behind(shop.watched.store)

    def held(seconds: float) -> Any:
        (id,) = behind.ids()
        behind.pass_time(id, seconds)
        return shop.get("/look").json

    gone = [None, False, {"name": "Ann"}, 1]
    shop.get("/put")
    assert [held(480), held(121)] == [[[1], True, {"basket": [1], "name": "Ann"}, 2], gone]
    shop.get("/put")
    shop.get("/in_place")
    assert [held(480)[0], held(121)] == [[1, 2], gone]
    shop.get("/put")
    shop.get("/another")
    assert held(601)[0] == [3]
