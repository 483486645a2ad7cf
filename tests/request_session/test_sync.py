"""``request.session`` as a dict and as Pyramid's ISession, over request.altsession's session."""

import copy
import secrets
from collections import Counter
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
from apps import Browser, Watched, cookie_of
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from inside import state_in
from pyramid.authentication import SessionAuthenticationHelper
from pyramid.interfaces import ISession, ISessionFactory
from pyramid.response import Response
from sealed import CODEC, behind_of
from zope.interface.verify import verifyClass, verifyObject

from pyramid_altsession import (
    CorruptValue,
    InvalidKey,
    ISessionAPI,
    SessionAPI,
    SessionGone,
    SessionKey,
    StoreUnavailable,
    ValueTooLarge,
)
from pyramid_altsession.codecs import JSONCodec
from pyramid_altsession.config.sources import read_settings
from pyramid_altsession.interfaces import Store
from pyramid_altsession.protocol.lifecycle import Renew
from pyramid_altsession.protocol.messages import Read, Write
from pyramid_altsession.stores.memory import MemoryStore
from pyramid_altsession.stores.sealed import SealedStore
from pyramid_altsession.web.request_session import SyncSession, session_factory

ON = {"altsession.sync.enabled": "true"}


class Visitor(Browser):
    """A browser whose requests use ``request.session``."""

    def __init__(
        self, store: Any, jar: str | None = None, codec: Any = None, **settings: Any
    ) -> None:
        self.watched = Watched(store)
        given = read_settings({"sync": {"enabled": True}, **settings})
        super().__init__(SessionAPI(given, store=self.watched, codec=codec), jar)
        self.registry.registerUtility(self.api, ISessionAPI)
        self.registry.registerUtility(session_factory, ISessionFactory)

    @classmethod
    def with_session(cls, store: Any) -> "Visitor":
        """One with a live session: ``{"a": 1, "b": [1]}``."""
        visitor = cls(store)
        visitor.jar = visitor.api.create({"a": 1, "b": [1]}).token
        visitor.watched.operations.clear()
        return visitor

    def __call__(self) -> SyncSession:
        """``request.session`` of a new request."""
        self.latest = self.request()
        session: SyncSession = self.latest.session
        return session

    def done(self) -> Response:
        """The end of the latest request."""
        return self.answer()

    @property
    def stored(self) -> dict[str, Any]:
        """What the next request finds."""
        return self.api.open(self.jar).all()


@pytest.fixture(params=["plain", "sealed"])
def memory(request: pytest.FixtureRequest) -> Store:
    """A store in memory."""
    return SealedStore(MemoryStore(), CODEC) if request.param == "sealed" else MemoryStore()


@pytest.fixture
def visitor(memory: Store) -> Visitor:
    """Somebody with a live session in memory: ``{"a": 1, "b": [1]}``."""
    return Visitor.with_session(memory)


@pytest.fixture
def live(store: Any) -> Visitor:
    """The same on every store, real servers included."""
    return Visitor.with_session(store)


@pytest.fixture
def stranger(memory: Store) -> Visitor:
    """Somebody without a session."""
    return Visitor(memory)


# -- a dict


def test_it_is_an_isession(visitor: Visitor) -> None:
    """The class and its objects verify as Pyramid's ISession."""
    assert verifyClass(ISession, SyncSession)
    assert verifyObject(ISession, visitor())


DICT_CALLS: list[Callable[[Any], Any]] = [
    lambda d: d["a"],
    lambda d: d["missing"],
    lambda d: d.get("a"),
    lambda d: d.get("missing"),
    lambda d: d.get("missing", 5),
    lambda d: d.pop("a"),
    lambda d: d.pop("missing"),
    lambda d: d.pop("missing", 5),
    lambda d: d.setdefault("a", 7),
    lambda d: d.setdefault("new", 7),
    lambda d: d.update(a=2, c=3),
    lambda d: d.update({"c": 3}),
    lambda d: d.update([("c", 3)], e=4),
    lambda d: d.__delitem__("a"),
    lambda d: d.__delitem__("missing"),
    lambda d: d.__setitem__("c", {"x": [1]}),
    lambda d: d.clear(),
    lambda d: len(d),
    lambda d: bool(d),
    lambda d: sorted(d),
    lambda d: sorted(d.keys()),
    lambda d: sorted(d.items(), key=str),
    lambda d: sorted(d.values(), key=str),
    lambda d: "a" in d,
    lambda d: "missing" in d,
    lambda d: d == {"a": 1, "b": [1]},
    lambda d: d != {"a": 1, "b": [1]},
    lambda d: d == {"a": 1},
    lambda d: d == 5,
    lambda d: d.copy(),
    lambda d: d | {"c": 3, "a": 0},
    lambda d: {"c": 3, "a": 0} | d,
    lambda d: d["b"].append(2),
    lambda d: (d.popitem(), d.popitem()) and len(d),
    lambda d: (d.clear(), d.popitem()),
]


def outcome(call: Callable[[Any], Any], target: Any) -> Any:
    try:
        return call(target)
    except KeyError:
        return KeyError


@pytest.mark.parametrize("call", range(len(DICT_CALLS)))
def test_it_does_what_a_dict_does(visitor: Visitor, call: int) -> None:
    """Every call gives what a dict gives, and leaves behind what a dict holds."""
    plain: dict[str, Any] = {"a": 1, "b": [1]}
    session = visitor()
    assert outcome(DICT_CALLS[call], session) == outcome(DICT_CALLS[call], plain)
    assert dict(session) == plain
    visitor.done()
    assert visitor.stored == plain


def test_ior(visitor: Visitor) -> None:
    """``session |= other`` updates the session in place."""
    session = kept = visitor()
    session |= {"a": 2}
    assert (session is kept, session["a"]) == (True, 2)


def test_empty_session_is_false(stranger: Visitor) -> None:
    """A visitor without a session has an empty, false one, at no cost."""
    session = stranger()
    assert (bool(session), len(session), list(session), session == {}) == (False, 0, [], True)
    assert stranger.watched.operations == []


