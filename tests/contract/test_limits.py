"""How much one session may hold, on every store."""

from dataclasses import replace
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from msgspec import structs
from servers import Server
from test_contract import TIMING, Keys, Memory, Session, compare_stores, few_steps, sequences

from pyramid_altsession import SessionAPI, ValueTooLarge
from pyramid_altsession.codecs import JSONCodec
from pyramid_altsession.config.sources import read_settings
from pyramid_altsession.config.table import SessionSettings
from pyramid_altsession.interfaces import Store
from pyramid_altsession.protocol.fields import State, Timing, keys_of
from pyramid_altsession.protocol.frame import framed
from pyramid_altsession.protocol.lifecycle import Invalidate, Login, Renew, Touch
from pyramid_altsession.protocol.messages import Write
from pyramid_altsession.protocol.token import Token
from pyramid_altsession.protocol.verbs import (
    Append,
    CompareAndSet,
    Increment,
    Pop,
    Remove,
    Set,
    SetDefault,
    Verb,
)
from pyramid_altsession.stores import open_store
from pyramid_altsession.stores.memory import MemoryStore
from pyramid_altsession.stores.redis.store import RedisStore

KEYS = TIMING._replace(max_keys=3)
BYTES = TIMING._replace(max_bytes=100)


@pytest.fixture
def keys(store: Store, client: "redis.Redis | None") -> Memory | Keys:
    """What the store of this test holds."""
    if client is not None:
        return Keys(client)
    assert isinstance(store, MemoryStore)
    return Memory(store)


def made(store: Store, timing: Timing, *verbs: Verb) -> Session:
    """A live session."""
    session = Session(store, Token.new(), timing)
    assert session.create(*verbs).state is State.LIVE
    return session


def size(session: Session) -> int:
    """Bytes of its keys and values."""
    return sum(len(name.encode()) + len(raw) for name, raw in session.everything().items())


def test_settings_reach_the_server() -> None:
    """Both limits go with every write; neither is set by default."""
    timing = Timing.of(SessionSettings(max_keys=7, max_bytes=9))
    assert (timing.max_keys, timing.max_bytes) == (7, 9)
    unlimited = Timing.of(SessionSettings())
    assert (unlimited.max_keys, unlimited.max_bytes) == (0, 0)


def test_no_limit(store: Store) -> None:
    """Without a limit a session holds what it is given."""
    session = made(store, TIMING)
    assert session.write(*[Set(f"k{n}", b"x" * 100) for n in range(200)]).state is State.LIVE
    assert len(session.everything()) == 200


def test_number_of_keys(store: Store) -> None:
    """As many keys as allowed fit; one more is refused, and the reply tells how many there would
    be."""
    session = made(store, KEYS)
    for name in ("a", "b", "c"):
        assert session.write(Set(name, b"1")).state is State.LIVE
    reply = session.write(Set("d", b"1"))
    assert (reply.state, list(reply.values)) == (State.FULL, [b"keys", 4])
    assert sorted(session.everything()) == ["a", "b", "c"]


def test_number_of_bytes(store: Store) -> None:
    """Names and values count, as they are stored; exactly as many as allowed fit."""
    session = made(store, BYTES)
    assert session.write(Set("é", b"x" * 98)).state is State.LIVE
    assert size(session) == 100
    assert session.write(Set("é", b"y" * 98)).state is State.LIVE
    reply = session.write(Set("é", b"x" * 99))
    assert (reply.state, list(reply.values)) == (State.FULL, [b"bytes", 101])
    assert session.write(Set("b", b"")).state is State.FULL
    assert session.everything() == {"é": b"y" * 98}


def test_frame_counts(store: Store) -> None:
    """The end of a value, and its version, are among the bytes that are stored."""
    session = made(store, BYTES)
    value = framed(b"x" * 94, version=7)
    assert len(value) == 98
    assert session.write(Set("ab", value)).state is State.LIVE
    assert session.write(Set("ab", value, 50_000)).state is State.FULL


def test_both_limits(store: Store) -> None:
    """Each limit is looked at for itself, and the reply names the one that is passed."""
    session = made(store, TIMING._replace(max_keys=2, max_bytes=100))
    assert session.write(Set("a", b"x" * 80), Set("b", b"")).state is State.LIVE
    assert list(session.write(Set("c", b"")).values) == [b"keys", 3]
    assert list(session.write(Set("b", b"x" * 30)).values) == [b"bytes", 112]
    wider = replace(session, timing=TIMING._replace(max_keys=1, max_bytes=100))
    assert list(wider.write(Set("b", b"x" * 30)).values) == [b"bytes", 112]  # no key more than were


GROWING: dict[str, Verb] = {
    "set": Set("d", b"1"),
    "set for a time": Set("d", b"1", 50_000),
    "setdefault": SetDefault("d", b"1"),
    "increment": Increment("d", 1),
    "append": Append("d", b"1", 1000),
    "compare_and_set": CompareAndSet("d", None, b"1"),
}


