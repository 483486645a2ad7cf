"""``request.session`` at its limits: sizes, depth, a full server, a made answer, other readers."""

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from apps import Site, site
from pyramid.authentication import SessionAuthenticationHelper
from pyramid.events import NewResponse
from pyramid.exceptions import ConfigurationError
from pyramid.request import Request
from pyramid.response import Response
from pyramid.testing import DummyRequest
from servers import Server
from test_sync import ON, Visitor, fail_on

from pyramid_altsession import (
    CorruptValue,
    SessionGone,
    SessionKey,
    StoreUnavailable,
    ValueTooLarge,
)
from pyramid_altsession.codecs import MAX_DEPTH, JSONCodec
from pyramid_altsession.config.sources import read_settings
from pyramid_altsession.interfaces import Store
from pyramid_altsession.protocol.commands import Commands
from pyramid_altsession.protocol.lifecycle import Renew
from pyramid_altsession.protocol.messages import Write
from pyramid_altsession.stores.memory import MemoryStore
from pyramid_altsession.web.request_session import session_factory

LONG = "x" * 1500


@pytest.fixture
def visitor() -> Visitor:
    """Somebody with a live session in memory: ``{"a": 1, "b": [1]}``."""
    return Visitor.with_session(MemoryStore())


@pytest.fixture
def live(store: Store) -> Visitor:
    """The same on every store, real servers included."""
    return Visitor.with_session(store)


@pytest.fixture
def narrow(visitor: Visitor) -> Visitor:
    """The visitor with a stored value that is longer than the limit, as that was lowered."""
    visitor.api.open(visitor.jar).mset({"report": LONG, "list": ["x" * 1500]})
    found = Visitor(visitor.watched.store, visitor.jar, session={"max_value_bytes": 1000})
    found.watched.operations.clear()
    return found


# -- reading never enforces a limit


READS: list[Callable[[Any, Any], object]] = [
    lambda s, alt: len(s["report"]) == 1500 or None,
    lambda s, alt: dict(s),
    lambda s, alt: s.setdefault("report", "other") == LONG or None,
    lambda s, alt: s.peek_flash() == [] or None,
    lambda s, alt: s.pop_flash() == [] or None,
    lambda s, alt: (s["report"], alt.get("a"))[1] == 1 or None,
    lambda s, alt: alt.setdefault("report", "other") == LONG or None,
    lambda s, alt: (s["list"], alt.all()),
    lambda s, alt: alt.compare_and_set("report", LONG, "short") or None,
    lambda s, alt: alt.compare_and_set("report", LONG, LONG) or None,
    lambda s, alt: alt.compare_and_set("report", LONG + "x", "short") is False or None,
    lambda s, alt: alt.modify("report", lambda value: value) == LONG or None,
    lambda s, alt: alt.modify("report", lambda value: value[:900]) == LONG[:900] or None,
    lambda s, alt: (s["report"], alt.set("a", 2)),
    lambda s, alt: (s["report"], s.__setitem__("a", 2)),
    lambda s, alt: (s["report"], s.flash("x")),
]


@pytest.mark.parametrize("case", range(len(READS)))
def test_a_value_longer_than_the_limit(narrow: Visitor, case: int) -> None:
    """Whatever does not make such a value longer works, at the call and at the end."""
    session = narrow()
    assert READS[case](session, narrow.latest.altsession) is not None
    narrow.done()


def test_comparison_in_a_batch(narrow: Visitor) -> None:
    """So does a comparison with it in a batch."""
    narrow()
    with narrow.latest.altsession.batch() as batch:
        done = batch.compare_and_set("report", LONG, "short")
    assert done.result() is True


def test_unchanged_typed_value(narrow: Visitor) -> None:
    """And a typed key."""
    key = SessionKey("report", str)
    narrow()
    alt = narrow.latest.altsession
    assert alt.modify(key, lambda value: value or "") == LONG
    assert alt.compare_and_set(key, LONG, "short") is True