def test_copy_is_detached(visitor: Visitor) -> None:
    """What is put into a copy is not written."""
    visitor().copy()["c"] = 1
    visitor.done()
    assert visitor.stored == {"a": 1, "b": [1]}


@pytest.mark.parametrize("key", [5, 1.5, None, ("x",)])
def test_keys_become_str(visitor: Visitor, key: object) -> None:
    """A key that is no str becomes one, for writing and for reading."""
    session = visitor()
    session[key] = 1
    assert (session[key], session[str(key)], key in session) == (1, 1, True)
    visitor.done()
    assert visitor.stored[str(key)] == 1


@pytest.mark.parametrize("key", ["@v", "@u", "", "x" * 513])
@pytest.mark.parametrize(
    "use",
    [
        lambda s, k: s[k],
        lambda s, k: s.get(k),
        lambda s, k: k in s,
        lambda s, k: s.__setitem__(k, 1),
        lambda s, k: s.__delitem__(k),
        lambda s, k: s.pop(k, None),
    ],
)
def test_bad_keys(visitor: Visitor, use: Callable[[Any, str], Any], key: str) -> None:
    """A reserved, empty or too long key is an InvalidKey, before anything is sent."""
    with pytest.raises(InvalidKey):
        use(visitor(), key)
    assert visitor.watched.operations == []


def test_not_json_at_the_assignment(visitor: Visitor) -> None:
    """A value that JSON cannot carry is a TypeError at once, and the old one stays."""
    session = visitor()
    with pytest.raises(TypeError, match="'a'"):
        session["a"] = object()
    assert session["a"] == 1


def test_typed_key_at_the_assignment(visitor: Visitor) -> None:
    """A key with a type is a str like any other: the error does not send its user there again."""
    with pytest.raises(TypeError, match=r"a SessionKey carries this, not in request\.session$"):
        visitor()[SessionKey("when", date)] = date(2026, 1, 2)


def test_too_large_at_the_assignment(visitor: Visitor) -> None:
    """A value beyond session.max_value_bytes is refused at once."""
    with pytest.raises(ValueTooLarge):
        visitor()["a"] = "x" * 70_000


def test_not_json_at_the_end(visitor: Visitor) -> None:
    """A nested value that JSON cannot carry is a TypeError with the key, and nothing is written."""
    session = visitor()
    session["a"] = 2
    session["b"].append({1})
    with pytest.raises(TypeError, match="'b'"):
        session.write_back()
    session.write_back()
    assert visitor.stored == {"a": 1, "b": [1]}


def test_flash_onto_no_list(visitor: Visitor) -> None:
    """A message for a queue whose key holds something else is a CorruptValue, and nothing of the
    write-back is written."""
    visitor().update({"_f_": 5})
    visitor.done()
    session = visitor()
    session["a"] = 2
    session.flash("lost")
    with pytest.raises(CorruptValue, match="no list"):
        session.write_back()
    assert (visitor.stored["a"], visitor.stored["_f_"]) == (1, 5)


def test_failed_sign_in_is_tried_again(visitor: Visitor) -> None:
    """A change of the user that was not written with a call still has to be, with its renewal."""
    session = visitor()
    session["auth.userid"] = "ann"
    changes = state_in(visitor.latest.altsession).changes
    changes.restore(changes.pending({"auth.userid"}, exists=True)[1])
    assert dict(session)["auth.userid"] == "ann"
    renewal, _ = changes.pending({"auth.userid"}, exists=True)
    assert isinstance(renewal, Renew)


def test_corrupt_value(visitor: Visitor) -> None:
    """An unreadable field is a CorruptValue for that key; all else works, repair too."""
    store = visitor.watched.store
    (id,) = behind_of(store).ids()
    behind_of(store).put(id, "a", b"{nonsense")
    session = visitor()
    with pytest.raises(CorruptValue, match="'a'"):
        session["a"]
    assert (session["b"], sorted(session), len(session), "a" in session) == (
        [1],
        ["a", "b"],
        2,
        True,
    )
    session["b"].append(2)
    del session["a"]
    visitor.done()
    assert visitor.stored == {"b": [1, 2]}


def test_clear_of_a_corrupt_session(visitor: Visitor) -> None:
    """clear() works on fields that cannot be decoded."""
    (id,) = behind_of(visitor.watched.store).ids()
    behind_of(visitor.watched.store).put(id, "a", b"{nonsense")
    visitor().clear()
    visitor.done()
    assert visitor.stored == {}


def test_repr_holds_no_secret(visitor: Visitor) -> None:
    """The repr tells neither values nor the verifier."""
    session = visitor()
    session["a"] = "geheim"
    assert visitor.jar is not None
    verifier = visitor.jar.partition(".")[2]
    assert ("geheim" in repr(session), verifier in repr(session)) == (False, False)


# -- ISession


def test_created(visitor: Visitor) -> None:
    """created is an int, stored with the session, the same in every request."""
    first, second = visitor().created, visitor().created
    assert (type(first), first) == (int, second)
    (id,) = behind_of(visitor.watched.store).ids()
    assert first == int(behind_of(visitor.watched.store).fields(id)["@c"]) // 1000


def test_created_without_a_session(stranger: Visitor) -> None:
    """Without a session created is an int all the same, and makes none."""
    assert type(stranger().created) is int
    assert stranger.watched.operations == []


def test_new(stranger: Visitor) -> None:
    """new is true until the visitor comes back with a live session."""
    session = stranger()
    assert session.new is True
    session["a"] = 1
    assert session.new is True
    stranger.done()
    assert stranger().new is False


def test_changed_is_not_needed(visitor: Visitor) -> None:
    """changed() costs nothing and writes nothing."""
    visitor().changed()
    visitor.done()
    assert visitor.watched.operations == []


def test_invalidate(visitor: Visitor) -> None:
    """invalidate() ends the session at once and drops the cookie."""
    session = visitor()
    session["c"] = 1
    session["b"].append(2)
    session.flash("hello")
    session.invalidate()
    assert dict(session) == {}
    old = visitor.jar
    response = visitor.done()
    (header,) = response.headers.getall("Set-Cookie")
    assert cookie_of(header) is None
    assert old is not None
    with pytest.raises(SessionGone):
        visitor.api.open(old).all()


