"""Sealed values: what a server that is read, or written to, by somebody else gives away."""

import contextlib
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from apps import Behind, Browser, Site, Watched, site
from hypothesis import example, given, settings
from hypothesis import strategies as st
from inside import idle_in, lease_in, put_store, state_in, store_in
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.request import Request
from sealed import CODEC, SECRET, SealedBehind, opened
from servers import Server
from workers import api_at, in_threads, token_of

from pyramid_altsession import (
    AltSession,
    CorruptValue,
    ISessionAPI,
    SessionAPI,
    SessionGone,
    SessionKey,
)
from pyramid_altsession.api import OpenSession
from pyramid_altsession.codecs import EncryptedCodec, JSONCodec, encrypted
from pyramid_altsession.config.sources import read_settings
from pyramid_altsession.config.table import SessionSettings
from pyramid_altsession.interfaces import Store
from pyramid_altsession.protocol.fields import Timing
from pyramid_altsession.protocol.frame import end_of, ending, framed, split
from pyramid_altsession.protocol.lifecycle import Login
from pyramid_altsession.protocol.messages import Describe, Write
from pyramid_altsession.protocol.token import Token, new_verifier
from pyramid_altsession.protocol.verbs import Increment
from pyramid_altsession.stores.memory import MemoryStore
from pyramid_altsession.stores.sealed import SealedStore
from pyramid_altsession.testing import Clock

Act = Callable[[AltSession], Any]
OLD, NEW = "the-secret-of-the-old-days", "the-secret-of-the-new-days"
ON = {
    "altsession.session.codec": "pyramid_altsession.codecs.encrypted",
    "altsession.session.codec_secret": SECRET,
}
SYNC = {**ON, "altsession.sync.enabled": "true"}
CARD = SessionKey("card", dict[str, int], ttl=600)


@pytest.fixture
def memory() -> MemoryStore:
    """The server, as whoever runs it sees it."""
    return MemoryStore()


def api_on(store: Store, *secrets: str, **session: object) -> SessionAPI:
    """An application with these secrets."""
    values = {"codec": encrypted, "codec_secret": secrets or (SECRET,), **session}
    return SessionAPI(read_settings({"session": values}), store=store)


@pytest.fixture
def api(memory: MemoryStore) -> SessionAPI:
    return api_on(memory)


@pytest.fixture
def session(api: SessionAPI) -> OpenSession:
    return api.create({"cart": [1, 2], "name": "Ann"})


def later(api: SessionAPI, session: OpenSession) -> OpenSession:
    """The same session in another request."""
    return api.open(token_of(session))


# -- what the server sees