@pytest.mark.parametrize(
    "change",
    [
        lambda s, alt: alt.set("report", LONG + "x"),
        lambda s, alt: alt.modify("report", lambda value: value + "x"),
        lambda s, alt: alt.compare_and_set("report", LONG, LONG + "x"),
        lambda s, alt: alt.compare_and_set("new", None, LONG),
        lambda s, alt: s.__setitem__("report", LONG + "x"),
        lambda s, alt: (s["list"].append("y"), s.write_back()),
    ],
)
def test_what_grows_is_refused(narrow: Visitor, change: Callable[[Any, Any], object]) -> None:
    """A change of such a value that leaves it too long is refused, and nothing is written."""
    before = narrow.stored
    session = narrow()
    with pytest.raises(ValueTooLarge, match=r"session\.max_value_bytes is 1000"):
        change(session, narrow.latest.altsession)
    assert narrow.stored == before


def test_value_that_grew_in_place_and_other_calls(narrow: Visitor) -> None:
    """A value that was made too long in place stops no call on other keys; it is seen as it is, and
    refused when it is to be written."""
    session = narrow()
    session["b"].append(LONG)
    alt = narrow.latest.altsession
    assert (alt.get("a"), alt.get("b"), session.pop_flash()) == (1, [1, LONG], [])
    alt.set("a", 2)
    with pytest.raises(ValueTooLarge, match="'b'"):
        session.write_back()
    assert (narrow.stored["a"], narrow.stored["b"]) == (2, [1])


# -- depth


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


def at_depth(frames: int, act: Callable[[], Any]) -> Any:
    """What ``act`` gives, from that many frames further up the stack."""
    return act() if not frames else at_depth(frames - 1, act)


def deep_in_the_stack(act: Callable[[], Any], room: int = MAX_DEPTH + 100) -> Any:
    """What ``act`` gives where so many frames are left."""
    frame, used = sys._getframe(), 0
    while frame is not None:
        frame, used = frame.f_back, used + 1  # type: ignore[assignment]
    return at_depth(sys.getrecursionlimit() - used - room, act)


@pytest.mark.parametrize("kind", ["list", "dict"])
def test_depth_that_is_stored(kind: str) -> None:
    """Values of up to MAX_DEPTH levels are stored and read, wherever the caller stands."""
    codec = JSONCodec()
    value = nested(MAX_DEPTH - 1)
    value = [value] if kind == "list" else {"x": value}
    raw = codec.encode("k", value)
    assert deep_in_the_stack(lambda: codec.encode("k", value)) == raw
    assert deep_in_the_stack(lambda: codec.decode("k", raw) == value)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 900, 100_000])
def test_depth_that_is_not_stored(depth: int) -> None:
    """One level more is a TypeError, whatever the stack; so is a value within itself."""
    codec = JSONCodec()
    endless: list[Any] = []
    endless += [endless, endless]
    for value in (nested(depth), {"x": [nested(depth)]}, endless):
        for room in (MAX_DEPTH + 100, 100):
            with pytest.raises(TypeError, match="'k': nested too deeply"):
                deep_in_the_stack(lambda value=value: codec.encode("k", value), room)


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 900, 100_000])
def test_depth_that_others_stored(depth: int) -> None:
    """JSON that another program nested more deeply is CorruptValue, whatever the stack."""
    codec = JSONCodec()
    for raw in (
        b"[" * depth + b"]" * depth,
        b'{"x":' * depth + b"1" + b"}" * depth,
        b'["]]]",' * depth + b'"\\""' + b"]" * depth,
    ):
        for room in (MAX_DEPTH + 100, 100):
            with pytest.raises(CorruptValue, match="'k'"):
                deep_in_the_stack(lambda raw=raw: codec.decode("k", raw), room)


def test_a_frame_does_not_count() -> None:
    """The limit is one of the value, and not of the end and version that are stored with it."""
    calls = Commands(JSONCodec(), 10)
    calls.check_size("k", b'@1234567890123:"12345678"')
    with pytest.raises(ValueTooLarge, match="11 bytes"):
        calls.check_size("k", b'@1234567890123:"123456789"')