def test_invalidate_and_reuse(visitor: Visitor) -> None:
    """After invalidate() the session can be used on: a new one, with exactly one Set-Cookie."""
    old = visitor.jar
    session = visitor()
    session.invalidate()
    session["c"] = 3
    session.flash("bye")
    response = visitor.done()
    assert len(response.headers.getall("Set-Cookie")) == 1
    assert (visitor.stored, visitor.jar != old) == ({"c": 3, "_f_": ["bye"]}, True)


def test_invalidate_through_altsession(visitor: Visitor) -> None:
    """request.altsession.invalidate() drops what request.session has not written yet."""
    session = visitor()
    session["c"] = "private"
    session["b"].append(2)
    session.flash("private")
    visitor.latest.altsession.logout()
    response = visitor.done()
    (header,) = response.headers.getall("Set-Cookie")
    assert (cookie_of(header), dict(session)) == (None, {})


def test_login_of_another_user(visitor: Visitor) -> None:
    """What request.session has not written yet of one user's session never comes to another's."""
    visitor.does(lambda session: session.login("ann"))
    session = visitor()
    session["c"] = "ann's"
    session.flash("ann's")
    visitor.latest.altsession.login("bob")
    visitor.done()
    assert visitor.stored == {}


def test_login_keeps_the_changes(visitor: Visitor) -> None:
    """A sign-in of the anonymous session's own user keeps what is not written yet."""
    session = visitor()
    session["c"] = 3
    visitor.latest.altsession.login("ann")
    visitor.done()
    assert visitor.stored == {"a": 1, "b": [1], "c": 3}


# -- flash


def test_flash_queues(visitor: Visitor) -> None:
    """Each queue keeps its messages in order; pop takes them, peek does not."""
    session = visitor()
    session.flash("one")
    session.flash({"two": 2})
    session.flash("warned", "warnings")
    visitor.done()
    later = visitor()
    assert later.peek_flash() == ["one", {"two": 2}]
    assert later.pop_flash() == ["one", {"two": 2}]
    assert later.pop_flash() == later.peek_flash() == []
    assert later.pop_flash("warnings") == ["warned"]
    visitor.done()
    assert sorted(visitor()) == ["a", "b"]


def test_flash_without_duplicates(visitor: Visitor) -> None:
    """allow_duplicate=False adds a message unless the queue holds it, waiting or stored."""
    session = visitor()
    for _ in range(2):
        session.flash("one", allow_duplicate=False)
    session.flash("one")
    visitor.done()
    later = visitor()
    later.flash("one", allow_duplicate=False)
    assert later.peek_flash() == ["one", "one"]


def test_flash_without_duplicates_of_what_json_makes_of_it(visitor: Visitor) -> None:
    """A tuple is held already if the queue holds the list that it came back as."""
    for _ in range(2):
        visitor().flash(("error", ("no", "such tea")), allow_duplicate=False)
        visitor.done()
    assert visitor().peek_flash() == [["error", ["no", "such tea"]]]


def test_flash_and_show_in_one_request(visitor: Visitor) -> None:
    """A message that is shown in its own request comes after the stored ones, and is not stored."""
    visitor().flash("stored")
    visitor.done()
    session = visitor()
    session.flash("own")
    assert session.pop_flash() == ["stored", "own"]
    visitor.done()
    assert visitor.stored == {"a": 1, "b": [1]}


def test_flash_and_show_without_a_session(stranger: Visitor) -> None:
    """For a message that is shown at once no session is made."""
    session = stranger()
    session.flash("own")
    assert session.pop_flash() == ["own"]
    response = stranger.done()
    assert (response.headers.getall("Set-Cookie"), stranger.watched.operations) == ([], [])


LOOKS: list[Callable[[SyncSession], object]] = [
    lambda session: None,
    lambda session: bool(session),
    lambda session: dict(session),
    lambda session: session["_f_"],
    lambda session: session.peek_flash(),
]


@pytest.mark.parametrize("look", range(len(LOOKS)))
def test_two_flashes_at_once(live: Visitor, look: int) -> None:
    """Two requests that flash at once lose nothing, also after a look at the queue, before and
    after the flash."""
    live().flash("zero")
    live.done()
    first, second = live(), live()
    for session, message in ((first, "one"), (second, "two")):
        session.flash(message, allow_duplicate=False)
        LOOKS[look](session)
    first.write_back()
    second.write_back()
    assert live().pop_flash() == ["zero", "one", "two"]


def test_queue_that_was_looked_at(visitor: Visitor) -> None:
    """Messages that were looked at, or changed, as an item are popped once, in order."""
    for changed in (False, True):
        visitor().flash("stored")
        visitor.done()
        session = visitor()
        session.flash("own")
        held = session["_f_"]
        if changed:
            held.append("appended")
        assert session.pop_flash() == ["stored", "own", *["appended"] * changed]
        assert (session.get("_f_"), session.pop_flash()) == (None, [])
        visitor.done()
        assert visitor.stored == {"a": 1, "b": [1]}


def test_deleting_a_queue_that_waits(visitor: Visitor) -> None:
    """A queue that only waits can be deleted; then it is not there."""
    session = visitor()
    session.flash("x")
    del session["_f_"]
    assert "_f_" not in session
    with pytest.raises(KeyError):
        del session["_f_"]
    visitor.done()
    assert visitor.stored == {"a": 1, "b": [1]}


class Counting(JSONCodec):
    """Counts what it encodes."""

    def __init__(self) -> None:
        self.encoded: list[tuple[str, Any]] = []

    def encode(self, key: str, value: Any) -> bytes:
        self.encoded.append((key, copy.deepcopy(value)))
        return super().encode(key, value)


@pytest.mark.parametrize("change", ["set", "in place", "both"])
def test_how_often_a_value_is_encoded(change: str) -> None:
    """No value is encoded more than twice: when it is set, and when it is written or compared with
    what it has become."""
    codec = Counting()
    visitor = Visitor(MemoryStore(), codec=codec)
    visitor.jar = visitor.api.create({"k": [1]}).token
    codec.encoded.clear()
    session = visitor()
    if change != "in place":
        session["k"] = [1, 2]
    if change != "set":
        session["k"].append(3)
    visitor.done()
    times = Counter(repr(value) for key, value in codec.encoded if key == "k")
    assert times[repr(visitor.stored["k"])] in (1, 2)
    assert max(times.values()) <= 2
    assert times.total() == (3 if change == "both" else 2)