class Monitor:
    """Everything that the server is sent."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(server.socket)
        self._socket.sendall(b"MONITOR\r\n")
        assert self._socket.recv(5) == b"+OK\r\n"

    def seen(self) -> bytes:
        """All until now."""
        self._server.client.echo("that is all")
        received = b""
        while b"that is all" not in received:
            received += self._socket.recv(2**16)
        self._socket.close()
        return received


def dump(server: Server) -> bytes:
    """Every key with its content, and what the slow log kept."""
    client = server.client
    parts = []
    for key in client.keys("*"):
        parts += [key, client.dump(key)]
        if client.type(key) == b"hash":
            parts += [part for both in client.hgetall(key).items() for part in both]
    parts += [str(entry).encode() for entry in client.slowlog_get(10_000)]
    return b"\n".join(parts)


CANARY = "canary-8f2a"
NUMBER = 4111111111111111


def everything(request: Request) -> None:
    """Every call that stores a value."""
    session = request.altsession
    session.set("set", {"deep": [CANARY]})
    session.mset({"mset": CANARY, "number": NUMBER})
    session.set("ttl", CANARY, ttl=60)
    session.setdefault("setdefault", [CANARY])
    session.increment("increment", NUMBER)
    session.compare_and_set("cas", None, CANARY)
    session.compare_and_set("cas", CANARY, [CANARY])
    session.modify("modify", lambda found: f"{CANARY} {found}")
    session.set(CARD, {CANARY: NUMBER})
    session.modify(CARD, lambda card: {**card, "more": NUMBER})
    with session.batch() as batch:
        batch.set("batched", CANARY)
        batch.increment("counted", NUMBER)
        batch.pop("set")


def layered(request: Request) -> None:
    session = request.session
    session["item"] = {"list": [CANARY]}
    session["item"]["list"].append(CANARY)
    session.flash(CANARY)
    session.flash(CANARY, "queue")
    session.get_csrf_token()


def signed_in(request: Request) -> None:
    request.altsession.login("ann", info={"device": CANARY}, remember=3000)


def look(request: Request) -> list[Any]:
    api: SessionAPI = request.registry.getUtility(ISessionAPI)
    values = request.altsession.all()
    token = values.pop("_csrft_", None)
    return [values, token, [dict(info.info) for info in api.sessions_of("ann")]]


@pytest.mark.parametrize("settings", [{"altsession.sync.enabled": "true"}, SYNC])
def test_a_dump_holds_no_plaintext(settings: dict[str, str], any_server: Server) -> None:
    """Keys, fields, the slow log and all that goes over the wire: no value, no login info, no
    CSRF token, no flash message. (Without the codec all of them are there.)"""
    client = any_server.client
    client.config_set("slowlog-log-slower-than", 0)
    client.config_set("slowlog-max-len", 10_000)
    client.slowlog_reset()
    monitor = Monitor(any_server)
    views = {"everything": everything, "layered": layered, "signed_in": signed_in, "look": look}
    shop = site(any_server.url, views, settings=settings)
    for name in ("everything", "layered", "layered", "signed_in", "layered"):
        shop.get(f"/{name}")
    values, token, info = shop.get("/look").json
    assert values["item"] == {"list": [CANARY, CANARY]}
    assert (values["_f_"], values["_f_queue"]) == ([CANARY] * 3, [CANARY] * 3)
    assert (values["card"], values["increment"]) == ({CANARY: NUMBER, "more": NUMBER}, NUMBER)
    assert info == [{"device": CANARY}]
    seen = dump(any_server) + monitor.seen()
    client.config_set("slowlog-log-slower-than", 10_000)
    found = [text for text in (CANARY, str(NUMBER), token) if text.encode() in seen]
    assert found == ([] if settings is SYNC else [CANARY, str(NUMBER), token])
    assert SECRET.encode() not in seen
    shop.api.close()


def test_equal_values_look_different(api: SessionAPI, memory: MemoryStore) -> None:
    """Neither within a session nor between two does the server see that values are equal."""
    for _ in range(2):
        api.create({"a": "x", "b": "x"}).set("a", "x")
    seen = [held[name] for held in memory.hashes.values() for name in ("a", "b")]
    assert len(set(seen)) == 4


def test_what_sealing_costs(session: OpenSession, memory: MemoryStore) -> None:
    """A sealed value is 29 bytes longer."""
    assert len(memory.hashes[str(session.id)]["name"]) == len(b'"Ann"') + 29


def test_repr(session: OpenSession, api: SessionAPI) -> None:
    """No secret in what logs and tracebacks show."""
    shown = f"{api!r} {session!r} {store_in(api)!r} {api.commands.codec!r} {api.settings!r}"
    assert SECRET not in shown
    assert "<SessionAPI <SealedStore <MemoryStore>>>" in shown


# -- what is tampered with

Tamper = Callable[[bytes], bytes]


def repaired(api: SessionAPI, session: OpenSession) -> None:
    """The value under "cart" is CorruptValue in every call that reads it, and no other key is;
    what is stored stays, until set or remove."""
    store = store_in(api)
    assert isinstance(store, SealedStore)
    assert isinstance(store_in(store), MemoryStore)
    held = store_in(store).hashes[str(session.id)]
    before = held["cart"]
    calls: list[Act] = [
        *(lambda s: s.get("cart"), lambda s: s.get("cart", 7), lambda s: s.mget(["cart", "name"])),
        *(lambda s: s.all(), lambda s: s.setdefault("cart", 1)),
        lambda s: s.compare_and_set("cart", [1, 2], 1),
        lambda s: s.compare_and_set("cart", None, 1),
        *(lambda s: s.modify("cart", lambda found: 1), lambda s: s.get(SessionKey("cart", list))),
        lambda s: s.get(SessionKey("cart", list, version=2, migrate=lambda found, version: [])),
    ]
    for call in calls:
        with pytest.raises(CorruptValue, match="'cart' was not sealed for this session and key"):
            call(later(api, session))
    with pytest.raises(TypeError, match=r"'cart'.* no whole number"):
        later(api, session).increment("cart")
    reader = later(api, session)
    reader.prefetch("cart", "name")
    with pytest.raises(CorruptValue, match="'cart'"):
        reader.get("cart")
    with reader.batch() as batch:
        cart, name, _ = batch.get("cart"), batch.get("name"), batch.increment("visits")
    assert name.result() == "Ann"
    with pytest.raises(CorruptValue, match="'cart'"):
        cart.result()
    assert reader.exists("cart")
    assert {"cart", "name", "visits"} <= set(reader.keys())
    assert store_in(store).hashes[str(session.id)]["cart"] == before
    later(api, session).set("cart", [3])
    assert later(api, session).get("cart") == [3]
    store_in(store).hashes[str(session.id)]["cart"] = before
    assert later(api, session).remove("cart") == 1
    assert later(api, session).get("cart") is None


@pytest.mark.parametrize(
    "tamper",
    [
        lambda raw: raw[:-1],
        lambda raw: raw[:29],
        lambda raw: raw[:28],
        lambda raw: raw[:13],
        lambda raw: raw[:12],
        lambda raw: raw[:1],
        lambda raw: b"",
        lambda raw: raw + b"\x00",
        lambda raw: raw[1:],
        lambda raw: b"\x02" + raw[1:],
        lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]),
        lambda raw: raw[:1] + bytes(12) + raw[13:],
        lambda raw: b"\x01" + bytes(28),
        lambda raw: b"[1,2]",
        lambda raw: b"0",
        lambda raw: b"null",
        lambda raw: b"\x00",
        lambda raw: b"@:" + raw[1:],
        lambda raw: b"@;2:[1,2]",
        lambda raw: b"@9999999999999:[1,2]",
        lambda raw: b"@9999999999999:",
    ],
)
def test_tampered_with(tamper: Tamper, api: SessionAPI, session: OpenSession,
                       memory: MemoryStore) -> None:  # fmt: skip
    """A value that was cut, lengthened or changed, or put there unsealed."""
    held = memory.hashes[str(session.id)]
    held["cart"] = tamper(held["cart"])
    repaired(api, session)


def test_moved_to_another_key(api: SessionAPI, session: OpenSession, memory: MemoryStore) -> None:
    """A value of this session's under another key."""
    session.set("other", [3])
    held = memory.hashes[str(session.id)]
    held["cart"] = held["other"]
    repaired(api, session)