def test_wide_values_are_not_deep() -> None:
    """Many lists and dicts beside each other are no depth, and brackets in a text are none."""
    codec = JSONCodec()
    wide = [{"x": [1, "[[[[" * MAX_DEPTH]}] * (2 * MAX_DEPTH)
    assert codec.decode("k", codec.encode("k", wide)) == wide


def test_end_of_the_stack_is_no_damage() -> None:
    """Where the stack itself is at its end, a good value is not told to be a bad one. (Since
    Python 3.12 the stack of C code is counted apart: there it may well succeed.)"""
    codec = JSONCodec()
    value = nested(MAX_DEPTH)
    raw = codec.encode("k", [value[0], "[" * 500])
    for call in (lambda: codec.decode("k", raw), lambda: codec.encode("k", value)):
        expected = call()
        try:
            found = deep_in_the_stack(call, 100)
        except RecursionError:
            continue
        assert found == expected


# -- who is signed in


def test_helper_with_a_prefix(visitor: Visitor) -> None:
    """A sign-in through the helper with a prefix makes a planted cookie worthless as well."""
    helper = SessionAuthenticationHelper(prefix="shop.")
    old_token, planted = visitor().get_csrf_token(), visitor.jar
    visitor.done()
    visitor()
    helper.remember(visitor.latest, "ann")
    visitor.done()
    assert visitor.jar != planted
    assert Visitor(visitor.watched.store, planted)().get("shop.userid") is None
    assert visitor().get_csrf_token() != old_token
    assert helper.authenticated_userid(visitor.latest) == "ann"


@pytest.mark.parametrize(
    ("key", "renewed"),
    [("userid", True), ("userid_hint", False), ("account", True), ("accounts", False)],
)
def test_login_keys(visitor: Visitor, key: str, renewed: bool) -> None:
    """Keys that end in userid, and those of sync.login_keys, are who is signed in; others are
    not."""
    planted = visitor.jar
    shop = Visitor(visitor.watched.store, planted)
    settings = read_settings({"sync": {"enabled": True, "login_keys": "account person"}})
    shop.api.requests.sync = settings.sync
    shop()[key] = "ann"
    shop.done()
    assert ((shop.jar != planted), shop.stored[key]) == (renewed, "ann")


def test_two_login_keys_at_once(visitor: Visitor) -> None:
    """Several of them in one request renew the session once."""
    session = visitor()
    session.update({"shop.userid": "ann", "auth.userid": "ann"})
    response = visitor.done()
    assert len(response.headers.getall("Set-Cookie")) == 1
    (write,) = [o for o in visitor.watched.operations if isinstance(o, Write)]
    assert isinstance(write.life, Renew)


# -- changes that come too late


LATE: list[Callable[[Any], object]] = [
    lambda session: session.__setitem__("x", 1),
    lambda session: session.__delitem__("a"),
    lambda session: session.update(x=1),
    lambda session: session.clear(),
    lambda session: session.pop("a"),
    lambda session: session.setdefault("x", 1),
    lambda session: session.flash("x"),
    lambda session: session.new_csrf_token(),
    lambda session: session.changed(),
]


def late(server: Server, where: str, act: Callable[[Request], object]) -> tuple[Site, list[str]]:
    """A site whose page does something after its answer was made, and what that raised."""
    told: list[str] = []

    def attempt(request: Request) -> None:
        try:
            act(request)
        except RuntimeError as error:
            told.append(str(error))

    def body(request: Request) -> Any:
        attempt(request)
        yield b"done"

    def page(request: Request) -> Any:
        request.session["a"] = 1
        if where == "finished callback":
            request.add_finished_callback(attempt)
        return Response(app_iter=body(request)) if where == "body" else Response("done")

    def begin(request: Request) -> Any:
        request.altsession.mset({"a": 1, "b": [1]})
        return {}

    def configure(config: Any) -> None:
        if where == "NewResponse":
            config.add_subscriber(
                lambda e: e.request.path == "/page" and attempt(e.request), NewResponse
            )

    found = site(server.url, {"page": page, "begin": begin}, settings=ON, configure=configure)
    found.get("/begin")
    return found, told