@pytest.mark.parametrize("name", GROWING)
def test_every_verb_that_adds(store: Store, name: str) -> None:
    """Whatever would add a key is refused."""
    session = made(store, KEYS, *[Set(key, b"1") for key in "abc"])
    assert session.write(GROWING[name]).state is State.FULL
    assert sorted(session.everything()) == ["a", "b", "c"]


def test_nothing_of_a_refused_write(store: Store, keys: Memory | Keys) -> None:
    """Neither its other verbs nor the step of the session's life are carried out, and the session
    ends when it would have ended."""
    session = made(store, KEYS, *[Set(key, b"1") for key in "abc"])
    before = keys.fields(session.id)
    keys.leave(session.id, 5_000)
    verbs = (Remove("a"), Set("b", b"2"), Set("d", b"1"), Set("e", b"1"))
    reply = session.write(*verbs, Renew("new"))
    assert (reply.state, list(reply.values), reply.done) == (State.FULL, [b"keys", 4], 0)
    assert 0 < (reply.left or 0) <= 5_000
    assert 0 < keys.left(session.id) <= 5_000
    assert keys.fields(session.id) == before
    assert session.other("new").state() is State.REJECTED


def test_what_is_removed_makes_room(store: Store) -> None:
    """It is what the session would hold afterwards that counts."""
    session = made(store, KEYS, *[Set(key, b"1") for key in "abc"])
    assert session.write(Pop("a"), Set("d", b"1"), Remove("d"), Set("e", b"")).state is State.LIVE
    assert sorted(session.everything()) == ["b", "c", "e"]


def test_new_session(store: Store, keys: Memory | Keys) -> None:
    """A session that would begin with too much is not made; the same name still may be."""
    session = Session(store, Token.new(), BYTES)
    reply = session.create(Set("a", b"x" * 100))
    assert (reply.state, list(reply.values), reply.left) == (State.FULL, [b"bytes", 101], None)
    assert keys.ids() == set()
    assert session.create(Set("a", b"x" * 99)).state is State.LIVE


def test_lower_limit(store: Store) -> None:
    """A session that holds more than it may by now can be read and used, as long as nothing is
    added; when it has become smaller, things fit again."""
    before = made(store, TIMING, *[Set(key, b"x" * 50) for key in "abcde"])
    session = replace(before, timing=TIMING._replace(max_keys=3, max_bytes=100))
    assert len(session.everything()) == 5
    kept: list[Any] = [
        Set("a", b"y" * 50),
        Set("a", b"y" * 40),
        SetDefault("a", b""),
        CompareAndSet("a", b"other", b"x" * 99),
        Remove("nothing"),
        Touch(),
    ]
    for part in kept:
        assert session.write(part).state is State.LIVE
    assert list(session.write(Set("a", b"y" * 41)).values) == [b"bytes", 246]
    assert list(session.write(Set("f", b""), Set("a", b"")).values) == [b"keys", 6]
    assert session.write(Remove("a"), Remove("b"), Remove("c")).state is State.LIVE
    assert session.write(Set("d", b""), Set("c", b"x")).state is State.LIVE
    assert size(session) == 54


def test_life_of_a_full_session(store: Store) -> None:
    """A session that holds more than it may can be renewed, signed in and ended."""
    before = made(store, TIMING, *[Set(key, b"1") for key in "abcde"])
    session = replace(before, timing=TIMING._replace(max_keys=1, max_bytes=1))
    assert session.write(Renew("one")).state is State.LIVE
    login = Write(
        session.other("one").token.claim,
        (),
        session.timing,
        user="ann",
        life=Login("two", "ann", None, 60_000),
    )
    assert store.execute(login).state is State.LIVE
    signed_in = session.other("two")
    assert len(signed_in.everything()) == 5
    assert signed_in.write(Invalidate(b"n")).state is State.LIVE
    assert signed_in.state() is State.ENDED


def test_values_that_ended(store: Store, keys: Memory | Keys) -> None:
    """Values whose end has come do not count."""
    session = made(store, TIMING, Set("a", b"1"))
    for name in "bcd":
        keys.put(session.id, name, b"@1000:" + b"x" * 100)
    keys.put(session.id, "e", b"@1000;2:1")
    limited = replace(session, timing=TIMING._replace(max_keys=3, max_bytes=100))
    assert limited.write(Set("b", b"1"), Set("f", b"@;2:1")).state is State.LIVE
    assert sorted(keys_of(keys.fields(session.id), keys.now())) == ["a", "b", "f"]
    assert list(limited.write(Set("g", b"1")).values) == [b"keys", 4]


def test_value_that_ends_before_it_is_written(store: Store) -> None:
    """It does not count either: request.session writes changed values with the ends that they had
    when they were read."""
    session = made(store, TIMING._replace(max_keys=2, max_bytes=50), Set("a", b"1"))
    late = b"@1000:" + b"x" * 100
    assert session.write(Set("b", b"1"), Set("c", late)).state is State.LIVE
    assert list(session.write(Set("d", b"1")).values) == [b"keys", 3]