def test_moved_to_another_session(
    api: SessionAPI, session: OpenSession, memory: MemoryStore
) -> None:
    """The value of the same key of another session."""
    other = api.create({"cart": [3]})
    memory.hashes[str(session.id)]["cart"] = memory.hashes[str(other.id)]["cart"]
    repaired(api, session)


def test_another_applications_secret(
    api: SessionAPI, session: OpenSession, memory: MemoryStore
) -> None:
    """A value that was sealed for this very key and session under another secret."""
    other = EncryptedCodec((OLD,))
    memory.hashes[str(session.id)]["cart"] = other.seal(str(session.id), "cart", b"[3]")
    repaired(api, session)


def test_every_bit(api: SessionAPI, session: OpenSession, memory: MemoryStore) -> None:
    """Whichever bit of a sealed value is flipped."""
    raw = memory.hashes[str(session.id)]["cart"]
    for bit in range(8 * len(raw)):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        memory.hashes[str(session.id)]["cart"] = bytes(flipped)
        reader = later(api, session)
        with pytest.raises(CorruptValue, match="'cart'"):
            reader.get("cart")
        assert reader.get("name") == "Ann"


def test_another_version(api: SessionAPI, session: OpenSession, memory: MemoryStore) -> None:
    """A value cannot be made one of another version, which would migrate it; its end can be
    changed, as the server judges by it."""
    newer = SessionKey("price", int, version=2, migrate=lambda found, version: found * 100)
    session.set(SessionKey("price", int), 5)
    session.set(SessionKey("cents", int, version=2), 500, ttl=60)
    held = memory.hashes[str(session.id)]
    for name in ("price", "cents"):
        held[name] = framed(split(held[name])[1], 2, end_of(held[name]))
    reader = later(api, session)
    assert reader.get(newer) == 500
    assert reader.get(SessionKey("cents", int, version=2)) == 500
    with pytest.raises(CorruptValue, match="of version 2, and 1 is wanted"):
        reader.get(SessionKey("cents", int))
    held["cents"] = ending(held["cents"], 1)
    assert later(api, session).get("cents") is None


def test_login_info_beside_a_verb_that_reads(memory: MemoryStore) -> None:
    """What is noted at login is sealed whatever else the same write does."""
    store, timing, token = SealedStore(memory, CODEC), Timing(60_000, 0, 0, 0), Token.new()
    store.execute(Write(token.claim, (), timing, create=True))
    login = Login(new_verifier(), "ann", None, 60_000, info=b"phone")
    verbs = (Increment("n", 1),)
    store.execute(Write(token.claim, verbs, timing, user="ann", life=login))
    assert b"phone" not in memory.hashes[token.id]["@n0"]
    (known,) = store.execute(Describe((token.id,))).values
    assert known.info == b"phone"