@pytest.mark.parametrize("where", ["finished callback", "NewResponse", "body"])
@pytest.mark.parametrize("case", range(len(LATE)))
def test_change_after_the_answer(server: Server, where: str, case: int) -> None:
    """A change of request.session after the answer was made is a RuntimeError: it would be
    lost."""
    found, told = late(server, where, lambda request: LATE[case](request.session))
    found.get("/page")
    (message,) = told
    assert message.startswith("request.session: ")
    assert "request.altsession" in message
    assert found.api.open(found.token or "").all() == {"a": 1, "b": [1]}


@pytest.mark.parametrize("where", ["finished callback", "NewResponse", "body"])
def test_reading_after_the_answer(server: Server, where: str) -> None:
    """Reading is as good as ever, and request.altsession writes at once."""
    seen: list[Any] = []

    def act(request: Request) -> None:
        seen.append((request.session["a"], dict(request.session), request.session.get_csrf_token()))
        request.altsession.set("late", 1)

    found, told = late(server, where, act)
    found.get("/page")
    assert (told, seen[0][:2]) == ([], (1, {"a": 1, "b": [1]}))
    assert found.api.open(found.token or "").get("late") == 1


def test_transactional_without_request_session() -> None:
    """altsession.transactional without the layer whose changes it is about is an error at start."""
    settings = {"altsession.transactional": "true"}
    with pytest.raises(ConfigurationError, match=r"altsession\.transactional.*sync\.enabled"):
        site("memory://", {}, settings=settings, configure=lambda c: c.include("pyramid_tm"))


# -- as a dict, and in front of other readers


def test_dummy_request() -> None:
    """The factory works with Pyramid's DummyRequest, whose response callback writes."""
    visitor = Visitor(MemoryStore())
    request = DummyRequest()
    request.registry = visitor.registry
    session_factory(request)["x"] = 1
    response = Response()
    request._process_response_callbacks(response)
    visitor.take(response)
    assert visitor.stored == {"x": 1}


def test_json_renderer(server: Server) -> None:
    """``renderer="json"`` renders it; json.dumps takes its copy."""

    def page(request: Request) -> Any:
        request.session.update(a=1, b=[{"x": None}])
        return request.session

    found = site(server.url, {"page": page}, settings=ON)
    assert found.get("/page").json == {"a": 1, "b": [{"x": None}]}


def test_json_of_a_copy(visitor: Visitor) -> None:
    """json.dumps takes a copy."""
    session = visitor()
    assert json.loads(json.dumps(session.copy())) == session.__json__(None) == {"a": 1, "b": [1]}


def test_order(live: Visitor) -> None:
    """Iteration is in the server's order, with new keys and queues last, as they came; popitem
    takes the last one."""
    opened = live.api.create({"z": 1})
    opened.set("m", 2)
    opened.set("a", 3)
    live.jar = opened.token
    session = live()
    session["n"], session["b"] = 4, 5
    session["m"] = 6
    session.flash("x", "q")
    assert list(session) == ["z", "m", "a", "n", "b", "_f_q"]
    assert list(reversed(session)) == ["_f_q", "b", "n", "a", "m", "z"]
    assert [session.popitem() for _ in range(3)] == [("_f_q", ["x"]), ("b", 5), ("n", 4)]
    del session["z"]
    session["z"] = 7
    assert list(session) == ["m", "a", "z"]
    live.done()
    assert live.stored == {"m": 6, "a": 3, "z": 7}


def test_order_of_named_keys(visitor: Visitor) -> None:
    """With sync.keys the order is theirs."""
    named = Visitor(visitor.watched.store, visitor.jar)
    named.api.requests.sync = read_settings({"sync": {"enabled": True, "keys": "b x a"}}).sync
    assert list(named()) == ["b", "a"]


def test_popitem_of_nothing(visitor: Visitor) -> None:
    """popitem of an empty session is a KeyError."""
    session = visitor()
    session.clear()
    with pytest.raises(KeyError):
        session.popitem()