def test_two_pops_at_once(live: Visitor) -> None:
    """Of two requests that show messages at once one gets them, also after both had a look."""
    live().flash("once")
    live.done()
    first, second = live(), live()
    assert first.peek_flash() == second.peek_flash() == ["once"]
    assert (first.pop_flash(), second.pop_flash()) == (["once"], [])


def test_queue_as_an_item(visitor: Visitor) -> None:
    """The queue's own list can be read and changed as an item, waiting messages included."""
    visitor().flash("stored")
    visitor.done()
    session = visitor()
    session.flash("own")
    assert ("_f_" in session, session["_f_"]) == (True, ["stored", "own"])
    session["_f_"].append("appended")
    session.flash("last")
    assert session.peek_flash() == ["stored", "own", "appended", "last"]
    visitor.done()
    assert visitor().pop_flash() == ["stored", "own", "appended", "last"]


def test_flash_after_a_look(visitor: Visitor) -> None:
    """A queue that was looked at shows what is flashed later as well."""
    session = visitor()
    seen = [list(session.get("_f_", []))]
    for message in ("one", "two"):
        session.flash(message)
        seen.append(list(session["_f_"]))
    assert seen == [[], ["one"], ["one", "two"]]


def test_pop_of_an_assigned_queue(visitor: Visitor) -> None:
    """A list that was assigned to the queue can be popped like any other."""
    session = visitor()
    session["_f_"] = ["x"]
    assert session.pop_flash() == ["x"]
    visitor.done()
    assert visitor.stored == {"a": 1, "b": [1]}


def test_iteration_shows_waiting_messages(visitor: Visitor) -> None:
    """A queue with waiting messages is among the keys."""
    session = visitor()
    session.flash("x")
    assert (sorted(session), session["_f_"]) == (["_f_", "a", "b"], ["x"])


def test_deleting_and_assigning_a_queue(visitor: Visitor) -> None:
    """Deleting or assigning a queue drops its waiting messages."""
    session = visitor()
    session.flash("x")
    session.flash("y", "other")
    del session["_f_"]
    session["_f_other"] = ["z"]
    visitor.done()
    assert visitor.stored == {"a": 1, "b": [1], "_f_other": ["z"]}


# -- CSRF


def test_csrf_token(visitor: Visitor) -> None:
    """get_csrf_token makes one token and keeps it; new_csrf_token replaces it."""
    session = visitor()
    first = session.get_csrf_token()
    assert (type(first), session.get_csrf_token()) == (str, first)
    visitor.done()
    later = visitor()
    assert later.get_csrf_token() == first
    second = later.new_csrf_token()
    assert (second != first, later.get_csrf_token()) == (True, second)
    visitor.done()
    assert visitor().get_csrf_token() == second


def test_two_tabs_get_one_csrf_token(visitor: Visitor) -> None:
    """Two overlapping requests without a token get the same one."""
    first, second = visitor(), visitor()
    assert first.get("_csrft_") is second.get("_csrft_") is None
    assert first.get_csrf_token() == second.get_csrf_token()


def test_csrf_token_after_its_removal(visitor: Visitor) -> None:
    """A token that this request removed is replaced by a new one, not by another request's."""
    old = visitor().get_csrf_token()
    session = visitor()
    del session["_csrft_"]
    new = session.get_csrf_token()
    visitor.done()
    assert (new != old, visitor().get_csrf_token()) == (True, new)


# -- who is signed in


def test_helper_replaces_verifier_and_csrf_token(visitor: Visitor) -> None:
    """A sign-in through Pyramid's SessionAuthenticationHelper makes the old cookie worthless, and
    the CSRF token too; the data stays."""
    old_token = visitor().get_csrf_token()
    visitor.done()
    planted = visitor.jar
    visitor()
    SessionAuthenticationHelper().remember(visitor.latest, "ann")
    response = visitor.done()
    assert len(response.headers.getall("Set-Cookie")) == 1
    assert visitor.jar != planted
    visitor()
    assert SessionAuthenticationHelper().authenticated_userid(visitor.latest) == "ann"
    assert visitor.latest.altsession.get("a") == 1
    assert visitor.latest.session.get_csrf_token() != old_token
    attacker = Visitor(visitor.watched.store, planted)
    assert attacker().get("auth.userid") is None


def test_csrf_token_of_the_page_that_signs_in(visitor: Visitor) -> None:
    """A token asked for after the sign-in, in the same request, is the one that stays."""
    old = visitor().get_csrf_token()
    visitor.done()
    session = visitor()
    session["auth.userid"] = "ann"
    new = session.get_csrf_token()
    visitor.done()
    assert (new != old, visitor().get_csrf_token()) == (True, new)


def test_sign_in_that_is_written_early(visitor: Visitor) -> None:
    """The verifier is replaced as well where request.altsession has to write the user first."""
    planted = visitor.jar
    session = visitor()
    session["auth.userid"] = "ann"
    assert visitor.latest.altsession.compare_and_set("auth.userid", "ann", "bob")
    visitor.done()
    assert (visitor.jar != planted, visitor.stored["auth.userid"]) == (True, "bob")


def test_same_user_read_is_no_sign_in(visitor: Visitor) -> None:
    """A request that only reads who is signed in keeps its cookie."""
    visitor()["auth.userid"] = "ann"
    visitor.done()
    assert visitor()["auth.userid"] == "ann"
    assert visitor.done().headers.getall("Set-Cookie") == []


def test_forget_keeps_the_cookie(visitor: Visitor) -> None:
    """The helper's forget takes the user out, and no more."""
    visitor()["auth.userid"] = "ann"
    visitor.done()
    visitor()
    SessionAuthenticationHelper().forget(visitor.latest)
    assert visitor.done().headers.getall("Set-Cookie") == []
    assert visitor.stored == {"a": 1, "b": [1]}