@pytest.mark.parametrize("info", [b'{"device":"x"}', b"\x01" + bytes(40), b"\x00"])
def test_tampered_with_login_info(info: bytes, api: SessionAPI, memory: MemoryStore) -> None:
    """A user's sessions are listed all the same, so that they can be ended."""
    browser = Browser(api)
    browser.does(lambda s: s.login("ann", info={"device": "phone"}))
    (id,) = memory.hashes
    assert [known.info for known in api.sessions_of("ann")] == [{"device": "phone"}]
    memory.hashes[id]["@n0"] = info
    for name in ("@n1", "@n2"):
        memory.hashes[id].pop(name, None)
    (known,) = api.sessions_of("ann")
    assert (known.id, known.userid, known.info) == (id, "ann", {})
    assert api.describe(id) == known
    assert list(api.scan()) == [known]


def test_login_info_of_the_greatest_length(api: SessionAPI) -> None:
    """512 bytes of info, sealed, still fit."""
    info = {"device": "x" * (512 - len('{"device":""}'))}
    Browser(api).does(lambda s: s.login("ann", info=info))
    Browser(api).does(lambda s: s.login("ann"))
    assert sorted(len(known.info) for known in api.sessions_of("ann")) == [0, 1]
    assert info in [known.info for known in api.sessions_of("ann")]


# -- rotation of keys


def test_rotation(memory: MemoryStore) -> None:
    """A live session through a change of secrets: the new one in front, then alone. What was
    written meanwhile stays; what was not is CorruptValue, key by key, until it is set."""
    before, between, after = api_on(memory, OLD), api_on(memory, NEW, OLD), api_on(memory, NEW)
    token = token_of(before.create({"cart": [1], "name": "Ann", "count": 1}))
    session = between.open(token)
    assert session.all() == {"cart": [1], "name": "Ann", "count": 1}
    session.set("cart", [2])
    session.increment("count")
    assert session.compare_and_set("name", "Ann", "Bob")
    session.set("late", "x")
    assert before.open(token).exists("cart")
    with pytest.raises(CorruptValue, match=r"'cart'.*session\.codec_secret"):
        before.open(token).get("cart")
    assert before.open(token).set("old", 1) is None
    assert after.open(token).mget(["cart", "name", "count", "late"]) == {
        "cart": [2], "name": "Bob", "count": 2, "late": "x"
    }  # fmt: skip
    with pytest.raises(CorruptValue, match="'old'"):
        after.open(token).get("old")
    after.open(token).set("old", 2)
    assert after.open(token).get("old") == 2


def test_rotation_and_login_info(memory: MemoryStore) -> None:
    """What a login noted is read under an older secret too, and is missing without it."""
    Browser(api_on(memory, OLD)).does(lambda s: s.login("ann", info={"device": "phone"}))
    found = [api_on(memory, *secrets).sessions_of("ann") for secrets in ((NEW, OLD), (NEW,))]
    assert [[known.info for known in sessions] for sessions in found] == [
        [{"device": "phone"}], [{}]
    ]  # fmt: skip


# -- what does not change is not written


def fields(store: Store) -> dict[str, dict[str, bytes]]:
    assert isinstance(store, MemoryStore)
    return {id: dict(held) for id, held in store.hashes.items()}


def test_a_read_only_request_writes_nothing() -> None:
    """Neither through request.altsession nor through request.session, whatever is looked at."""

    def put(request: Request) -> None:
        request.altsession.mset({"cart": {"items": [{"n": 1}]}, "name": "Ann"})
        request.session.flash("hello")
        request.session.get_csrf_token()

    def read(request: Request) -> list[Any]:
        session = request.session
        session["cart"]["items"][0]["n"] = 1
        session.changed()
        values = [dict(session), session.peek_flash(), session.get_csrf_token()]
        return [*values, request.altsession.all(), request.altsession.get("cart")]

    shop: Site = site("memory://", {"put": put, "read": read}, settings=SYNC)
    shop.get("/put")
    sealed = shop.watched.store
    assert isinstance(sealed, SealedStore)
    before = fields(store_in(sealed))
    shop.watched.operations.clear()
    shop.get("/read")
    assert fields(store_in(sealed)) == before
    assert [o for o in shop.watched.operations if isinstance(o, Write)] == []


