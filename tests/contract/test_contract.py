"""What every store promises: one suite over the memory store and real servers.

The last part holds the memory store and a server together with random sequences.
"""

import secrets
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs
from parts import EVERY_VERB, Part, in_a_row, kinds_of_verbs, write_of
from servers import Server

from pyramid_altsession.api import SessionAPI
from pyramid_altsession.config.sources import read_settings
from pyramid_altsession.config.table import SessionSettings
from pyramid_altsession.errors import SessionGone
from pyramid_altsession.interfaces import Store
from pyramid_altsession.protocol.fields import (
    CSRF_TOKEN,
    FieldCache,
    State,
    Timing,
    died_within,
    remember_dead,
)
from pyramid_altsession.protocol.frame import alive as alive_at
from pyramid_altsession.protocol.frame import end_of, ending
from pyramid_altsession.protocol.lifecycle import Invalidate, Life, Login, Renew, Touch
from pyramid_altsession.protocol.messages import Operation, Read, Reply, Write
from pyramid_altsession.protocol.token import Claim, Token, proof_of
from pyramid_altsession.protocol.verbs import (
    SAFE_INTEGER,
    Append,
    CompareAndSet,
    Everything,
    Expect,
    Get,
    Increment,
    Pop,
    Remove,
    Set,
    SetDefault,
    Verb,
)
from pyramid_altsession.session import AltSession
from pyramid_altsession.stores import open_store
from pyramid_altsession.stores.apply import Hash
from pyramid_altsession.stores.memory import MemoryStore
from pyramid_altsession.stores.redis.store import RedisStore
from pyramid_altsession.testing import Clock

TIMING = Timing(tti=60_000, interval=6_000, lifetime=3_600_000, window=10_000)
WHOLE = TIMING.tti + TIMING.interval
SLACK = 3_000
"""Milliseconds that a test may take between two steps."""


# -- looking behind a store's back


class Memory:
    """The memory store's keys."""

    def __init__(self, store: MemoryStore) -> None:
        self.hashes = store.hashes
        self.now = lambda: round(store.clock() * 1000)

    def ids(self) -> set[str]:
        return set(self.hashes)

    def fields(self, id: str) -> dict[str, bytes]:
        return dict(self.hashes.get(id, {}))

    def put(self, id: str, name: str, value: bytes) -> None:
        self.hashes.setdefault(id, Hash())[name] = value

    def left(self, id: str) -> int:
        held = self.hashes.get(id)
        return -2 if held is None else held.expires - self.now()

    def leave(self, id: str, left: int) -> None:
        self.hashes[id].expires = self.now() + left