def test_sign_in_without_a_session(stranger: Visitor) -> None:
    """A sign-in as the first write makes a session, with one Set-Cookie."""
    stranger()["auth.userid"] = "ann"
    response = stranger.done()
    assert len(response.headers.getall("Set-Cookie")) == 1
    assert stranger()["auth.userid"] == "ann"


def test_sign_in_after_invalidate(visitor: Visitor) -> None:
    """Old login views invalidate first: nothing of the planted session is left, and the new one
    is signed in, with one Set-Cookie."""
    planted = visitor.jar
    session = visitor()
    session.invalidate()
    SessionAuthenticationHelper().remember(visitor.latest, "ann")
    response = visitor.done()
    assert len(response.headers.getall("Set-Cookie")) == 1
    assert visitor.stored == {"auth.userid": "ann"}
    assert Visitor(visitor.watched.store, planted)().get("auth.userid") is None


def test_sign_in_with_an_expired_cookie(visitor: Visitor) -> None:
    """A sign-in with a dead cookie makes a new session that works."""
    (id,) = behind_of(visitor.watched.store).ids()
    behind_of(visitor.watched.store).end_in(id, 0)
    visitor()["auth.userid"] = "ann"
    response = visitor.done()
    assert len(response.headers.getall("Set-Cookie")) == 1
    assert visitor.stored == {"auth.userid": "ann"}


# -- request.altsession and request.session show the same


BOTH_WAYS: list[tuple[Callable[[Any, Any], Any], Any]] = [
    (lambda a, s: (a.set("a", 2), s["a"]), 2),
    (lambda a, s: (s["a"], a.set("a", 2), s["a"]), 2),
    (lambda a, s: (s["b"], a.set("b", [2]), s["b"]), [2]),
    (lambda a, s: (a.increment("a"), s["a"]), 2),
    (lambda a, s: (s["a"], a.increment("a"), s["a"]), 2),
    (lambda a, s: (s["a"], a.pop("a"), s.get("a")), None),
    (lambda a, s: (s["a"], a.remove("a"), "a" in s), False),
    (lambda a, s: (a.modify("b", lambda b: [*b, 2]), s["b"]), [1, 2]),
    (lambda a, s: (a.setdefault("c", 3), s["c"]), 3),
    (lambda a, s: (a.mset({"c": 3}), sorted(s)), ["a", "b", "c"]),
    (lambda a, s: (s.__setitem__("a", 2), a.get("a")), 2),
    (lambda a, s: (s.__setitem__("a", 2), a.get("a", fresh=True)), 2),
    (lambda a, s: (s.__setitem__("a", 2), a.mget(["a", "b"])), {"a": 2, "b": [1]}),
    (lambda a, s: (s.__setitem__("a", 2), a.increment("a")), 3),
    (lambda a, s: (s.__setitem__("a", 2), a.increment("a"), s["a"]), 3),
    (lambda a, s: (s.__setitem__("a", 2), a.pop("a")), 2),
    (lambda a, s: (s.__setitem__("a", 2), a.pop("a"), s.get("a")), None),
    (lambda a, s: (s.__setitem__("a", 2), a.modify("a", lambda v: v + 1), s["a"]), 3),
    (lambda a, s: (s.__setitem__("c", 3), a.keys()), ["a", "b", "c"]),
    (lambda a, s: (s.__setitem__("c", 3), a.exists("c")), True),
    (lambda a, s: (s.__setitem__("c", 3), a.setdefault("c", 4)), 3),
    (lambda a, s: (s["b"].append(2), a.get("b")), [1, 2]),
    (lambda a, s: (s["b"].append(2), a.get("b", fresh=True)), [1, 2]),
    (lambda a, s: (s["b"].append(2), a.all()), {"a": 1, "b": [1, 2]}),
    (lambda a, s: (s["b"].append(2), a.modify("b", lambda b: [*b, 3])), [1, 2, 3]),
    (lambda a, s: (s["b"].append(2), a.compare_and_set("b", [1, 2], [5]), s["b"]), [5]),
    (lambda a, s: (s.__delitem__("a"), a.get("a")), None),
    (lambda a, s: (s.__delitem__("a"), a.keys()), ["b"]),
    (lambda a, s: (s.__delitem__("a"), a.setdefault("a", 9)), 9),
    (lambda a, s: (s.__delitem__("a"), a.remove("a")), 0),
    (lambda a, s: (s.__delitem__("a"), a.get("a", fresh=True)), None),
    (lambda a, s: (s.flash("x"), a.pop("_f_")), ["x"]),
    (lambda a, s: (s["b"].append(2), sorted(s), s["b"]), [1, 2]),
]


@pytest.mark.parametrize("case", range(len(BOTH_WAYS)))
def test_changes_are_seen_at_once(visitor: Visitor, case: int) -> None:
    """What one of request.altsession and request.session changes the other sees at once, and the
    end of the request changes nothing about it."""
    act, expected = BOTH_WAYS[case]
    session = visitor()
    alt = visitor.latest.altsession
    result = act(alt, session)
    assert (result[-1] if isinstance(result, tuple) else result) == expected
    seen = dict(session)
    visitor.done()
    assert visitor.stored == alt.all() == seen


def test_refused_call_keeps_the_changes(visitor: Visitor) -> None:
    """A call that is refused takes nothing away of what request.session still has to write."""
    session = visitor()
    session["a"] = "text"
    session.flash("x")
    del session["b"]
    alt = visitor.latest.altsession
    for key in ("a", "_f_"):
        with pytest.raises(TypeError):
            alt.increment(key)
    visitor.watched.before = fail_on(Write)
    with pytest.raises(StoreUnavailable):
        alt.setdefault("b", 5)
    visitor.watched.before = lambda operation: None
    visitor.done()
    assert visitor.stored == {"a": "text", "_f_": ["x"]}


def fail_on(kind: type) -> Callable[[object], None]:
    def fail(operation: object) -> None:
        if isinstance(operation, kind):
            raise StoreUnavailable("out of order")

    return fail