def test_an_unchanged_value_is_not_rewritten(
    session: OpenSession, api: SessionAPI, memory: MemoryStore
) -> None:
    """Where a value is worked out and stays what it was, its bytes stay."""
    session.set("n", 1)
    before = fields(memory)[str(session.id)]
    calls: list[Act] = [
        lambda s: s.increment("n", 0),
        lambda s: s.compare_and_set("cart", [1, 2], [1, 2]),
        lambda s: s.modify("cart", lambda found: found),
        lambda s: s.compare_and_set("cart", [3], [4]),
    ]
    for call in calls:
        call(later(api, session))
    after = fields(memory)[str(session.id)]
    assert {n: raw for n, raw in after.items() if n[0] != "@"} == {
        n: raw for n, raw in before.items() if n[0] != "@"
    }


# -- many at once


@pytest.fixture
def busy(server: Server) -> Iterator[SessionAPI]:
    """An application on a real server."""
    api = api_at(
        server.url, redis__timeout=10, session__codec=encrypted, session__codec_secret=SECRET
    )
    yield api
    api.close()


def test_increments_from_sixteen_threads(busy: SessionAPI) -> None:
    """Each counts, and every caller gets a sum of its own."""
    token = token_of(busy.create())

    def count(number: int) -> list[int]:
        session = busy.open(token)
        return [session.increment("n") for _ in range(25)]

    found = [sum for sums in in_threads(16, count) for sum in sums]
    assert sorted(found) == list(range(1, 401))
    assert busy.open(token).get("n") == 400


def test_of_64_that_compare_and_set_one_wins(busy: SessionAPI) -> None:
    """Round after round."""
    token = token_of(busy.create({"turn": 0}))
    for turn in range(5):
        sessions = [busy.open(token) for _ in range(64)]

        def take(number: int, turn: int = turn, sessions: Any = sessions) -> bool:
            return bool(sessions[number].compare_and_set("turn", turn, turn + 1))

        assert sum(in_threads(64, take)) == 1
        assert busy.open(token).get("turn") == turn + 1


def test_modify_from_eight_threads(busy: SessionAPI) -> None:
    """Nobody's change is lost."""
    token = token_of(busy.create({"list": []}))

    def add(number: int) -> None:
        session = busy.open(token)
        for turn in range(10):
            session.modify("list", lambda found, turn=turn: [*found, [number, turn]])

    in_threads(8, add)
    found = busy.open(token).get("list")
    assert sorted(found) == [[number, turn] for number in range(8) for turn in range(10)]


def test_batches_from_eight_threads(busy: SessionAPI) -> None:
    """All of a batch or nothing, and what it read is what it wrote upon."""
    token = token_of(busy.create({"a": 0, "b": 100}))

    def move(number: int) -> list[list[int]]:
        session, sums = busy.open(token), []
        for _ in range(10):
            with session.batch() as batch:
                handles = [batch.increment("a"), batch.increment("b", -1), batch.get("a")]
            sums.append([handle.result() for handle in handles])
        return sums

    found = [sums for part in in_threads(8, move) for sums in part]
    assert sorted(found) == [[n, 100 - n, n] for n in range(1, 81)]


def test_flash_messages_of_sixteen_requests(server: Server) -> None:
    """Messages that requests append at once all arrive."""
    shop = site(
        server.url,
        {
            "start": lambda request: request.altsession.set("x", 1),
            "flash": lambda request: request.session.flash(request.params["m"]),
            "pop": lambda request: request.session.pop_flash(),
        },
        settings={**SYNC, "altsession.redis.timeout": "10"},
    )
    shop.get("/start")
    browsers = [shop.other() for _ in range(16)]
    in_threads(16, lambda number: browsers[number].get(f"/flash?m={number}"))
    assert sorted(shop.get("/pop").json, key=int) == [str(number) for number in range(16)]
    assert shop.get("/pop").json == []
    shop.api.close()


def test_somebody_else_is_always_faster(api: SessionAPI, session: OpenSession) -> None:
    """The loop has an end."""
    sealed = store_in(api)
    assert isinstance(sealed, SealedStore)
    watched = Watched(store_in(sealed))
    put_store(sealed, watched)
    numbers = iter(range(1, 1000))

    def interfere(operation: object) -> None:
        if isinstance(operation, Write):
            watched.before = lambda operation: None
            api.open(token_of(session)).set("n", next(numbers))
            watched.before = interfere

    watched.before = interfere
    with pytest.raises(RuntimeError, match="other requests were faster 100 times"):
        later(api, session).increment("n")