def test_values_that_ended_leave_no_trace(server: Server) -> None:
    """However many values with an end a visitor makes, those that ended take no room for long."""
    store = open_store(read_settings({"redis.url": server.url}))
    server.empty()
    session = made(store, KEYS)
    for number in range(20):
        assert session.write(Set(f"k{number}", b"1", 50_000)).state is State.LIVE
        server.client.hset(f"sess:{session.id}", f"k{number}", "@1000:1")
        assert len(Keys(server.client).fields(session.id)) <= 3 + 5
    store.close()


@pytest.mark.parametrize("meanwhile", ["sets", "touch"])
def test_writers_without_a_limit(store: Store, meanwhile: str) -> None:
    """What others add who know of no limit, such as an older version, counts at the next write,
    however soon it comes."""
    limited = made(store, KEYS, Set("a", b"1"))
    free = replace(limited, timing=TIMING)
    for number in range(50):  # most of these within one millisecond
        assert limited.write(Set("a", b"%d" % number)).state is State.LIVE
        free.write(Set("b", b"1"), Set("c", b"1"), Set("d", b"1"))
        if meanwhile == "touch":
            limited.write(Touch())
        assert limited.write(Set("e", b"1")).state is State.FULL
        limited.write(Remove("b"), Remove("c"), Remove("d"))


def test_many_small_writes(store: Store) -> None:
    """A session that changes for long is never taken for a larger one."""
    session = made(store, TIMING._replace(max_keys=2, max_bytes=20))
    for number in range(100):
        changed = (Set("a", b"%d" % number), Set("b", b"x" * 10), Touch(), Remove("c"))
        assert session.write(*changed[:2]).state is State.LIVE
        assert session.write(changed[2]).state is State.LIVE
        assert session.write(changed[3]).state is State.LIVE
    assert session.write(Set("b", b"x" * 17)).state is State.FULL


def test_cost(server: Server) -> None:
    """An unremarkable write does not count all that the session holds, and where no limit is set,
    no write does."""
    store = open_store(read_settings({"redis.url": server.url}))
    server.empty()
    full = [Set(f"k{n}", b"1") for n in range(50)]

    def calls() -> int:
        found = server.client.info("commandstats").get("cmdstat_hgetall", {"calls": 0})
        return int(found["calls"])

    for timing, most in [
        (TIMING, 0),
        (TIMING._replace(max_keys=1000, max_bytes=100_000), 0),
        (TIMING._replace(max_keys=100), 2),
    ]:
        session = made(store, timing, *full)
        before = calls()
        for value in range(100):
            assert session.write(Set("a", b"%03d" % value)).state is State.LIVE
        assert calls() - before <= most
    store.close()


@pytest.mark.volume
@settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(sequence=sequences)
def test_memory_store_equals_a_server_with_limits(sequence: list[Any], server: Server) -> None:
    """The same random sequences as without limits, where most of what they add is refused."""
    store = open_store(read_settings({"redis.url": server.url}))
    assert isinstance(store, RedisStore)
    narrow = few_steps([limited(step, number) for number, step in enumerate(sequence)])
    try:
        compare_stores(narrow, store, server.client, limited=True)
    finally:
        store.close()


def limited(step: Any, number: int) -> Any:
    """Every third write by one who knows of no limit."""
    if not isinstance(step, Write) or number % 3 == 0:
        return step
    return structs.replace(step, timing=step.timing._replace(max_keys=2, max_bytes=24))


# -- what a login notes


class Thick(JSONCodec):
    """Its seals are longer than what they hold by 100 bytes."""

    def seal(self, id: str, name: str, raw: bytes) -> bytes:
        return bytes(100) + raw

    def unseal(self, id: str, name: str, sealed: bytes) -> bytes | None:
        return sealed[100:]


@pytest.mark.parametrize("kind", ["memory", "valkey"])
def test_info_that_is_too_long_when_it_is_sealed(kind: str, server: Server) -> None:
    """It is refused as one that is too long without a seal, not cut to what nobody can open. Nobody
    is signed in then, and the longest that fits comes back whole."""
    url = "memory://" if kind == "memory" else server.url
    api = SessionAPI(read_settings({"redis.url": url}), codec=Thick())
    session = api.create({"a": 1})
    assert session.id is not None
    with pytest.raises(ValueTooLarge, match=r"sealed info has 577 bytes, and 576 fit"):
        session.login("ann", info={"agent": "x" * 465})
    known = api.describe(session.id)
    assert known is not None
    assert (known.userid, session.get("a")) == (None, 1)
    session.login("ann", info={"agent": "x" * 464})
    known = api.describe(session.id)
    assert known is not None
    assert known.info == {"agent": "x" * 464}
    api.close()