# -- batches beside request.session


Batched = Callable[[Any], Any]
BATCHED: list[Batched] = [lambda b: b.all(), lambda b: b.keys()]


@pytest.mark.parametrize("look", range(len(BATCHED)))
@pytest.mark.parametrize("write", [True, False])
def test_batch_sees_unwritten_changes(live: Visitor, look: int, write: bool) -> None:
    """all() and keys() in a batch show what request.session has not written yet, beside a write
    too, and request.session stays what it was."""
    live.jar = live.api.create({"a": 1, "b": [1], "gone": 1, "kept": 1}).token
    session = live()
    session["a"], session["c"] = 2, 3
    session["b"].append(2)
    session.flash("hello")
    del session["gone"]
    expected = {"a": 2, "b": [1, 2], "kept": 1, "c": 3, "_f_": ["hello"]}
    with live.latest.altsession.batch() as batch:
        if write:
            expected["x"] = 1
            batch.set("x", 1)
        found = BATCHED[look](batch)
    result = found.result()
    assert result == (expected if isinstance(result, dict) else sorted(expected))
    assert session.copy() == expected
    session["b"].append(3)
    expected["b"].append(3)
    assert (session.copy(), live.latest.altsession.all()) == (expected, expected)
    session.clear()
    live.done()
    assert live.stored == {}


def test_batch_that_fails_keeps_the_changes(visitor: Visitor) -> None:
    """A batch of that kind that is not carried out leaves everything to be written."""
    session = visitor()
    session["c"] = 3
    session.flash("hello")
    batch = visitor.latest.altsession.batch().__enter__()
    batch.all()
    batch.increment("b")
    with pytest.raises(TypeError):
        batch.__exit__(None, None, None)
    visitor.watched.before = fail_on(Write)
    batch = visitor.latest.altsession.batch().__enter__()
    batch.all()
    batch.set("x", 1)
    with pytest.raises(StoreUnavailable):
        batch.__exit__(None, None, None)
    visitor.watched.before = lambda operation: None
    assert session.copy() == {"a": 1, "b": [1], "c": 3, "_f_": ["hello"]}
    visitor.done()
    assert visitor.stored == {"a": 1, "b": [1], "c": 3, "_f_": ["hello"]}


# -- prefetch, a full server


def test_prefetch_of_a_session_that_ended(live: Visitor) -> None:
    """Two prefetches in a row, where the first one's answer says that the session is gone."""
    alt = live.visit()
    assert alt.get("a") == 1
    live.api.open(live.jar).invalidate()
    alt.prefetch("b")
    alt.prefetch("c")
    with pytest.raises(SessionGone):
        alt.get("c")


def test_prefetch_of_an_opened_token(visitor: Visitor) -> None:
    """So it is for a token that never was one."""
    opened = visitor.api.open("nonsense")
    opened.prefetch("a")
    with pytest.raises(SessionGone):
        opened.get("a")


def test_prefetch_beside_a_value_that_is_not_json(visitor: Visitor) -> None:
    """A value that cannot be stored is told where the session is used, and the answer on its way
    is not left behind."""
    session = visitor()
    session["b"].append({1})
    alt = visitor.latest.altsession
    alt.prefetch("a")
    with pytest.raises(TypeError, match="'b'"):
        alt.get("c")
    session["b"].pop()
    with visitor.watched.costs(2):
        assert (alt.get("a"), alt.get("c")) == (1, None)


def test_setdefault_on_a_full_server(server: Server) -> None:
    """setdefault of a value that is there stores nothing, and so works on a full server; and so
    does get_csrf_token."""
    found = site(server.url, {})
    session = found.api.create({"a": 1})
    server.client.config_set("maxmemory", 1)
    try:
        assert session.setdefault("a", 2) == 1
        assert session.get("a", fresh=True) == 1
        with pytest.raises(StoreUnavailable):
            session.setdefault("b", 2)
    finally:
        server.client.config_set("maxmemory", 0)