def crossed(api: SessionAPI, session: OpenSession, other: Act) -> OpenSession:
    """The session, whose next write another request has just crossed."""
    sealed = store_in(api)
    assert isinstance(sealed, SealedStore)
    watched = Watched(store_in(sealed))
    put_store(sealed, watched)

    def cross(operation: object) -> None:
        if isinstance(operation, Write):
            watched.before = lambda operation: None
            other(later(api, session))

    watched.before = cross
    return later(api, session)


def test_batch_that_shows_all_keys_shows_one_moment(api: SessionAPI, session: OpenSession) -> None:
    """Beside a call that is worked out here, ``all`` and ``keys`` show what the write meets."""
    with crossed(api, session, lambda s: s.set("meanwhile", 1)).batch() as batch:
        before, number, after = batch.all(), batch.increment("n"), batch.keys()
    assert before.result() == {"cart": [1, 2], "name": "Ann", "meanwhile": 1}
    assert number.result() == 1
    assert after.result() == ["cart", "meanwhile", "n", "name"]


@pytest.mark.parametrize("look", ["all", "get"])
def test_batch_that_stores_the_same_value_again(
    api: SessionAPI, session: OpenSession, look: str
) -> None:
    """It is stored, although another request removes it between the read and the write."""
    with crossed(api, session, lambda s: s.remove("name")).batch() as batch:
        seen = batch.all() if look == "all" else batch.get("name")
        batch.increment("n")
        batch.set("name", "Ann")
    assert seen.result() == ({"cart": [1, 2]} if look == "all" else None)
    assert later(api, session).get("name") == "Ann"


# -- the same as without


names = st.sampled_from(["a", "b", "n"])
plain_values = st.sampled_from([0, 1, 2**53 - 1, "x", "@:x", [], [1], {"a": "b"}, None, True])
lasting = st.none() | st.sampled_from([10, 30])
typed = st.sampled_from(
    [SessionKey("n", int, ttl=20), SessionKey("a", int, version=2), SessionKey("b", int)]
)
calls = st.one_of(
    st.tuples(st.just("set"), names, plain_values, lasting),
    st.tuples(st.sampled_from(["get", "pop", "exists", "remove"]), names),
    st.tuples(st.just("mget"), st.lists(names)),
    st.tuples(st.just("increment"), names | typed, st.sampled_from([1, -3, 2**53 - 1])),
    st.tuples(st.just("setdefault"), names, plain_values),
    st.tuples(st.just("setdefault"), typed, st.integers(0, 9)),
    st.tuples(st.just("compare_and_set"), names, plain_values, plain_values),
    st.tuples(st.just("compare_and_set"), typed, st.none() | st.integers(0, 3),
              st.integers(0, 3)),
    st.tuples(st.just("mset"), st.dictionaries(names, plain_values, min_size=1)),
    st.tuples(st.sampled_from(["all", "keys"])),
)  # fmt: skip
steps = st.one_of(
    calls,
    calls,
    st.tuples(st.just("batch"), st.lists(calls, min_size=1, max_size=5)),
    st.tuples(st.just("modify"), names, plain_values),
    st.tuples(st.sampled_from(["touch", "renew", "invalidate", "next", "userid", "exists"])),
    st.tuples(st.just("login"), st.sampled_from(["ann", "bob"])),
    st.tuples(st.just("pass"), st.sampled_from([1, 15, 700, 1300])),
    st.tuples(st.just("old cookie")),
    st.tuples(st.just("prefetch"), names),
)


class Side:
    """A visitor of one of two applications that differ in their codec alone."""

    def __init__(self, codec: EncryptedCodec | None) -> None:
        self.clock = Clock()
        self.store = MemoryStore(self.clock)
        self.browser = Browser(SessionAPI(read_settings({}), store=self.store, codec=codec))
        self.codec = codec
        self.session = self.browser.visit()
        self.old: str | None = None

    def does(self, step: tuple[Any, ...]) -> Any:
        """What the step gives, or how it fails."""
        name, *arguments = step
        try:
            if name == "next":
                return bool(self.browser.answer().headers.get("Set-Cookie")), self.begin()
            if name == "pass":
                self.clock.now += arguments[0]
                return None
            if name == "old cookie":
                self.browser.answer()
                self.browser.jar, self.old = self.old, self.browser.jar
                return self.begin()
            if name == "batch":
                with self.session.batch() as batch:
                    handles = [self.call(batch, *call) for call in arguments[0]]
                return [self.result(handle) for handle in handles]
            return self.call(self.session, name, *arguments)
        except (TypeError, CorruptValue, SessionGone) as error:
            return type(error), str(error)

    def call(self, target: Any, name: str, *arguments: Any) -> Any:
        if name == "set":
            key, value, ttl = arguments
            return target.set(key, value, ttl=ttl)
        if name == "modify":
            key, value = arguments
            return target.modify(key, lambda found: [found, value])
        return getattr(target, name)(*arguments)

    def result(self, handle: Any) -> Any:
        with contextlib.suppress(TypeError):
            return handle.result()

    def begin(self) -> None:
        self.session = self.browser.visit()

    @property
    def held(self) -> list[Any]:
        """All sessions, opened: ids and proofs are random, so without them."""
        ours = ("@v", "@q", "@p", "@x")
        return sorted(
            (held.expires, sorted((n, self.opened(id, n, held[n])) for n in held if n not in ours))
            for id, held in self.store.hashes.items()
        )

    def opened(self, id: str, name: str, raw: bytes) -> bytes:
        return raw if self.codec is None else opened(id, name, raw)