def test_change_outlives_newer_reads(visitor: Visitor) -> None:
    """A nested change is written even where a newer value was read in the meantime."""
    for read in (
        lambda alt, session: alt.get("b", fresh=True),
        lambda alt, session: alt.all(fresh=True),
        lambda alt, session: list(session),
    ):
        session = visitor()
        session["b"].append("own")
        visitor.api.open(visitor.jar).set("b", ["other"])
        read(visitor.latest.altsession, session)
        visitor.done()
        assert visitor.stored["b"][-1] == "own"


def test_values_at_hand_stay(visitor: Visitor) -> None:
    """A value that was handed out stays the request's own while everything is looked at, whatever
    others write meanwhile: what is put into it then is written."""
    session = visitor()
    held = session["b"]
    visitor.api.open(visitor.jar).set("b", ["other"])
    assert dict(session) == {"a": 1, "b": [1]}
    held.append("own")
    visitor.done()
    assert visitor.stored["b"] == [1, "own"]


@pytest.mark.parametrize("item", ["late", {"no", "JSON"}, None])
@pytest.mark.parametrize("look", [False, True])
@pytest.mark.parametrize("replace", ["set", "fresh"])
def test_value_at_hand_that_was_replaced(
    visitor: Visitor, caplog: pytest.LogCaptureFixture, item: object, look: bool, replace: str
) -> None:
    """What is put into a value after request.altsession wrote or read another in its place is not
    written: it is no longer the session's. The log says so."""
    session = visitor()
    held = session["b"]
    if replace == "set":
        visitor.latest.altsession.set("b", ["newer"])
    else:
        visitor.api.open(visitor.jar).set("b", ["newer"])
        visitor.latest.altsession.get("b", fresh=True)
    if item is not None:
        held.append(item)
    if look:
        assert session["b"] == ["newer"]
    visitor.done()
    assert visitor.stored["b"] == ["newer"]
    said = ["the change is lost" in each for each in caplog.messages]
    assert said == ([] if item is None else [True])


class Picky(JSONCodec):
    """A codec that refuses some values with an error of its own."""

    def encode(self, key: str, value: Any) -> bytes:
        if value == ["refused"]:
            raise LookupError(key)
        return super().encode(key, value)