class Keys:
    """A server's keys."""

    def __init__(self, client: "redis.Redis") -> None:
        self.client = client

    def now(self) -> int:
        seconds, micros = self.client.time()
        return int(seconds * 1000 + micros // 1000)

    def ids(self) -> set[str]:
        return {key.decode().removeprefix("sess:") for key in self.client.keys("*")}

    def fields(self, id: str) -> dict[str, bytes]:
        return {n.decode(): raw for n, raw in self.client.hgetall(f"sess:{id}").items()}

    def put(self, id: str, name: str, value: bytes) -> None:
        self.client.hset(f"sess:{id}", name, value)

    def left(self, id: str) -> int:
        return int(self.client.pttl(f"sess:{id}"))

    def leave(self, id: str, left: int) -> None:
        self.client.pexpireat(f"sess:{id}", self.now() + left)


@pytest.fixture
def keys(store: Store, client: "redis.Redis | None") -> Memory | Keys:
    """What the store of this test holds."""
    if client is not None:
        return Keys(client)
    assert isinstance(store, MemoryStore)
    return Memory(store)


@dataclass
class Session:
    """A token, a store, and what a request would ask of it."""

    store: Store
    token: Token
    timing: Timing = TIMING
    window: int = TIMING.window

    @property
    def id(self) -> str:
        return self.token.id

    def create(self, *parts: Part) -> Reply:
        return self.execute(parts, create=True)

    def write(self, *parts: Part) -> Reply:
        return self.execute(parts, window=self.window)

    def execute(self, parts: tuple[Part, ...], **more: Any) -> Reply:
        write = write_of(self.token.claim, parts, self.timing, **more)
        return in_a_row(parts, self.store.execute(write))

    def read(self, *fields: str) -> Reply:
        return self.store.execute(Read((self.token.claim,), fields, self.timing))

    def everything(self) -> dict[str, bytes]:
        """What the application stored."""
        reply = self.store.execute(Read((self.token.claim,), None, self.timing))
        return {name: raw for name, raw in reply.values.items() if name != "@c"}

    def state(self) -> State:
        """As a read sees it."""
        reply = self.read()
        return reply.values[0] if reply.state is State.DEAD else reply.state

    def other(self, verifier: str | None = None) -> "Session":
        """The same session under another verifier."""
        return replace(self, token=Token(self.id, verifier or Token.new().verifier))


@pytest.fixture
def session(store: Store) -> Session:
    """A live session that holds nothing."""
    made = Session(store, Token.new())
    made.create()
    return made


@pytest.fixture
def nobody(store: Store) -> Session:
    """A well-formed token that names no session."""
    return Session(store, Token.new())


# -- reads


class TestRead:
    def test_unknown(self, nobody: Session) -> None:
        """A token that names nothing is DEAD, which is an answer and no error."""
        assert nobody.read("a") == Reply(State.DEAD, [State.DEAD])

    def test_fields_follow_the_names_asked(self, session: Session) -> None:
        """Values stand in the order of the names, None where there is no field."""
        session.write(Set("a", b"1"), Set("b", b"2"))
        assert session.read("b", "nothing", "a").values == [b"2", None, b"1"]

    def test_all_fields(self, session: Session) -> None:
        """Without names everything comes, and of our own fields the birth alone."""
        session.write(Set("a", b"1"), Set("ü", b""))
        reply = session.store.execute(Read((session.token.claim,), None, TIMING))
        assert sorted(reply.values) == ["@c", "a", "ü"]
        assert session.everything() == {"a": b"1", "ü": b""}

    def test_any_bytes(self, session: Session) -> None:
        """Values are bytes, whatever they are."""
        value = bytes(range(256)) + b"\r\n$-1\r\n"
        session.write(Set("a", value))
        assert session.read("a").values == [value]

    def test_times_of_the_session(self, session: Session, keys: Memory | Keys) -> None:
        """A read brings the server's time, what is left, and the session's own times."""
        keys.put(session.id, "@i", b"90000")
        reply = session.read()
        assert abs(reply.now - keys.now()) <= SLACK
        assert 0 <= WHOLE - (reply.left or 0) <= SLACK
        assert reply.tti == 90_000
        assert reply.deadline == int(keys.fields(session.id)["@d"])

    def test_no_times_of_its_own(self, session: Session, store: Store) -> None:
        """Without an own tti and a lifetime the two are None."""
        endless = Session(store, Token.new(), TIMING._replace(lifetime=0))
        endless.create()
        reply = endless.read()
        assert (reply.tti, reply.deadline) == (None, None)

    def test_changes_nothing(self, session: Session, keys: Memory | Keys) -> None:
        """A read leaves fields and TTL as they are."""
        keys.leave(session.id, 5_000)
        before = keys.fields(session.id)
        session.read("a")
        session.everything()
        assert keys.fields(session.id) == before
        assert keys.left(session.id) <= 5_000

    def test_wrong_verifier(self, session: Session) -> None:
        """The selector alone gives nothing away."""
        session.write(Set("a", b"1"))
        assert session.other().read("a") == Reply(State.DEAD, [State.REJECTED])

    def test_first_live_candidate(self, session: Session, nobody: Session) -> None:
        """Of several claims the first live one is served, and told by its place."""
        session.write(Set("a", b"1"))
        second = Session(session.store, Token.new())
        second.create(Set("a", b"2"))
        claims = (session.other().token.claim, second.token.claim, session.token.claim)
        reply = session.store.execute(Read(claims, ("a",), TIMING))
        assert (reply.state, reply.which, reply.values) == (State.LIVE, 1, [b"2"])

    def test_no_live_candidate(self, session: Session, nobody: Session) -> None:
        """When none is live each claim's own state is told."""
        ended = Session(session.store, Token.new())
        ended.create()
        ended.write(Invalidate(b"n"))
        old = session.token
        session.write(Renew("new"))
        claims = (nobody.token.claim, ended.token.claim, old.claim, session.other().token.claim)
        reply = session.store.execute(Read(claims, (), TIMING))
        states = [State.DEAD, State.ENDED, State.REPLACED, State.REJECTED]
        assert reply == Reply(State.DEAD, states)

    def test_past_its_deadline(self, session: Session, keys: Memory | Keys) -> None:
        """A hash that outlived its absolute end (its TTL was changed by hand) is dead."""
        keys.put(session.id, "@d", b"%d" % (keys.now() - 1))
        assert session.state() is State.DEAD


# -- creation


class TestCreate:
    def test_fields(self, nobody: Session, keys: Memory | Keys) -> None:
        """A new session holds its proof, its times and the values, and no more."""
        nobody.create(Set("a", b"1"))
        held = keys.fields(nobody.id)
        now = keys.now()
        assert set(held) == {"@v", "@c", "@d", "@t", "a"}
        assert held["@v"] == nobody.token.claim.proof
        assert abs(int(held["@c"]) - now) <= SLACK
        assert held["@t"] == held["@c"]
        assert int(held["@d"]) == int(held["@c"]) + TIMING.lifetime

    def test_reply(self, nobody: Session) -> None:
        """It answers LIVE, with the results of the verbs and the time that is left."""
        reply = nobody.create(Set("a", b"1"), Increment("n", 2))
        assert (reply.state, list(reply.values), reply.left) == (State.LIVE, [None, b"2"], WHOLE)

    def test_no_verbs(self, nobody: Session) -> None:
        """A session may begin empty."""
        assert nobody.create().state is State.LIVE
        assert nobody.everything() == {}

    def test_no_verifier_is_stored(self, nobody: Session, keys: Memory | Keys) -> None:
        """A dump of the store holds no usable cookie."""
        nobody.create(Set("a", b"1"))
        nobody.write(Renew(Token.new().verifier))
        held = b"".join(keys.fields(nobody.id).values())
        assert nobody.token.verifier.encode() not in held

    def test_short_fields(self, nobody: Session, keys: Memory | Keys) -> None:
        """None of our own fields has more than 64 bytes, however often it is renewed."""
        nobody.create()
        current = nobody
        for _ in range(5):
            following = nobody.other()
            current.write(Renew(following.token.verifier))
            current = following
        longest = max(len(raw) for n, raw in keys.fields(nobody.id).items() if n[0] == "@")
        assert longest == 63

    def test_no_lifetime(self, store: Store, keys: Memory | Keys) -> None:
        """Lifetime 0 gives no deadline, and a TTL all the same."""
        endless = Session(store, Token.new(), TIMING._replace(lifetime=0))
        assert endless.create().left == WHOLE
        endless.write(Touch())
        assert "@d" not in keys.fields(endless.id)

    def test_lifetime_ends_first(self, store: Store, keys: Memory | Keys) -> None:
        """The TTL never passes the deadline."""
        short = Session(store, Token.new(), TIMING._replace(lifetime=30_000))
        assert short.create().left == 30_000
        assert 0 <= 30_000 - (short.write(Touch()).left or 0) <= SLACK

    def test_lost_reply(self, nobody: Session) -> None:
        """Creating again under the same proof writes into the session that was made."""
        nobody.create(Set("a", b"1"))
        assert nobody.create(Set("a", b"1")).state is State.LIVE
        assert nobody.everything() == {"a": b"1"}

    def test_name_taken(self, session: Session, keys: Memory | Keys) -> None:
        """A session of somebody else is neither adopted nor changed."""
        before = keys.fields(session.id)
        assert session.other().create(Set("a", b"1")).state is State.REJECTED
        assert keys.fields(session.id) == before

    def test_name_taken_by_a_tombstone(self, session: Session, keys: Memory | Keys) -> None:
        """The name of a session that has just ended is not used again."""
        session.write(Invalidate(b"n"))
        assert session.create(Set("a", b"1")).state is State.ENDED
        assert keys.fields(session.id) == {"@x": b"n"}

    def test_name_taken_by_no_session(self, nobody: Session, keys: Memory | Keys) -> None:
        """A hash that is no session of ours is left alone."""
        keys.put(nobody.id, "foreign", b"1")
        keys.leave(nobody.id, 5_000)
        assert nobody.create(Set("a", b"1")).state is State.DEAD
        assert keys.fields(nobody.id) == {"foreign": b"1"}

    def test_refused(self, nobody: Session, keys: Memory | Keys) -> None:
        """A verb that cannot be carried out makes no session."""
        reply = nobody.create(Set("n", b'"text"'), Increment("n", 1))
        assert (reply.state, reply.values, reply.left) == (State.REFUSED, 1, None)
        assert keys.ids() == set()

    def test_renew_at_once(self, nobody: Session, keys: Memory | Keys) -> None:
        """Made and renewed in one Write: only the newer verifier is good."""
        nobody.create(Set("a", b"1"), Renew("newer"))
        assert nobody.state() is State.REPLACED
        assert nobody.other("newer").everything() == {"a": b"1"}

    def test_invalidate_at_once(self, nobody: Session, keys: Memory | Keys) -> None:
        """Made and ended in one Write: the tombstone stands."""
        assert nobody.create(Set("a", b"1"), Invalidate(b"n")).state is State.LIVE
        assert keys.fields(nobody.id) == {"@x": b"n"}


# -- verbs about one field


@dataclass(frozen=True)
class Case:
    """What a field holds before, a verb, its result, and what the field holds afterwards."""

    before: bytes | None
    verb: Verb
    result: Any
    after: bytes | None


CASES = {
    "set new": Case(None, Set("k", b"1"), None, b"1"),
    "set again": Case(b"1", Set("k", b"2"), None, b"2"),
    "set nothing": Case(b"1", Set("k", b""), None, b""),
    "remove": Case(b"1", Remove("k"), 1, None),
    "remove empty": Case(b"", Remove("k"), 1, None),
    "remove absent": Case(None, Remove("k"), 0, None),
    "pop": Case(b"1", Pop("k"), b"1", None),
    "pop empty": Case(b"", Pop("k"), b"", None),
    "pop absent": Case(None, Pop("k"), None, None),
    "setdefault": Case(None, SetDefault("k", b"1"), b"1", b"1"),
    "setdefault held": Case(b"0", SetDefault("k", b"1"), b"0", b"0"),
    "setdefault empty": Case(b"", SetDefault("k", b"1"), b"", b""),
    "increment": Case(b"41", Increment("k", 1), b"42", b"42"),
    "increment absent": Case(None, Increment("k", 5), b"5", b"5"),
    "decrement": Case(b"1", Increment("k", -3), b"-2", b"-2"),
    "increment negative": Case(b"-10", Increment("k", 4), b"-6", b"-6"),
    "increment to zero": Case(b"-4", Increment("k", 4), b"0", b"0"),
    "increment minus zero": Case(b"-0", Increment("k", 0), b"0", b"0"),
    "increment to the top": Case(
        b"%d" % (SAFE_INTEGER - 1), Increment("k", 1), b"9007199254740991", b"9007199254740991"
    ),
    "increment from the bottom": Case(
        b"%d" % -SAFE_INTEGER, Increment("k", SAFE_INTEGER), b"0", b"0"
    ),
    "cas": Case(b"1", CompareAndSet("k", b"1", b"2"), [1, b"2"], b"2"),
    "cas absent": Case(None, CompareAndSet("k", None, b"2"), [1, b"2"], b"2"),
    "cas empty": Case(b"", CompareAndSet("k", b"", b"2"), [1, b"2"], b"2"),
    "cas other": Case(b"3", CompareAndSet("k", b"1", b"2"), [0, b"3"], b"3"),
    "cas expected": Case(None, CompareAndSet("k", b"1", b"2"), [0, None], None),
    "cas unexpected": Case(b"3", CompareAndSet("k", None, b"2"), [0, b"3"], b"3"),
    "cas empty is not absent": Case(None, CompareAndSet("k", b"", b"2"), [0, None], None),
    "cas absent is not empty": Case(b"", CompareAndSet("k", None, b"2"), [0, b""], b""),
}

NO_NUMBERS = [
    b'"1"', b"", b"-", b"1.5", b"1e3", b" 1", b"1 ", b"1\n", b"+1", b"0x10", b"--1", b"null",
    b"[]", b"nan", b"inf", b"1\x00", b"12345678901234567890", "１".encode(),
    b"9007199254740991", b"9007199254740992", b"9999999999999999", b"10000000000000000",
    b"00000000000000000001", b"-9007199254740992",
]  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_verb_on_a_field(name: str, session: Session, keys: Memory | Keys) -> None:
    """Each verb about a field has one meaning on every store."""
    case = CASES[name]
    if case.before is not None:
        keys.put(session.id, "k", case.before)
    reply = session.write(case.verb)
    assert (reply.state, list(reply.values)) == (State.LIVE, [case.result])
    assert keys.fields(session.id).get("k") == case.after


@pytest.mark.parametrize("name", CASES)
def test_verb_makes_a_session(name: str, nobody: Session, keys: Memory | Keys) -> None:
    """In a new session a verb finds what earlier verbs of its Write left."""
    case = CASES[name]
    before = [] if case.before is None else [Set("k", case.before)]
    reply = nobody.create(*before, case.verb)
    assert (reply.state, reply.values[-1]) == (State.LIVE, case.result)
    assert keys.fields(nobody.id).get("k") == case.after


@pytest.mark.parametrize("name", CASES)
def test_verb_is_remembered(name: str) -> None:
    """What a request remembers after a verb is what the store holds."""
    case = CASES[name]
    cache = FieldCache()
    case.verb.note(cache, case.result)
    assert cache.fields == {"k": case.after}


@pytest.mark.parametrize("held", NO_NUMBERS)
def test_increment_of_no_number(held: bytes, session: Session, keys: Memory | Keys) -> None:
    """What is no whole number of 53 bits is refused, and left as it is."""
    keys.put(session.id, "k", held)
    assert session.write(Increment("k", 1)).state is State.REFUSED
    assert keys.fields(session.id)["k"] == held


def test_decrement_of_a_number_beyond(session: Session, keys: Memory | Keys) -> None:
    """A number that the server's script cannot hold exactly is refused even if the sum could."""
    keys.put(session.id, "k", b"9999999999999999")
    assert session.write(Increment("k", -SAFE_INTEGER)).state is State.REFUSED


@pytest.mark.parametrize(
    ("verb", "creates", "repeatable", "absent"),
    [
        (Get("k"), False, False, None),
        (Everything(), False, False, []),
        (Expect("k", None), False, False, None),
        (Set("k", b""), True, True, None),
        (Remove("k"), False, False, 0),
        (Pop("k"), False, False, None),
        (SetDefault("k", b""), True, False, None),
        (Increment("k", 1), True, False, None),
        (Append("k", b"1", 9), True, False, None),
        (CompareAndSet("k", None, b""), True, False, [0, None]),
        (CompareAndSet("k", b"1", b""), False, False, [0, None]),
        (Touch(), False, True, 0),
        (Renew("v"), False, True, 0),
        (Invalidate(b"n"), False, True, 0),
    ],
    ids=str,
)
def test_nature_of_a_verb(verb: Verb, creates: bool, repeatable: bool, absent: object) -> None:
    """Each verb says whether it makes a session, may be repeated, and what it finds in none."""
    assert (verb.creates, verb.repeatable, verb.absent()) == (creates, repeatable, absent)


@pytest.mark.parametrize("verb", [*EVERY_VERB[1:], Expect("a", None)], ids=str)
def test_verb_on_what_has_ended(verb: Verb, session: Session, keys: Memory | Keys) -> None:
    """Whatever a verb does with a value whose end has come, the value goes."""
    for name in verb.names or ("a",):
        keys.put(session.id, name, b"@1000:1")
    assert session.write(verb).state is State.LIVE
    assert b"@1000:1" not in keys.fields(session.id).values()


def test_every_verb_is_tried() -> None:
    """No verb is forgotten where the tests try all of them."""
    assert {type(verb) for verb in EVERY_VERB} == kinds_of_verbs() == set(VERBS)


def test_life_verbs_are_not_remembered() -> None:
    """Renewal and touch keep what a request has seen; the end of the session clears it."""
    cache = FieldCache()
    cache.fields = {"a": b"1"}
    cache.complete = True
    Touch().note(cache, 1)
    Renew("v").note(cache, 1)
    assert (cache.fields, cache.complete) == ({"a": b"1"}, True)
    Invalidate(b"n").note(cache, 1)
    assert (cache.fields, cache.complete) == ({}, False)


def test_memo_tells_what_is_missing() -> None:
    """What was read, absent included, is not missing; nothing is once everything was read."""
    cache = FieldCache()
    cache.fields = {"a": b"1", "b": None, "@c": b"0"}
    assert cache.missing(("a", "b", "c")) == ("c",)
    assert cache.present() == {"a": b"1"}
    cache.complete = True
    assert cache.missing(("c",)) == ()


def test_memo_forgets() -> None:
    """A forgotten field is missing again, and so is everything that was never named."""
    cache = FieldCache()
    cache.fields = {"a": b"1", "b": b"2"}
    cache.complete = True
    cache.forget("a", "never seen")
    assert cache.missing(("a", "b", "c")) == ("a", "c")


def test_write_is_repeatable_when_all_verbs_are() -> None:
    """One verb that must not be done twice decides for the whole Write."""
    claim = Token.new().claim
    assert write_of(claim, (Set("a", b""), Touch()), TIMING).repeatable
    assert not Write(claim, (Set("a", b""), Pop("b")), TIMING).repeatable


# -- several verbs in one Write


class TestBatch:
    def test_results_in_order(self, session: Session) -> None:
        """One result for each verb, nothing shifted by those that have none."""
        reply = session.write(
            Set("a", b"1"),
            Pop("a"),
            Pop("a"),
            Touch(),
            Increment("n", 1),
            Remove("n"),
            Set("b", b""),
        )
        assert list(reply.values) == [None, b"1", None, 1, b"1", 1, None]
        assert session.everything() == {"b": b""}

    def test_later_verbs_see_earlier_ones(self, session: Session) -> None:
        """``compare_and_set`` after ``set`` of the same key compares with what was set."""
        session.write(Set("a", b"old"))
        reply = session.write(Set("a", b"1"), CompareAndSet("a", b"1", b"2"), SetDefault("a", b"3"))
        assert list(reply.values) == [None, [1, b"2"], b"2"]
        assert session.everything() == {"a": b"2"}

    def test_removed_is_absent_for_later_verbs(self, session: Session) -> None:
        """After ``remove`` the key is absent within the same Write, and may come back."""
        session.write(Set("a", b"7"))
        reply = session.write(Remove("a"), CompareAndSet("a", None, b"8"), Remove("a"), Pop("a"))
        assert list(reply.values) == [1, [1, b"8"], 1, None]
        assert session.everything() == {}

    def test_failed_comparison_is_a_result(self, session: Session) -> None:
        """A comparison that fails stops no other verb."""
        reply = session.write(CompareAndSet("a", b"1", b"2"), Set("b", b"1"))
        assert list(reply.values) == [[0, None], None]
        assert session.everything() == {"b": b"1"}

    @pytest.mark.parametrize("place", [0, 1, 2])
    def test_all_or_none(self, place: int, session: Session, keys: Memory | Keys) -> None:
        """One verb that cannot be carried out, at any place, and nothing is written at all."""
        session.write(Set("text", b'"x"'), Set("gone", b"1"))
        keys.leave(session.id, 5_000)
        before = keys.fields(session.id)
        verbs: list[Verb] = [Set("a", b"1"), Pop("gone")]
        verbs.insert(place, Increment("text", 1))
        reply = session.write(*verbs)
        assert (reply.state, reply.values) == (State.REFUSED, place)
        assert keys.fields(session.id) == before
        assert 0 < (reply.left or 0) <= 5_000
        assert keys.left(session.id) <= 5_000

    def test_refused_before_renewal(self, session: Session) -> None:
        """Neither renewal nor the end comes with a verb that is refused."""
        session.write(Set("text", b'"x"'))
        assert session.write(Renew("new"), Increment("text", 1)).state is State.REFUSED
        assert session.write(Increment("text", 1), Invalidate(b"n")).state is State.REFUSED
        assert session.write(Invalidate(b"n"), Increment("text", 1)).state is State.REFUSED
        assert session.state() is State.LIVE

    def test_end_outweighs_the_rest(self, session: Session, keys: Memory | Keys) -> None:
        """With ``invalidate`` among the verbs nothing else is kept, and all results come."""
        session.write(Set("a", b"1"))
        reply = session.write(Pop("a"), Invalidate(b"n"), Set("b", b"2"))
        assert list(reply.values) == [b"1", 1, None]
        assert keys.fields(session.id) == {"@x": b"n"}

    def test_step_comes_after_the_verbs(self, session: Session) -> None:
        """A sign-in removes the CSRF token, one of the same Write too, and its result stands
        apart."""
        verbs = (Set(CSRF_TOKEN, b'"t"'), Set("a", b"1"))
        login = Login("new", "ann", None, 60_000)
        write = Write(session.token.claim, verbs, TIMING, user="ann", life=login)
        reply = session.store.execute(write)
        assert (reply.state, list(reply.values), reply.done) == (State.LIVE, [None, None], 1)
        assert session.other("new").everything() == {"a": b"1"}

    def test_thousands_of_verbs(self, session: Session) -> None:
        """A Write has no limit of its own."""
        names = [f"k{number}" for number in range(9_000)]
        session.write(*[Set(name, b"1") for name in names])
        assert session.everything() == dict.fromkeys(names, b"1")
        assert sum(session.write(*[Remove(name) for name in names]).values) == 9_000
        assert session.everything() == {}

    def test_empty_write_is_a_touch(self, session: Session, keys: Memory | Keys) -> None:
        """Without verbs a Write restarts the tti."""
        keys.leave(session.id, 5_000)
        assert list(session.write().values) == []
        assert 0 <= WHOLE - keys.left(session.id) <= SLACK


# -- who may write


class TestGuard:
    PARTS = (*EVERY_VERB, Touch(), Renew("new"), Invalidate(b"n"))

    @pytest.mark.parametrize("verb", PARTS, ids=lambda verb: verb.wire()[0].decode())
    def test_wrong_verifier(self, verb: Verb, session: Session, keys: Memory | Keys) -> None:
        """A wrong verifier changes neither a field nor the TTL."""
        session.write(Set("a", b"1"))
        keys.leave(session.id, 5_000)
        before = keys.fields(session.id)
        reply = session.other().write(verb)
        assert (reply.state, list(reply.values), reply.left) == (State.REJECTED, [], None)
        assert keys.fields(session.id) == before
        assert keys.left(session.id) <= 5_000

    @pytest.mark.parametrize("verb", PARTS, ids=lambda verb: verb.wire()[0].decode())
    def test_dead(self, verb: Verb, nobody: Session, keys: Memory | Keys) -> None:
        """Nothing is written where there is no session."""
        reply = nobody.write(verb)
        assert (reply.state, list(reply.values), reply.left) == (State.DEAD, [], None)
        assert keys.ids() == set()

    @pytest.mark.parametrize("verb", PARTS, ids=lambda verb: verb.wire()[0].decode())
    def test_ended(self, verb: Verb, session: Session, keys: Memory | Keys) -> None:
        """Nothing touches a tombstone, not even its TTL."""
        session.write(Invalidate(b"other nonce"))
        keys.leave(session.id, 5_000)
        reply = session.write(verb)
        assert (reply.state, list(reply.values), reply.left) == (State.ENDED, [], None)
        assert keys.fields(session.id) == {"@x": b"other nonce"}
        assert keys.left(session.id) <= 5_000

    @pytest.mark.parametrize("verb", PARTS, ids=lambda verb: verb.wire()[0].decode())
    def test_replaced(self, verb: Verb, session: Session, keys: Memory | Keys) -> None:
        """The verifier of before a renewal writes nothing."""
        session.write(Set("a", b"1"))
        session.write(Renew("newer"))
        before = keys.fields(session.id)
        assert session.write(verb).state is State.REPLACED
        assert keys.fields(session.id) == before

    def test_past_its_deadline(self, session: Session, keys: Memory | Keys) -> None:
        """A hash that outlived its absolute end is not written."""
        keys.put(session.id, "@d", b"%d" % (keys.now() - 1))
        assert session.write(Set("a", b"1")).state is State.DEAD
        assert "a" not in keys.fields(session.id)

    def test_hash_without_a_proof(self, nobody: Session, keys: Memory | Keys) -> None:
        """No ``@v``, no session: a foreign hash is neither read nor written."""
        keys.put(nobody.id, "a", b"1")
        keys.leave(nobody.id, 5_000)
        assert nobody.state() is State.DEAD
        assert nobody.write(Set("a", b"2")).state is State.DEAD
        assert keys.fields(nobody.id) == {"a": b"1"}


# -- by the id and its user


class TestWhose:
    @pytest.fixture
    def holder(self, session: Session) -> Session:
        """It knows the id and no verifier."""
        session.write(Set("a", b"1"))
        return session.other()

    def read(self, holder: Session, whose: str, fields: tuple[str, ...] | None = ("a",)) -> Reply:
        return holder.store.execute(Read((holder.token.claim,), fields, TIMING, whose=whose))

    def test_of_nobody(self, holder: Session, keys: Memory | Keys) -> None:
        """Nobody's session serves whatever the verifier is."""
        reply = self.read(holder, "")
        assert (reply.state, reply.values) == (State.LIVE, [b"1"])
        assert holder.execute((Set("a", b"2"),), whose="").state is State.LIVE
        assert keys.fields(holder.id)["a"] == b"2"

    @pytest.mark.parametrize("whose", ["", "bob", "ann\n", "an"])
    def test_of_somebody_else(
        self, holder: Session, session: Session, keys: Memory | Keys, whose: str
    ) -> None:
        """It is as with a wrong verifier."""
        session.write(Login("new", "ann", None, 60_000))
        before = keys.fields(holder.id)
        assert self.read(holder, whose) == Reply(State.DEAD, [State.REJECTED])
        assert holder.execute((Set("a", b"2"),), whose=whose).state is State.REJECTED
        assert keys.fields(holder.id) == before

    def test_of_the_user(self, holder: Session, session: Session, keys: Memory | Keys) -> None:
        """The user's session serves, and all of it is read."""
        session.write(Login("new", "ann", None, 60_000))
        assert self.read(holder, "ann", None).values["a"] == b"1"
        assert holder.execute((Set("a", b"2"),), whose="ann", user="ann").state is State.LIVE
        assert keys.fields(holder.id)["a"] == b"2"

    @pytest.mark.parametrize("whose", ["", "ann"])
    def test_ended(
        self, holder: Session, session: Session, keys: Memory | Keys, whose: str
    ) -> None:
        """An ended session serves nobody, and nothing touches its tombstone."""
        session.write(Invalidate(b"nonce", told=False))
        before = keys.fields(holder.id)
        assert self.read(holder, whose) == Reply(State.DEAD, [State.ENDED])
        reply = holder.execute((Set("a", b"2"),), whose=whose)
        assert reply.state in (State.ENDED, State.OWED)
        assert keys.fields(holder.id) == before

    @pytest.mark.parametrize("whose", ["", "ann"])
    def test_none(self, nobody: Session, keys: Memory | Keys, whose: str) -> None:
        """Where there is no session none is made."""
        assert self.read(nobody, whose) == Reply(State.DEAD, [State.DEAD])
        assert nobody.execute((Set("a", b"2"),), whose=whose).state is State.DEAD
        assert keys.ids() == set()

    def test_past_its_deadline(self, holder: Session, keys: Memory | Keys) -> None:
        """A hash that outlived its absolute end serves nobody."""
        keys.put(holder.id, "@d", b"%d" % (keys.now() - 1))
        assert self.read(holder, "").state is State.DEAD
        assert holder.execute((Set("a", b"2"),), whose="").state is State.DEAD


# -- renewal


class TestRenew:
    def test_new_verifier(self, session: Session) -> None:
        """Same id, same data, new verifier; the old one is dead."""
        session.write(Set("a", b"1"))
        assert list(session.write(Renew("new")).values) == [1]
        assert session.state() is State.REPLACED
        assert session.other("new").everything() == {"a": b"1"}

    def test_lost_reply(self, session: Session, keys: Memory | Keys) -> None:
        """Repeated after a lost reply it finds its own proof, and is done."""
        session.write(Renew("new"))
        before = keys.fields(session.id)
        reply = session.write(Renew("new"))
        assert (reply.state, list(reply.values)) == (State.LIVE, [1])
        assert 0 <= WHOLE - (reply.left or 0) <= SLACK
        assert keys.fields(session.id) == before

    def test_lost_reply_of_every_verb(self, session: Session, keys: Memory | Keys) -> None:
        """Beside the renewal any verb is done once, and has a result the second time too."""
        session.write(Set("a", b"1"))
        parts = (*EVERY_VERB, Renew("new"))
        assert session.write(*parts).state is State.LIVE
        before = keys.fields(session.id)
        reply = session.write(*parts)
        assert (reply.state, len(reply.values)) == (State.LIVE, len(parts))
        assert keys.fields(session.id) == before

    def test_lost_race(self, session: Session) -> None:
        """Of two renewals by the same verifier the second is refused."""
        session.write(Renew("first"))
        assert session.write(Renew("second")).state is State.REPLACED
        assert session.other("first").state() is State.LIVE

    def test_own_proof_does_not_create(self, session: Session) -> None:
        """Creating under a taken name is refused even with the owner's next proof in hand."""
        session.write(Renew("new"))
        write = write_of(session.other().token.claim, (Renew("new"),), TIMING, create=True)
        assert session.store.execute(write).state is State.REJECTED

    def test_three_are_remembered(self, session: Session) -> None:
        """The last three verifiers that died are told from guesses; older ones are not."""
        row = [session] + [session.other() for _ in range(4)]
        for current, following in pairwise(row):
            current.write(Renew(following.token.verifier))
        states = [one.state() for one in row]
        assert states == [State.REJECTED, *[State.REPLACED] * 3, State.LIVE]
        assert [one.write(Touch()).state for one in row] == states

    def test_window(self, session: Session, keys: Memory | Keys) -> None:
        """A verifier counts as replaced for the window after its death, and not longer."""
        session.write(Renew("new"))
        for age, state in [(5_000, State.REPLACED), (10_000, State.REJECTED)]:
            died = (keys.now() - age) // 10
            entry = session.token.claim.proof[:16] + died.to_bytes(5, "big")
            keys.put(session.id, "@q", entry)
            assert (session.state(), session.write(Touch()).state) == (state, state)

    def test_window_of_the_write(self, session: Session, keys: Memory | Keys) -> None:
        """A slow request's Write may ask for a longer window, or for none."""
        session.write(Renew("new"))
        died = (keys.now() - 30_000) // 10
        keys.put(session.id, "@q", session.token.claim.proof[:16] + died.to_bytes(5, "big"))
        assert replace(session, window=40_000).write(Touch()).state is State.REPLACED
        assert replace(session, window=0).write(Touch()).state is State.REJECTED

    def test_death_in_the_future(self, session: Session, keys: Memory | Keys) -> None:
        """A death in the future (the server's clock was set back) is no longer told."""
        session.write(Renew("new"))
        died = (keys.now() + 3_600_000) // 10
        keys.put(session.id, "@q", session.token.claim.proof[:16] + died.to_bytes(5, "big"))
        assert (session.state(), session.write(Touch()).state) == (State.REJECTED,) * 2


def test_died_within_agrees_with_what_is_remembered() -> None:
    """Entries are found newest first, each with a time of its own, to 10 ms."""
    now = 1_700_000_000_000
    dead = None
    for number in range(5):
        dead = remember_dead(dead, bytes([number]) * 32, now + number * 1000)
    found = [died_within(dead, bytes([n]) * 32, now + 4000, 2001) for n in range(5)]
    assert found == [False, False, True, True, True]
    assert not died_within(dead, b"\x04" * 32, now + 3990, 2001)
    assert not died_within(None, b"\x04" * 32, now, 2001)


# -- the end


class TestInvalidate:
    def test_nothing_is_left(self, session: Session, keys: Memory | Keys) -> None:
        """Data and proof are gone at once; a tombstone stands for the window."""
        session.write(Set("a", b"1"))
        reply = session.write(Invalidate(b"nonce"))
        assert (reply.state, list(reply.values), reply.left) == (State.LIVE, [1], None)
        assert keys.fields(session.id) == {"@x": b"nonce"}
        assert 0 <= TIMING.window - keys.left(session.id) <= SLACK
        assert session.read("a") == Reply(State.DEAD, [State.ENDED])

    def test_lost_reply(self, session: Session) -> None:
        """Repeated after a lost reply it finds its own nonce, and is done."""
        session.write(Invalidate(b"nonce"))
        reply = session.write(Invalidate(b"nonce"))
        assert (reply.state, list(reply.values)) == (State.LIVE, [1])
        assert session.write(Invalidate(b"other")).state is State.ENDED

    def test_without_a_window(self, session: Session, keys: Memory | Keys) -> None:
        """With gone_window 0 no tombstone is left."""
        plain = replace(session, timing=TIMING._replace(window=0), window=0)
        assert plain.write(Invalidate(b"n")).state is State.LIVE
        assert keys.ids() == set()
        assert plain.write(Invalidate(b"n")).state is State.DEAD

    def test_nobody_is_served_by_a_tombstone(self, session: Session) -> None:
        """Not even an empty proof fits a tombstone."""
        session.write(Invalidate(b"n"))
        for proof in (b"", b"n", bytes(32)):
            reply = session.store.execute(Read((Claim(session.id, proof),), None, TIMING))
            assert reply == Reply(State.DEAD, [State.ENDED])

    def test_older_than_its_window(self, session: Session, keys: Memory | Keys) -> None:
        """A tombstone with more time left than a window (the server's clock was set back) is
        none: nobody waits an hour for it."""
        session.write(Invalidate(b"n"))
        keys.leave(session.id, 3_600_000)
        assert session.write(Set("a", b"1")).state is State.DEAD
        assert keys.fields(session.id) == {"@x": b"n"}


# -- time


class TestTime:
    def test_every_write_restarts_the_tti(self, session: Session, keys: Memory | Keys) -> None:
        """The TTL is tti + touch interval after any Write."""
        for verb in (Set("a", b"1"), Remove("nothing"), Touch(), Increment("n", 1), Pop("a")):
            keys.leave(session.id, 5_000)
            reply = session.write(verb)
            assert reply.left == WHOLE
            assert 0 <= WHOLE - keys.left(session.id) <= SLACK

    def test_nothing_moves_the_deadline(self, session: Session, keys: Memory | Keys) -> None:
        """The absolute end stays where creation put it."""
        deadline = keys.fields(session.id)["@d"]
        longer = replace(session, timing=TIMING._replace(lifetime=10 * TIMING.lifetime))
        longer.write(Set("a", b"1"))
        longer.write(Touch())
        longer.write(Renew("new"))
        longer.other("new").write(Renew("newer"))
        assert keys.fields(session.id)["@d"] == deadline

    def test_near_the_deadline(self, session: Session, keys: Memory | Keys) -> None:
        """Near the absolute end a Write restarts no more than what is left."""
        keys.put(session.id, "@d", b"%d" % (keys.now() + 20_000))
        assert 0 <= 20_000 - (session.write(Touch()).left or 0) <= SLACK
        assert 0 <= 20_000 - keys.left(session.id) <= SLACK

    def test_own_tti(self, session: Session, keys: Memory | Keys) -> None:
        """A session with a tti of its own lives by it; a longer one brings a longer interval."""
        for own, left in [(b"30000", 36_000), (b"600000", 660_000)]:
            keys.put(session.id, "@i", own)
            assert session.write(Touch()).left == left
            assert 0 <= left - keys.left(session.id) <= SLACK

    def test_clock_set_back_moves_the_deadline(self, session: Session, keys: Memory | Keys) -> None:
        """When the last use lies in the future the absolute end moves with the clock."""
        hour, now = 3_600_000, keys.now()
        keys.put(session.id, "@t", b"%d" % (now + hour))
        keys.put(session.id, "@d", b"%d" % (now + hour + 20_000))
        assert 0 <= 20_000 - (session.write(Touch()).left or 0) <= SLACK
        assert abs(int(keys.fields(session.id)["@d"]) - now - 20_000) <= SLACK
        assert abs(int(keys.fields(session.id)["@t"]) - now) <= SLACK

    def test_clock_set_back_over_the_end(self, session: Session, keys: Memory | Keys) -> None:
        """A session whose absolute end had passed by the older clock is dead, and deleted."""
        hour, now = 3_600_000, keys.now()
        keys.put(session.id, "@t", b"%d" % (now + hour))
        keys.put(session.id, "@d", b"%d" % (now + hour - 1))
        reply = session.write(Touch())
        assert (reply.state, list(reply.values), reply.left) == (State.DEAD, [], None)
        assert keys.ids() == set()


def test_timing_comes_from_the_settings() -> None:
    """Settings are seconds, a Timing milliseconds; the interval is a tenth of the tti."""
    assert Timing.of(SessionSettings()) == Timing(1_200_000, 120_000, 86_400_000, 10_000, 10_000)
    given = SessionSettings(tti=0.5, touch_interval=0.0, lifetime=0.0, gone_window=0.0)
    assert Timing.of(given) == Timing(500, 0, 0, 0, 10_000)
    assert [Timing.of(SessionSettings(notify=n)).notify for n in ("life", "keys")] == [b"l", b"k"]


def test_timing_of_a_session() -> None:
    """An own tti brings an interval of at least the setting's."""
    assert TIMING.own(None) == TIMING
    assert TIMING.own(10_000) == TIMING._replace(tti=10_000)
    assert TIMING.own(90_000) == TIMING._replace(tti=90_000, interval=9_000)


class TestEveryKeyEnds:
    """I6: no key is ever without a TTL."""

    @pytest.mark.parametrize("lifetime", [0, TIMING.lifetime])
    def test_after_every_operation(self, lifetime: int, store: Store, keys: Memory | Keys) -> None:
        """Whatever is asked, of whom ever, every key has a TTL afterwards."""
        timing = TIMING._replace(lifetime=lifetime)
        session = Session(store, Token.new(), timing)
        steps: list[Callable[[], Reply]] = [
            lambda: session.create(Set("a", b"1")),
            lambda: session.read("a"),
            *[lambda verb=verb: session.write(verb) for verb in EVERY_VERB],
            lambda: session.other().write(Set("a", b"1")),
            lambda: session.write(Set("t", b'""'), Increment("t", 1)),
            lambda: session.write(Pop("a"), Remove("b"), Remove("n")),
            lambda: session.write(Renew("new")),
            lambda: session.write(Renew("new")),
            lambda: session.write(Touch()),
            lambda: session.other("new").write(Invalidate(b"n")),
            lambda: session.other("new").write(Invalidate(b"n")),
            lambda: session.create(Set("a", b"1")),
            lambda: session.write(Touch()),
        ]
        for step in steps:
            step()
            assert keys.ids() == {session.id}
            assert 0 < keys.left(session.id) <= WHOLE

    def test_a_session_that_ends_as_it_begins(self, nobody: Session, keys: Memory | Keys) -> None:
        """Its tombstone ends too."""
        assert nobody.create(Set("a", b"1"), Invalidate(b"n")).state is State.LIVE
        assert set(keys.fields(nobody.id)) == {"@x"}
        assert 0 <= TIMING.window - keys.left(nobody.id) <= SLACK

    def test_a_write_gives_a_lost_ttl_back(self, session: Session, keys: Memory | Keys) -> None:
        """A TTL that was taken off by hand comes back with the next use."""
        if isinstance(keys, Keys):
            keys.client.persist(f"sess:{session.id}")
            assert session.read().left == -1
        session.write(Touch())
        assert 0 <= WHOLE - keys.left(session.id) <= SLACK


# -- a clock that can be set


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def memory(clock: Clock) -> MemoryStore:
    return MemoryStore(clock)


def api_on(store: Store, **session: object) -> SessionAPI:
    return SessionAPI(read_settings({"redis.url": "memory://", "session": session}), store)


def alive(api: SessionAPI, token: str) -> bool:
    """Asked without a touch."""
    try:
        return api.open(token).ttl() is not None
    except SessionGone:
        return False


HOUR = 3600.0


class TestClock:
    """The memory store's clock stands for the server's."""

    @pytest.mark.parametrize("interval", [0.0, 6.0, 60.0])
    def test_idle_end(self, interval: float, memory: MemoryStore, clock: Clock) -> None:
        """Reads keep a session alive; after the last one it lives between tti and
        tti + touch_interval."""
        for last_read in range(0, 130, 7):
            api = api_on(memory, tti=60, touch_interval=interval)
            opened = api.create({"a": 1})
            token = opened.token or ""
            for _ in range(last_read):
                clock.now += 1
                assert api.open(token).get("a") == 1
            clock.now += 59.999
            assert alive(api, token)
            clock.now += interval + 0.002
            assert not alive(api, token)

    @pytest.mark.parametrize("interval", [0.0, 6.0])
    def test_lifetime(self, interval: float, memory: MemoryStore, clock: Clock) -> None:
        """In constant use a session ends at its lifetime, and not a second later."""
        api = api_on(memory, tti=60, touch_interval=interval, lifetime=600)
        token = api.create({"a": 1}).token or ""
        for _ in range(599):
            clock.now += 1
            assert api.open(token).increment("a") > 1
            assert api.open(token).get("a") > 1
        assert alive(api, token)
        clock.now += 1.001
        assert not alive(api, token)

    def test_few_touches(self, memory: MemoryStore, clock: Clock) -> None:
        """Within one touch interval any number of reads restarts the tti once at most."""
        api = api_on(memory, tti=60, touch_interval=6)
        token = api.create({"a": 1}).token or ""
        ends = set()
        for _ in range(1000):
            clock.now += 0.0059
            api.open(token).get("a")
            ends |= {held.expires for held in memory.hashes.values()}
        assert len(ends) == 1

    @pytest.mark.parametrize("age", [0.0, 9.98])
    def test_window(self, age: float, memory: MemoryStore, clock: Clock) -> None:
        """A replaced or ended session says so for the window."""
        session = Session(memory, Token.new())
        session.create()
        session.write(Renew("new"))
        clock.now += age
        assert session.write(Touch()).state is State.REPLACED
        clock.now += 10 - age
        assert session.write(Touch()).state is State.REJECTED
        session.other("new").write(Invalidate(b"n"))
        clock.now += age
        assert session.write(Touch()).state is State.ENDED
        clock.now += 10 - age
        assert session.write(Touch()).state is State.DEAD

    def lives(
        self, api: SessionAPI, clock: Clock, use: Callable[[AltSession], object], back_at: int
    ) -> int:
        """Seconds that a session lives which is used each second, while the clock is set back
        by an hour after so many."""
        token = api.create({"a": 1}).token or ""
        for second in range(20_000):
            clock.now += 1
            if second == back_at:
                clock.now -= HOUR
            try:
                use(api.open(token))
            except SessionGone:
                return second
        raise AssertionError("it lives for ever")

    @pytest.mark.parametrize(
        ("tti", "lifetime", "back_at"),
        [(60, 600, 30), (60, 600, 539), (1200, 7200, 300), (7200, 7800, 300)],
    )
    def test_clock_set_back(
        self, tti: int, lifetime: int, back_at: int, memory: MemoryStore, clock: Clock
    ) -> None:
        """The server's clock set back by an hour leaves the lifetime right to a second, for a
        session that is only read, too."""
        api = api_on(memory, tti=tti, touch_interval=0, lifetime=lifetime)
        lived = self.lives(api, clock, lambda session: session.get("a"), back_at)
        assert abs(lived - lifetime) <= 1

    @pytest.mark.parametrize(
        ("tti", "lifetime", "back_at"), [(60, 600, 590), (1200, 7200, 7000), (7200, 7800, 5000)]
    )
    def test_clock_set_back_near_the_end(
        self, tti: int, lifetime: int, back_at: int, memory: MemoryStore, clock: Clock
    ) -> None:
        """In the last tti of the lifetime, where reads send no touch, a session that writes ends
        right to a second all the same, and one that only reads less than a tti late."""
        api = api_on(memory, tti=tti, touch_interval=0, lifetime=lifetime)
        lived = self.lives(api, clock, lambda session: session.increment("a"), back_at)
        assert abs(lived - lifetime) <= 1
        lived = self.lives(api, clock, lambda session: session.get("a"), back_at)
        assert lifetime - 1 <= lived <= lifetime + tti

    def test_clock_set_back_and_idle(self, memory: MemoryStore, clock: Clock) -> None:
        """After the clock was set back the next use brings the idle end back to tti."""
        api = api_on(memory, tti=60, touch_interval=6)
        token = api.create({"a": 1}).token or ""
        clock.now -= HOUR
        assert api.open(token).get("a") == 1
        clock.now += 59
        assert alive(api, token)
        clock.now += 7.001
        assert not alive(api, token)

    def test_clock_set_back_and_the_window(self, memory: MemoryStore, clock: Clock) -> None:
        """Neither a replaced verifier nor a tombstone says "just now" for an hour longer."""
        session = Session(memory, Token.new())
        session.create()
        session.write(Renew("new"))
        clock.now -= HOUR
        assert session.write(Touch()).state is State.REJECTED
        session.other("new").write(Invalidate(b"n"))
        clock.now -= HOUR
        assert session.write(Touch()).state is State.DEAD

    def test_clock_set_forward(self, memory: MemoryStore, clock: Clock) -> None:
        """The server's clock set forward ends sessions early, and leaves nothing behind."""
        api = api_on(memory, tti=60)
        api.create({"a": 1})
        clock.now += HOUR
        assert list(api.scan()) == []
        assert memory.hashes == {}


# -- the memory store and a server, side by side

PLACES = [secrets.token_urlsafe(16) for _ in range(2)]
VERIFIERS = ["one", "two", "three", "four", "five"]
FIELDS = ["a", "b", "ü"]
LONG = Timing(tti=40_000, interval=10_000, lifetime=200_000, window=20_000)
ENDLESS = LONG._replace(lifetime=0, window=0)
# All times above are multiples of ten seconds, and the sum of up to eight steps is never just
# below one, where the milliseconds between a server's commands would decide.
STEPS = [11.0, 21.0, 41.0, -9.9, -59.9, -199.9]
MOST_STEPS = 8

field_names = st.sampled_from(FIELDS)
unframed = [b"1", b"-7", b"0", b"", b'"x"', b"9007199254740991", b"10000000000000000", b"\xff\x00"]
FRAMED = [b"@:@\x00", b"@;2:7", b"@;3:[1]", b"@;0:", b"@", b"@12", b"@x:1", b"@;:1", b"@7:1"]
values = st.sampled_from(unframed + FRAMED)
ttls = st.sampled_from([0, 0, 20_000, 50_000])
numbers = st.sampled_from([1, -1, 0, SAFE_INTEGER, -SAFE_INTEGER])
zeros = st.sampled_from([b"0", b"@;2:0"])
VERBS: dict[type[Verb], tuple[st.SearchStrategy[Any], ...]] = {
    Get: (field_names,),
    Everything: (),
    Expect: (field_names, st.none() | values),
    Set: (field_names, values, ttls),
    Remove: (field_names,),
    Pop: (field_names,),
    SetDefault: (field_names, values, ttls),
    Increment: (field_names, numbers, zeros, ttls),
    Append: (field_names, values, st.sampled_from([8, 20, 1000])),
    CompareAndSet: (field_names, st.none() | values, values, ttls),
}
"""Every verb, with what its arguments may be."""
verbs = st.one_of([st.builds(verb, *arguments) for verb, arguments in VERBS.items()])
renewals = st.builds(Renew, st.sampled_from(VERIFIERS))
lives = st.one_of(
    st.builds(Touch),
    renewals,
    st.builds(Invalidate, st.sampled_from([b"nonce", b"other"])),
)
# Plain ones more often than the end, or nothing would live long enough to be interesting.
batches = st.one_of(
    st.tuples(st.lists(verbs, max_size=4), st.none() | st.none() | lives),
    st.tuples(st.lists(st.builds(Set, field_names, values), max_size=3), st.none()),
    st.tuples(st.just([]), renewals),
)
OWNER = b"whoever owns the session at that step"
claims = st.builds(
    lambda place, verifier: Claim(place, OWNER if verifier is None else proof_of(verifier)),
    st.sampled_from([PLACES[0], *PLACES]),
    st.sampled_from([None, None, None, *VERIFIERS]),
)
timings = st.sampled_from([LONG, LONG, LONG, ENDLESS])


def batched(
    claim: Claim, batch: tuple[list[Verb], Life | None], timing: Timing, **more: Any
) -> Write:
    return Write(claim, tuple(batch[0]), timing, life=batch[1], **more)


operations = st.one_of(
    st.builds(batched, claims, batches, timings, create=st.just(True)),
    st.builds(batched, claims, batches, timings, window=st.sampled_from([0, 20_000, 50_000])),
    st.builds(batched, claims, batches, timings, window=st.just(20_000)),
    st.builds(batched, claims, batches, timings, whose=st.sampled_from(["", "ann"])),
    st.builds(
        Read,
        st.lists(claims, min_size=1, max_size=3).map(tuple),
        st.none() | st.lists(field_names, max_size=3, unique=True).map(tuple),
        timings,
        whose=st.sampled_from([None, None, "", "ann"]),
    ),
)
own_ttis = st.tuples(st.sampled_from(PLACES), st.sampled_from([b"20000", b"300000"]))


def few_steps(sequence: list[Any]) -> list[Any]:
    """With a session to begin with."""
    steps = [place for place, one in enumerate(sequence) if isinstance(one, float)]
    birth = Write(Claim(PLACES[0], proof_of(VERIFIERS[0])), (), LONG, create=True)
    return [birth, *[one for n, one in enumerate(sequence) if n not in steps[MOST_STEPS:]]]


sequences = st.lists(operations | st.sampled_from(STEPS) | own_ttis, min_size=10, max_size=30).map(
    few_steps
)


def shift(client: "redis.Redis", seconds: float) -> None:
    """Let so much time pass for every key of the server, by moving all its times back."""
    delta = round(seconds * 1000)
    for key in client.keys("*"):
        held = client.hgetall(key)
        moved = {
            n: held[n][: held[n].startswith(b"0")] + b"%d" % (int(held[n]) - delta)
            for n in (b"@c", b"@d", b"@t")
            if n in held
        }
        if b"@q" in held:
            moved[b"@q"] = b"".join(
                proof + (int.from_bytes(died, "big") - delta // 10).to_bytes(5, "big")
                for proof, died in struct.iter_unpack("16s5s", held[b"@q"])
            )
        for name, raw in held.items():
            end = end_of(raw)
            if name[:1] != b"@" and end is not None and end > 10**12:
                moved[name] = ending(raw, end - delta)
        if moved:
            client.hset(key, mapping=moved)
        client.pexpireat(key, client.pexpiretime(key) - delta)


@dataclass(eq=False)
class Since:
    """How many milliseconds ago: equal to what is nearly as long ago, as the shortest step that a
    sequence takes is far longer."""

    ms: int

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Since) and abs(self.ms - other.ms) <= SLACK


def comparable(name: str, raw: Any, now: int) -> Any:
    """A field's content, with times as coarse distances from now."""
    if name in ("@c", "@d", "@t") and raw is not None:
        return Since(now - int(raw))
    if name == "@q" and raw is not None:
        return [
            (proof, Since(now - int.from_bytes(died, "big") * 10))
            for proof, died in struct.iter_unpack("16s5s", raw)
        ]
    if raw is not None and name[:1] != "@" and (end_of(raw) or 0) > 10**12:
        return Since(now - (end_of(raw) or 0)), ending(raw, None)
    return raw


def result(found: Any, now: int) -> Any:
    """The result of a verb: an end, a field's content, or what compare_and_set and Everything
    give."""
    if isinstance(found, list) and all(isinstance(part, bytes) for part in found):
        return {
            name: comparable("", raw, now) for name, raw in zip(*[iter(found)] * 2, strict=True)
        }
    if isinstance(found, list):
        return [result(part, now) for part in found]
    if not isinstance(found, bytes):
        return found
    is_end = len(found) == 13 and found.isdigit()
    return Since(now - int(found)) if is_end else comparable("", found, now)


def plain(reply: Reply, now: int) -> dict[str, Any]:
    """A reply with times as distances, and sequences as lists."""
    values = reply.values
    if isinstance(values, dict):
        values = {n: comparable(n, raw, now) for n, raw in values.items()}
    elif not isinstance(values, int):
        values = [result(found, now) for found in values]
    return {
        "state": reply.state,
        "values": values,
        "done": reply.done,
        "left": Since(reply.left) if (reply.left or 0) > 0 else reply.left,
        "which": reply.which,
        "user": reply.user if reply.state is State.LIVE else None,
        "tti": reply.tti,
        "deadline": reply.deadline and Since(now - reply.deadline),
    }


def resolved(operation: Operation, keys: Memory) -> Operation:
    """With the proof that the session has by now, where the owner is meant."""

    def claim(asked: Claim) -> Claim:
        owner = keys.fields(asked.id).get("@v", proof_of(VERIFIERS[0]))
        return Claim(asked.id, owner) if asked.proof == OWNER else asked

    if isinstance(operation, Read):
        return structs.replace(operation, claims=tuple(map(claim, operation.claims)))
    return structs.replace(operation, claim=claim(operation.claim))


def shown(fields: dict[str, bytes], now: int, limited: bool) -> dict[str, Any]:
    """What a session holds, to compare. A server with limits has a field for them, and may forget
    values that ended earlier."""
    return {
        name: comparable(name, raw, now)
        for name, raw in fields.items()
        if not limited or (name != "@b" and (name[:1] == "@" or alive_at(raw, now)))
    }


def compare_stores(
    sequence: list[Any], store: RedisStore, client: "redis.Redis", *, limited: bool = False
) -> None:
    client.flushall()
    offset = now = 0.0  # the server's time is the time of both, however long it takes
    memory = MemoryStore(lambda: now + offset)
    behind, keys = Memory(memory), Keys(client)
    for step in sequence:
        if isinstance(step, float):
            offset += step
            shift(client, step)
        elif isinstance(step, tuple):
            place, tti = step
            if "@v" in behind.fields(place):
                behind.put(place, "@i", tti)
                keys.put(place, "@i", tti)
        else:
            step = resolved(step, behind)
            theirs = store.execute(step)
            now = (theirs.now or keys.now()) / 1000
            ours = memory.execute(step)
            assert plain(ours, behind.now()) == plain(theirs, keys.now()), step
        now = keys.now() / 1000
        memory.execute(Read((), (), LONG))  # forget what ended
        assert behind.ids() == keys.ids()
        for id in behind.ids():
            one = shown(behind.fields(id), behind.now(), limited)
            assert one == shown(keys.fields(id), keys.now(), limited), step
            assert abs(behind.left(id) - keys.left(id)) <= SLACK
            assert keys.left(id) > 0


@pytest.mark.volume
@settings(
    max_examples=250,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(sequence=sequences)
def test_memory_store_equals_a_server(sequence: list[Any], server: Server) -> None:
    """Random sequences of reads, writes and passing time (or a clock set back) give equal
    states, results, fields and ends on the memory store and on Valkey."""
    store = open_store(read_settings({"redis.url": server.url}))
    assert isinstance(store, RedisStore)
    try:
        compare_stores(sequence, store, server.client)
    finally:
        store.close()