@pytest.mark.volume
@example([("set", "a", 2**53 - 1, None), ("login", "ann"), ("increment", "a", 1), ("userid",)])
@given(st.lists(steps, max_size=30))
@settings(max_examples=300, deadline=None)
def test_every_call_gives_what_it_gives_without_sealing(program: list[tuple[Any, ...]]) -> None:
    """Random programs of two applications, one with the codec, one without: the same results,
    failures and cookies, and in the end the same sessions."""
    plain, sealed = Side(None), Side(CODEC)
    for step in program:
        assert sealed.does(step) == plain.does(step)
        assert sealed.session.new == plain.session.new
    assert sealed.held == plain.held


def test_a_batch_that_contradicts_itself(memory: MemoryStore) -> None:
    """Where no session is, a batch that is refused makes none, and the next write does."""
    browser = Browser(api_on(memory))
    browser.does(lambda s: s.set("x", 1))
    memory.hashes.clear()
    session = browser.visit()

    def refused() -> None:
        with session.batch() as batch:
            batch.set("n", "text")
            batch.increment("n")

    with pytest.raises(TypeError, match="no whole number"):
        refused()
    session.set("x", 2)
    browser.answer()
    assert browser.visit().all() == {"x": 2}


def test_prefetch(api: SessionAPI, session: OpenSession) -> None:
    """A prefetched value is opened when it is used; one that is not is dropped."""
    reader = later(api, session)
    reader.prefetch("cart")
    assert reader.get("cart") == [1, 2]
    reader.prefetch("name")
    state_in(reader).abandon()
    assert reader.get("name") == "Ann"


def test_other_json(session: OpenSession, api: SessionAPI, memory: MemoryStore) -> None:
    """compare_and_set compares values, whatever the spaces in the JSON that another program
    sealed."""
    behind = SealedBehind(SealedStore(memory, CODEC))
    behind.put(str(session.id), "map", b'{ "b" : 2,\n "a": 1 }')
    assert not later(api, session).compare_and_set("map", {"a": 1}, "x")
    assert later(api, session).compare_and_set("map", {"a": 1, "b": 2}, "x")
    assert later(api, session).get("map") == "x"


# -- settings


def included(settings: dict[str, str]) -> SessionAPI:
    """An application's configuration."""
    config = Configurator(settings={"altsession.redis.url": "memory://", **settings})
    config.include("pyramid_altsession")
    config.commit()
    api: SessionAPI = config.registry.getUtility(ISessionAPI)
    return api


def test_without_a_secret() -> None:
    """The codec without its secret is one error, at start, that names the setting."""
    with pytest.raises(ConfigurationError) as caught:
        included({"altsession.session.codec": "pyramid_altsession.codecs.encrypted"})
    assert (
        "altsession.session.codec_secret: the encrypted codec wants one or several secrets of at"
        " least 16 characters, and none is given"
    ) in str(caught.value)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without cryptography the error says what to install."""
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(ConfigurationError) as caught:
        included(ON)
    assert (
        "altsession.session.codec: the encrypted codec needs the library cryptography;"
        ' pip install "pyramid_altsession[encryption]"'
    ) in str(caught.value)


class Tagged(JSONCodec):
    """A codec of an application's, whose longer values look like frames."""

    def encode(self, key: str, value: Any) -> bytes:
        raw = super().encode(key, value)
        return raw if len(raw) <= 3 else b"@1:" + raw

    def decode(self, key: str, raw: bytes) -> Any:
        assert len(raw) <= 3 or raw[:3] == b"@1:"
        return super().decode(key, raw.removeprefix(b"@1:"))