def test_value_at_hand_that_a_codec_refuses(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever error a codec raises, the end of the request only warns that such a change is
    lost."""
    visitor = Visitor(MemoryStore(), codec=Picky())
    visitor()["b"] = []
    visitor.done()
    held = visitor()["b"]
    visitor.latest.altsession.set("b", ["newer"])
    held.append("refused")
    visitor.done()
    assert visitor.stored == {"b": ["newer"]}
    assert caplog.text.count("the change is lost") == 1


def test_end_of_a_value(visitor: Visitor) -> None:
    """A change within a value that has an end of its own keeps the end; an assignment takes it
    off."""
    (id,) = behind_of(visitor.watched.store).ids()
    ends = []
    for change in (lambda s: s["b"].append(2), lambda s: s.update(b=[3])):
        visitor.api.open(visitor.jar).set("b", [1], ttl=60)
        change(visitor())
        visitor.done()
        ends.append(behind_of(visitor.watched.store).fields(id)["b"][:1] == b"@")
    assert ends == [True, False]


# -- what is written


def test_reading_writes_nothing(visitor: Visitor) -> None:
    """A request that only reads sends no write."""
    session = visitor()
    assert (dict(session), session["b"]) == ({"a": 1, "b": [1]}, [1])
    visitor.done()
    assert [type(o) for o in visitor.watched.operations] == [Read]


@pytest.mark.parametrize("raw", [b'{ "x" : [1,  2] }', b'{"x":[1,2]}\n', b'{"\\u0078":[1,2]}'])
def test_reader_never_undoes_a_write(visitor: Visitor, raw: bytes) -> None:
    """A request that only reads leaves a write of an overlapping one alone, however the JSON that
    it read was spelled."""
    store = visitor.watched.store
    (id,) = behind_of(store).ids()
    behind_of(store).put(id, "a", raw)
    session = visitor()
    assert session["a"] == {"x": [1, 2]}
    visitor.api.open(visitor.jar).set("a", "newer")
    visitor.done()
    assert visitor.stored["a"] == "newer"


class Sealing(JSONCodec):
    """A codec that never gives the same bytes twice, as encryption does."""

    def encode(self, key: str, value: Any) -> bytes:
        return secrets.token_bytes(8) + super().encode(key, value)

    def decode(self, key: str, raw: bytes) -> Any:
        return super().decode(key, raw[8:])


@pytest.fixture
def sealing() -> Visitor:
    """The visitor, where values are sealed."""
    visitor = Visitor(MemoryStore(), codec=Sealing())
    visitor.jar = visitor.api.create({"a": 1, "b": [1, {"x": 1}]}).token
    visitor.watched.operations.clear()
    return visitor


def test_reading_writes_nothing_whatever_the_codec(sealing: Visitor) -> None:
    """Nor does it where equal values are never equal bytes."""
    session = sealing()
    assert dict(session) == {"a": 1, "b": [1, {"x": 1}]}
    sealing.done()
    assert [type(o) for o in sealing.watched.operations] == [Read]


CHANGES: list[tuple[Callable[[Any], object], Any]] = [
    (lambda b: b.append(2), [1, {"x": 1}, 2]),
    (lambda b: b.pop(), [1]),
    (lambda b: b.reverse(), [{"x": 1}, 1]),
    (lambda b: b.__setitem__(0, True), [True, {"x": 1}]),
    (lambda b: b.__setitem__(0, 1.0), [1.0, {"x": 1}]),
    (lambda b: b[1].update(y=2), [1, {"x": 1, "y": 2}]),
    (lambda b: b[1].update(x=None), [1, {"x": None}]),
]


@pytest.mark.parametrize("change", range(len(CHANGES)))
@pytest.mark.parametrize("who", ["visitor", "sealing"])
def test_every_change_is_seen(who: str, sealing: Visitor, visitor: Visitor, change: int) -> None:
    """Every nested change is written, whatever the codec, that of a number's type too."""
    act, expected = CHANGES[change]
    browser = {"visitor": visitor, "sealing": sealing}[who]
    browser.api.open(browser.jar).set("b", [1, {"x": 1}])
    act(browser()["b"])
    browser.done()
    assert repr(browser.stored["b"]) == repr(expected)


def test_flash_whatever_the_codec(sealing: Visitor) -> None:
    """Messages work where a list on the server is not JSON that could be appended to."""
    for message in ("one", "two"):
        sealing().flash(message)
        sealing.done()
    session = sealing()
    session.flash("own")
    assert (session.peek_flash(), session.pop_flash()) == (["one", "two", "own"],) * 2
    sealing.done()
    assert sealing().pop_flash() == []


def test_order_of_a_dict_is_a_change(visitor: Visitor, sealing: Visitor) -> None:
    """So is another order of a dict's keys."""
    for browser in (visitor, sealing):
        browser.api.open(browser.jar).set("a", {"x": 1, "y": 2})
        held = browser()["a"]
        held["x"] = held.pop("x")
        browser.done()
        assert list(browser.stored["a"]) == ["y", "x"]


def test_change_and_change_back(visitor: Visitor) -> None:
    """A nested change that is taken back writes nothing."""
    session = visitor()
    session["b"].append(2)
    session["b"].pop()
    visitor.done()
    assert [type(o) for o in visitor.watched.operations] == [Read]


def test_session_in_its_own_state(visitor: Visitor) -> None:
    """Deleting all keys leaves an empty live session, not a dead one."""
    session = visitor()
    session.clear()
    visitor.done()
    assert (visitor.stored, visitor().new) == ({}, False)


@pytest.mark.volume
def test_different_keys_both_win(live: Visitor) -> None:
    """Two overlapping requests that change different keys both win, 1000 times of 1000."""
    kept = 0
    for number in range(1000):
        first, second = live(), live()
        first["x"], second["y"] = number, number
        assert first["b"] == second["b"] == [1]
        (first if number % 2 else second).write_back()
        (second if number % 2 else first).write_back()
        stored = live.stored
        kept += stored == {"a": 1, "b": [1], "x": number, "y": number}
    assert kept == 1000


@pytest.mark.volume
def test_logout_beats_a_slow_request(live: Visitor) -> None:
    """A request that ends after a logout writes nothing and learns that its session is gone, 1000
    times of 1000."""
    dead = 0
    for number in range(1000):
        live.jar = live.api.create({"a": 1}).token
        slow, fast = live(), live()
        if number % 2:
            assert slow["a"] == 1
        slow["a"] = 2
        slow.flash("late")
        fast.invalidate()
        with pytest.raises(SessionGone):
            slow.write_back()
        with pytest.raises(SessionGone):
            live.stored  # noqa: B018
        dead += 1
    assert dead == 1000


# -- against plain dicts


KEYS = st.sampled_from(["a", "b", "c"])
QUEUES = st.sampled_from(["", "q"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
NAMES = ["a", "b", "c", "_f_", "_f_q", "_csrft_"]
Plain = dict[str, Any]


class Open:
    """A request that is open, and what has to be true of it, in plain dicts: ``seen`` is each key
    as it was when first looked at (None for none), ``view`` is the same with its own changes,
    ``own`` are the keys that it assigned or removed, ``flashes`` its messages."""

    def __init__(self, session: SyncSession, alt: Any, stored: Plain) -> None:
        self.session, self.alt, self.stored = session, alt, stored
        self.seen: Plain = {}
        self.view: Plain = {}
        self.own: set[str] = set()
        self.flashes: dict[str, list[Any]] = {}

    def look(self, *names: str) -> None:
        for name in names:
            if name not in self.view:
                self.seen[name] = copy.deepcopy(self.stored.get(name, NONE))
                self.view[name] = copy.deepcopy(self.seen[name])

    def put(self, name: str, value: Any) -> None:
        self.view[name] = value
        self.own.add(name)

    def settle(self, name: str) -> None:
        """What it holds so far is on the server."""
        if name in self.own or (name in self.seen and self.view[name] != self.seen[name]):
            keep(self.stored, name, self.view[name])
        self.own.discard(name)
        if name in self.view:
            self.seen[name] = copy.deepcopy(self.view[name])

    def written(self, name: str, value: Any) -> None:
        """Its own call on request.altsession has stored this."""
        keep(self.stored, name, value)
        self.view[name], self.seen[name] = copy.deepcopy(value), copy.deepcopy(value)

    @property
    def items(self) -> Plain:
        """What the session has to show as a dict."""
        shown = {name: value for name, value in self.view.items() if value is not NONE}
        for name, waiting in self.flashes.items():
            shown[name] = [*shown.get(name, []), *waiting]
        return shown


class NONE:
    """No such key."""


def keep(stored: Plain, name: str, value: Any) -> None:
    if value is NONE:
        stored.pop(name, None)
    else:
        stored[name] = copy.deepcopy(value)


class Overlapping(RuleBasedStateMachine):
    """Several requests of one live session, open at once. Each sees a key as it was when it first
    looked, with its own changes; at its end exactly what it changed is written, so that of two
    that change one key the later end wins, and of two that change different ones both do."""

    requests: Bundle[Any] = Bundle("requests")

    def __init__(self) -> None:
        super().__init__()
        self.visitor = Visitor(MemoryStore())
        self.stored: Plain = {"a": [1], "b": {"x": 1}}
        self.visitor.jar = self.visitor.api.create(self.stored).token
        self.number = 0

    @rule(target=requests)
    def begin(self) -> Any:
        session = self.visitor()
        return Open(session, self.visitor.latest.altsession, self.stored)

    @rule(request=requests, key=KEYS, value=VALUES)
    def assign(self, request: Open, key: str, value: Any) -> None:
        request.session[key] = value
        request.put(key, copy.deepcopy(value))

    @rule(request=requests, values=st.dictionaries(KEYS, VALUES))
    def update(self, request: Open, values: Plain) -> None:
        request.session.update(values)
        for key, value in values.items():
            request.put(key, copy.deepcopy(value))

    @rule(request=requests, key=KEYS)
    def take_out(self, request: Open, key: str) -> None:
        request.look(key)
        assert request.session.pop(key, NONE) == request.view[key]
        if request.view[key] is not NONE:
            request.put(key, NONE)

    @rule(request=requests)
    def clear(self, request: Open) -> None:
        request.look(*NAMES)
        request.session.clear()
        for name in request.items:
            request.put(name, NONE)
        request.flashes.clear()

    @rule(request=requests, key=KEYS, value=VALUES)
    def default(self, request: Open, key: str, value: Any) -> None:
        request.look(key)
        if request.view[key] is NONE:
            request.put(key, copy.deepcopy(value))
        assert request.session.setdefault(key, value) == request.view[key]

    @rule(request=requests, key=KEYS)
    def change_within(self, request: Open, key: str) -> None:
        """Never back to what it was: see change_and_change_back."""
        request.look(key)
        self.number += 1
        for inner in (request.session.get(key), request.view[key]):
            if isinstance(inner, list):
                inner.append(self.number)
            elif isinstance(inner, dict):
                inner["within"] = self.number

    @rule(request=requests, key=KEYS)
    def change_later(self, request: Open, key: str) -> None:
        """A value that is at hand while everything is looked at, and changed then."""
        request.look(key)
        held = request.session.get(key)
        request.look(*NAMES)
        assert len(request.session) == len(request.items)
        self.number += 1
        for inner in (held, request.view[key]):
            if isinstance(inner, list):
                inner.append(self.number)

    @rule(request=requests, key=KEYS)
    def change_and_change_back(self, request: Open, key: str) -> None:
        request.look(key)
        inner = request.session.get(key)
        if isinstance(inner, list):
            inner.append(0)
            inner.pop()

    @rule(request=requests)
    def look_at_all(self, request: Open) -> None:
        request.look(*NAMES)
        assert request.session == request.items
        assert sorted(request.session) == sorted(request.items)

    @rule(request=requests, key=KEYS)
    def look_at_one(self, request: Open, key: str) -> None:
        request.look(key)
        assert request.session.get(key, NONE) == request.view[key]
        assert (key in request.session) == (request.view[key] is not NONE)

    @rule(request=requests, queue=QUEUES)
    def flash(self, request: Open, queue: str) -> None:
        name = f"_f_{queue}"
        self.number += 1
        request.session.flash(self.number, queue)
        if name in request.own:
            held = request.view[name]
            request.put(name, [*([] if held is NONE else held), self.number])
        else:
            request.flashes.setdefault(name, []).append(self.number)

    @rule(request=requests, queue=QUEUES)
    def peek_flash(self, request: Open, queue: str) -> None:
        request.look(f"_f_{queue}")
        assert request.session.peek_flash(queue) == request.items.get(f"_f_{queue}", [])

    @rule(request=requests, queue=QUEUES)
    def pop_flash(self, request: Open, queue: str) -> None:
        name = f"_f_{queue}"
        request.look(name)
        waiting = request.flashes.pop(name, [])
        taken: list[Any] = []
        if request.view[name] is not NONE:
            request.settle(name)
            taken = self.stored.get(name, [])
            request.written(name, NONE)
        assert request.session.pop_flash(queue) == [*taken, *waiting]

    @rule(request=requests)
    def get_csrf_token(self, request: Open) -> None:
        """One that is there, or of its own making, which the others then find."""
        request.look("_csrft_")
        token = request.session.get_csrf_token()
        if request.view["_csrft_"] is not NONE:
            assert token == request.view["_csrft_"]
        elif "_csrft_" in request.own:
            request.put("_csrft_", token)
        else:
            request.written("_csrft_", self.stored.get("_csrft_", token))
            assert token == request.view["_csrft_"]

    @rule(request=requests)
    def new_csrf_token(self, request: Open) -> None:
        request.put("_csrft_", request.session.new_csrf_token())

    @rule(request=requests, key=KEYS, value=VALUES)
    def set_through_altsession(self, request: Open, key: str, value: Any) -> None:
        request.alt.set(key, value)
        request.own.discard(key)
        request.written(key, value)

    @rule(request=requests, key=KEYS)
    def pop_through_altsession(self, request: Open, key: str) -> None:
        request.settle(key)
        assert request.alt.pop(key, NONE) == self.stored.get(key, NONE)
        request.written(key, NONE)

    @rule(request=consumes(requests))
    def end(self, request: Open) -> None:
        request.session.write_back()
        for name in list(request.view):
            request.settle(name)
        for name, waiting in request.flashes.items():
            self.stored[name] = [*self.stored.get(name, []), *waiting]

    @rule(request=consumes(requests))
    def fail(self, request: Open) -> None:
        """An unhandled exception: nothing more is written."""

    @invariant()
    def agree(self) -> None:
        assert self.visitor.stored == self.stored


Overlapping.TestCase.settings = hypothesis_settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
TestOverlappingRequests = pytest.mark.volume(Overlapping.TestCase)


def test_refused_call_keeps_the_sign_in(visitor: Visitor) -> None:
    """A sign-in that could not be written early is written at the end, with a new verifier."""
    planted = visitor.jar
    visitor()["auth.userid"] = "ann"
    with pytest.raises(TypeError):
        visitor.latest.altsession.increment("auth.userid")
    visitor.done()
    assert (visitor.jar != planted, visitor.stored["auth.userid"]) == (True, "ann")


def test_change_within_the_user_is_a_sign_in(visitor: Visitor) -> None:
    """A nested change of who is signed in replaces verifier and CSRF token as well."""
    visitor()["auth.userid"] = {"name": "ann"}
    visitor.done()
    old, planted = visitor().get_csrf_token(), visitor.jar
    visitor()["auth.userid"]["name"] = "bob"
    visitor.done()
    assert (visitor.jar != planted, visitor().get_csrf_token() != old) == (True, True)


def test_logout_without_a_tombstone(visitor: Visitor) -> None:
    """A session that this request saw alive is gone at the write-back even with gone_window = 0:
    no new one is made of the changes."""
    plain = Visitor(visitor.watched.store, visitor.jar, session={"gone_window": 0})
    slow, fast = plain(), plain()
    assert slow["a"] == 1
    slow["a"] = 2
    fast.invalidate()
    with pytest.raises(SessionGone):
        slow.write_back()
    assert behind_of(visitor.watched.store).ids() == []