def tagged(settings: SessionSettings) -> Tagged:
    assert settings.tti == 1200
    return Tagged()


def test_a_codec_of_the_applications() -> None:
    """``session.codec`` names a function that gets the settings and returns the codec; its bytes
    may be anything, also what looks like a frame of ours."""
    api = included({"altsession.session.codec": "test_encrypted.tagged"})
    session = api.create({"a": [1], "n": None, "long": "text"})
    session.set("b", "x", ttl=60)
    session.set(SessionKey("c", set[int], version=2), {1})
    reader = later(api, session)
    assert reader.all() == {"a": [1], "b": "x", "c": [1], "n": None, "long": "text"}
    assert reader.get(SessionKey("c", set[int], version=2)) == {1}
    assert reader.compare_and_set("b", "x", "y")
    assert reader.compare_and_set("a", [1], [2, 3])
    assert later(api, session).mget(["a", "b"]) == {"a": [2, 3], "b": "y"}
    store = store_in(api)
    assert isinstance(store, MemoryStore)
    assert store.hashes[str(session.id)]["a"] == b"@:@1:[2,3]"
    session.login("ann", info={"device": "phone"})
    assert [known.info for known in api.sessions_of("ann")] == [{"device": "phone"}]


def test_a_codec_of_the_applications_under_request_session() -> None:
    """A change in place gives such bytes the frame that they need."""
    shop = site(
        "memory://",
        {
            "put": lambda request: request.session.update({"a": [1]}),
            "change": lambda request: request.session["a"].append(2),
            "read": lambda request: request.session["a"],
        },
        settings={
            "altsession.session.codec": "test_encrypted.tagged",
            "altsession.sync.enabled": "true",
        },
    )
    shop.get("/put")
    shop.get("/change")
    assert shop.get("/read").json == [1, 2]


class Bytes:
    """A codec that seals, and to whom every text of bytes is a value."""

    def encode(self, key: str, value: bytes) -> bytes:
        return value

    def decode(self, key: str, raw: bytes) -> bytes:
        return raw

    def seal(self, id: str, key: str, plain: bytes) -> bytes:
        return f"{id}{key}".encode() + plain[::-1]

    def unseal(self, id: str, key: str, sealed: bytes) -> bytes | None:
        start = f"{id}{key}".encode()
        return sealed.removeprefix(start)[::-1] if sealed.startswith(start) else None


@pytest.mark.parametrize("value", [b"", b"\x00", b"@", b"@1:", b"@;2:x", b"abc"])
def test_a_sealing_codec_of_the_applications(value: bytes, memory: MemoryStore) -> None:
    """Any codec may seal; what its seal does not open never becomes a value, not even for a codec
    to whom all bytes are one."""
    api = SessionAPI(read_settings({}), store=memory, codec=Bytes())
    session = api.create({"a": value, "b": b"x"})
    assert later(api, session).all() == {"a": value, "b": b"x"}
    assert later(api, session).compare_and_set("a", value, b"@new")
    assert later(api, session).get("a") == b"@new"
    for forged in (b"", b"\x00", b"abc"):
        memory.hashes[str(session.id)]["a"] = forged
        reader = later(api, session)
        with pytest.raises(CorruptValue, match="'a'"):
            reader.get("a")
        with pytest.raises(CorruptValue, match="'a'"):
            later(api, session).compare_and_set("a", value, b"y")


def test_closing(server: Server) -> None:
    """Closing reaches the connections."""
    api = api_at(server.url, session__codec=encrypted, session__codec_secret=SECRET)
    api.create()
    api.check()
    api.close()
    assert isinstance(store_in(api), SealedStore)
    assert idle_in(lease_in(store_in(store_in(api)))) == deque()


def test_other_keys_go_on_in_a_view() -> None:
    """A view that meets a value it cannot open still has its other keys."""

    def read(request: Request) -> list[Any]:
        try:
            cart = request.altsession.get("cart")
        except CorruptValue:
            request.altsession.remove("cart")
            cart = "repaired"
        return [cart, request.altsession.get("name")]

    def put(request: Request) -> None:
        request.altsession.mset({"cart": [1], "name": "Ann"})

    shop = site("memory://", {"put": put, "read": read}, settings=ON)
    shop.get("/put")
    behind = Behind(store_in(shop.watched.store))
    (id,) = behind.ids()
    behind.put(id, "cart", b"[2]")
    assert shop.get("/read").json == ["repaired", "Ann"]
    assert shop.get("/read").json == [None, "Ann"]
