"""Flash messages: bounded, visible everywhere, themselves until the request ends, never lost."""

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from apps import Behind
from markupsafe import Markup
from sealed import CODEC
from test_sync import Sealing, Visitor, fail_on

from pyramid_altsession import CorruptValue, SessionGone, StoreUnavailable, ValueTooLarge
from pyramid_altsession.interfaces import Store
from pyramid_altsession.protocol.lifecycle import Invalidate
from pyramid_altsession.protocol.messages import Read, Write
from pyramid_altsession.protocol.verbs import Append, Refused
from pyramid_altsession.stores.memory import MemoryStore
from pyramid_altsession.stores.sealed import SealedStore

LIMIT = 200


@pytest.fixture
def visitor() -> Visitor:
    """Somebody with a live session in memory: ``{"a": 1, "b": [1]}``."""
    return Visitor.with_session(MemoryStore())


@pytest.fixture
def live(store: Store) -> Visitor:
    """The same on every store, real servers included."""
    return Visitor.with_session(store)


def small(store: Store, limit: int = LIMIT, codec: Any = None) -> Visitor:
    """Somebody whose values may have few bytes."""
    visitor = Visitor(store, codec=codec, session={"max_value_bytes": limit})
    visitor.jar = visitor.api.create({"a": 1}).token
    visitor.watched.operations.clear()
    return visitor


def flash(visitor: Visitor, *messages: Any) -> None:
    """One request that flashes."""
    session = visitor()
    for message in messages:
        session.flash(message)
    visitor.done()


def verbs(visitor: Visitor) -> list[list[str]]:
    """What each write asked for."""
    return [
        [verb.wire()[0].decode() for verb in operation.verbs]
        for operation in visitor.watched.operations
        if isinstance(operation, Write)
    ]


# -- a queue has an end


@pytest.mark.parametrize("sealed", [False, True])
def test_queue_that_nobody_shows(
    store: Store, sealed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A queue never becomes longer than session.max_value_bytes; the newest messages stay, in
    order, and a warning names the setting and the session, not the messages."""
    visitor = small(SealedStore(store, CODEC) if sealed else store)
    with caplog.at_level(logging.WARNING, "pyramid_altsession"):
        for number in range(100):
            flash(visitor, f"message {number}")
    kept = visitor.stored["_f_"]
    assert len(json.dumps(kept, separators=(",", ":"))) <= LIMIT
    assert kept == [f"message {number}" for number in range(100 - len(kept), 100)]
    assert len(kept) >= 5
    told = caplog.messages
    assert 1 <= len(told) <= 20  # not one for each message
    assert "session.max_value_bytes" in told[0]
    assert "message" not in "".join(told).replace("messages", "")


def test_more_messages_than_fit_in_one_request(store: Store) -> None:
    """Of more messages than a queue can hold, flashed in one request without a session, the newest
    are stored, and the request still shows all of them."""
    visitor = small(store)
    visitor.jar = None
    session = visitor()
    for number in range(100):
        session.flash(f"message {number}")
    assert len(session.peek_flash()) == 100
    visitor.done()
    kept = visitor.stored["_f_"]
    assert kept == [f"message {number}" for number in range(100 - len(kept), 100)]


def test_flash_asks_for_nothing_back(live: Visitor) -> None:
    """The reply to a flash does not carry the queue, and what the request knew of the queue is
    asked for again."""
    flash(live, "one")
    session = live()
    assert session.peek_flash() == ["one"]
    session.flash("two")
    replies: list[Any] = []
    execute = live.watched.store.execute
    live.watched.store.execute = lambda o: replies.append(execute(o)) or replies[-1]  # type: ignore[method-assign, func-returns-value]
    session.write_back()
    assert [reply.values for reply in replies] == [[1]]
    assert session.peek_flash() == live.latest.altsession.get("_f_") == ["one", "two"]


def test_full_queue_in_one_write(visitor: Visitor) -> None:
    """As long as a queue has room, a flash is one write."""
    flash(visitor, "one")
    flash(visitor, "two")
    assert verbs(visitor) == [["append"], ["append"]]


def test_message_that_fits_no_queue(visitor: Visitor) -> None:
    """A message that would make a queue too long by itself is a ValueTooLarge at the call."""
    small_one = small(visitor.watched.store)
    session = small_one()
    session.flash("x" * (LIMIT - 4))  # with its quotes and the list's brackets
    with pytest.raises(ValueTooLarge, match=r"'_f_'.*session\.max_value_bytes is 200"):
        session.flash("x" * (LIMIT - 3))
    small_one.done()
    assert small_one.stored["_f_"] == ["x" * (LIMIT - 4)]


def test_longest_message_pushes_all_others_out(visitor: Visitor) -> None:
    """The last message stays, however long it is."""
    small_one = small(visitor.watched.store)
    flash(small_one, "one", "two")
    flash(small_one, "x" * (LIMIT - 4))
    assert small_one.stored["_f_"] == ["x" * (LIMIT - 4)]


def test_queue_from_before_the_limit(visitor: Visitor) -> None:
    """A queue that is longer than the limit, as that was lowered, is shown; and it is shortened by
    the next flash, not by a page that reads."""
    store = visitor.watched.store
    long = [f"message {number}" for number in range(552)]
    visitor.api.open(visitor.jar).set("_f_", long)
    narrow = Visitor(store, visitor.jar, session={"max_value_bytes": LIMIT})
    assert narrow().peek_flash() == long
    narrow.done()
    assert narrow.stored["_f_"] == long
    flash(narrow, "new")
    assert (narrow.stored["_f_"][-1], len(narrow.stored["_f_"]) < 20) == ("new", True)
    visitor.api.open(visitor.jar).set("_f_", long)
    assert narrow().pop_flash() == long
    narrow.done()
    assert "_f_" not in narrow.stored


@pytest.mark.parametrize("sealed", [False, True])
def test_two_flashes_at_a_full_queue(sealed: bool) -> None:
    """Of two requests that meet a full queue at once neither loses its message."""
    memory = MemoryStore()
    visitor = small(SealedStore(memory, CODEC) if sealed else memory)
    flash(visitor, *[f"message {number}" for number in range(15)])
    session, other = visitor(), small(visitor.watched.store)
    other.jar = visitor.jar
    session.flash("mine, and more")
    read: list[object] = []

    def meanwhile(operation: object) -> None:
        if isinstance(operation, Read) and not read:
            read.append(operation)
            flash(other, "other's")

    visitor.watched.after = meanwhile
    session.write_back()
    assert visitor.stored["_f_"][-2:] == ["other's", "mine, and more"]
    assert len(read) == 1


def test_others_always_faster() -> None:
    """A full queue that somebody else changes again and again is a RuntimeError in the end, and the
    messages still wait."""
    visitor = small(MemoryStore())
    flash(visitor, *[f"message {number}" for number in range(15)])
    session = visitor()
    session.flash("mine, and more")
    number = iter(range(1000))

    def meanwhile(operation: object) -> None:
        if isinstance(operation, Read):
            (id,) = Behind(visitor.watched.store).ids()
            Behind(visitor.watched.store).put(
                id, "_f_", json.dumps([next(number)] * 90).replace(" ", "").encode()
            )

    visitor.watched.after = meanwhile
    with pytest.raises(RuntimeError, match="writing _f_: other requests were faster"):
        visitor.latest.altsession.pop("_f_")
    visitor.watched.after = lambda operation: None
    assert session.pop_flash()[-1] == "mine, and more"


def test_full_queue_keeps_its_end(visitor: Visitor) -> None:
    """A queue with an end of its own keeps it when its oldest messages go."""
    store = visitor.watched.store
    narrow = Visitor(store, visitor.jar, session={"max_value_bytes": LIMIT})
    (id,) = Behind(store).ids()
    narrow.api.open(visitor.jar).set("_f_", ["x" * 150], ttl=60)
    end = Behind(store).fields(id)["_f_"].partition(b":")[0]
    flash(narrow, "y" * 100)
    assert Behind(store).fields(id)["_f_"] == end + b':["%b"]' % (b"y" * 100)


def test_full_queue_whatever_the_codec() -> None:
    """The oldest messages go as well where the list is written anew."""
    visitor = small(MemoryStore(), codec=Sealing())
    for number in range(100):
        flash(visitor, f"message {number}")
    kept = visitor.stored["_f_"]
    assert kept == [f"message {number}" for number in range(100 - len(kept), 100)]
    assert 3 <= len(kept) <= 20


def test_foreign_spelling_of_a_queue(visitor: Visitor) -> None:
    """A list that another program wrote with spaces around it takes messages too, and nothing is
    told as lost."""
    (id,) = Behind(visitor.watched.store).ids()
    Behind(visitor.watched.store).put(id, "_f_", b' [ "one" ]\n')
    flash(visitor, "two")
    assert visitor.stored["_f_"] == ["one", "two"]


@pytest.mark.parametrize("raw", [b"5", b'"ab"', b"[1", b'{"a":1}'])
def test_queue_that_is_no_list(visitor: Visitor, raw: bytes) -> None:
    """Where the queue's key holds no list, showing messages and flashing are CorruptValue."""
    (id,) = Behind(visitor.watched.store).ids()
    Behind(visitor.watched.store).put(id, "_f_", raw)
    session = visitor()
    with pytest.raises(CorruptValue):
        session.peek_flash()
    session.flash("own")
    with pytest.raises(CorruptValue):
        visitor.latest.altsession.pop("_f_")
    with pytest.raises(CorruptValue):
        session.write_back()
    assert Behind(visitor.watched.store).fields(id)["_f_"] == raw
    session = visitor()
    session.flash("own")
    with pytest.raises(CorruptValue):
        session.pop_flash()
    assert session.pop_flash() == ["own"]  # what stood there was taken out


def test_item_beside_a_queue_that_is_no_list(visitor: Visitor) -> None:
    """Reading such a key as an item shows what it holds."""
    visitor.api.open(visitor.jar).set("_f_", 5)
    session = visitor()
    session.flash("own")
    assert (session["_f_"], visitor.latest.altsession.get("_f_")) == (5, 5)


# -- a message is itself until the request ends


def test_message_keeps_its_type(visitor: Visitor) -> None:
    """What was flashed in this request is shown as the object it is."""
    markup, pair = Markup("<b>hi</b>"), ("one", 2)
    session = visitor()
    session.flash(markup)
    session.flash(pair)
    shown = session.peek_flash()
    assert (shown[0] is markup, shown[1] is pair) == (True, True)
    assert session["_f_"][0] is markup
    taken = session.pop_flash()
    assert (taken[0] is markup, taken[1] is pair, session.peek_flash()) == (True, True, [])


def test_message_after_stored_ones_keeps_its_type(visitor: Visitor) -> None:
    """So is one that comes after stored messages, in a queue that was looked at before."""
    flash(visitor, Markup("stored"))
    session = visitor()
    assert session.peek_flash() == ["stored"]
    session.flash(Markup("own"))
    assert [type(message) for message in session.pop_flash()] == [str, Markup]


def test_equal_messages_of_different_types(visitor: Visitor) -> None:
    """Markup and an equal str are not taken for each other."""
    session = visitor()
    session.flash("<b>")
    session.flash(Markup("<b>"))
    assert [type(message) for message in session.pop_flash()] == [str, Markup]


def test_message_of_a_refused_call_keeps_its_type(visitor: Visitor) -> None:
    """Nor does a call that failed on the queue change what it is."""
    session = visitor()
    session.flash(Markup("own"))
    with pytest.raises(TypeError):
        visitor.latest.altsession.increment("_f_")
    assert [type(message) for message in session.pop_flash()] == [Markup]


def test_message_that_is_changed_later(visitor: Visitor) -> None:
    """A change within a message is seen, and stored, as one within any value."""
    session = visitor()
    message = {"lines": [1]}
    session.flash(message)
    message["lines"].append(2)
    assert session.peek_flash() == visitor.latest.altsession.get("_f_") == [{"lines": [1, 2]}]
    visitor.done()
    assert visitor.stored["_f_"] == [{"lines": [1, 2]}]


def test_message_keeps_its_type_whatever_the_codec() -> None:
    """Where the list is written anew a message is itself, too."""
    session = small(MemoryStore(), codec=Sealing())()
    session.flash(Markup("own"))
    assert [type(message) for message in session.pop_flash()] == [Markup]


# -- seen everywhere


SEEN: list[tuple[Callable[[Any], Any], Any]] = [
    (lambda alt: alt.get("_f_"), ["stored", "own"]),
    (lambda alt: alt.get("_f_", fresh=True), ["stored", "own"]),
    (lambda alt: alt.get("_f_q"), ["only"]),
    (lambda alt: alt.mget(["_f_", "_f_q"]), {"_f_": ["stored", "own"], "_f_q": ["only"]}),
    (lambda alt: alt.exists("_f_q"), True),
    (lambda alt: alt.keys(), ["_f_", "_f_q", "a", "b"]),
    (lambda alt: alt.all()["_f_q"], ["only"]),
    (lambda alt: alt.modify("_f_", lambda queue: [*queue, 1]), ["stored", "own", 1]),
    (lambda alt: alt.compare_and_set("_f_q", ["only"], [2]), True),
    (lambda alt: alt.setdefault("_f_q", []), ["only"]),
]


@pytest.mark.parametrize("case", range(len(SEEN)))
def test_waiting_messages_are_seen(visitor: Visitor, case: int) -> None:
    """request.altsession shows messages that were not written yet, in one round trip more at most
    than the call takes, and they are stored once."""
    look, expected = SEEN[case]
    flash(visitor, "stored")
    session = visitor()
    session.flash("own")
    session.flash("only", "q")
    alt = visitor.latest.altsession
    assert look(alt) == expected
    seen = alt.mget(["_f_", "_f_q"])
    visitor.done()
    assert {"_f_": visitor.stored["_f_"], "_f_q": visitor.stored["_f_q"]} == seen


@pytest.mark.parametrize("key", ["_f_", "_f_q"])
def test_waiting_messages_are_seen_by_a_batch(visitor: Visitor, key: str) -> None:
    """So does a batch of reads."""
    flash(visitor, "stored")
    session = visitor()
    session.flash("own")
    session.flash("only", "q")
    with visitor.latest.altsession.batch() as batch:
        one, whole = batch.get(key), batch.all()
    assert one.result() == whole.result()[key] == session[key]


# -- nothing is lost by a failure


@pytest.mark.parametrize("own", [["own"], []])
def test_pop_flash_that_fails(visitor: Visitor, own: list[str]) -> None:
    """Own messages outlive a pop_flash that fails."""
    flash(visitor, "stored")
    session = visitor()
    for message in own:
        session.flash(message)
    for kind in (Read, Write):
        visitor.watched.before = fail_on(kind)
        with pytest.raises(StoreUnavailable):
            session.pop_flash()
        visitor.watched.before = lambda operation: None
    assert session.pop_flash() == ["stored", *own]


def test_pop_flash_that_fails_and_is_not_tried_again(visitor: Visitor) -> None:
    """And they are stored at the end."""
    session = visitor()
    session.flash("own")
    visitor.watched.before = fail_on(Read)
    with pytest.raises(StoreUnavailable):
        session.pop_flash()
    visitor.watched.before = lambda operation: None
    visitor.done()
    assert visitor.stored["_f_"] == ["own"]


def test_invalidate_that_fails(visitor: Visitor) -> None:
    """A session that could not be ended keeps what was not written yet, nested changes and
    messages included."""

    def fail(operation: object) -> None:
        if isinstance(operation, Write) and isinstance(operation.life, Invalidate):
            raise StoreUnavailable("out of order")

    session = visitor()
    session["a"] = 2
    session["b"].append(2)
    session.flash("own")
    visitor.watched.before = fail
    for end in (session.invalidate, visitor.latest.altsession.logout):
        with pytest.raises(StoreUnavailable):
            end()
    visitor.done()
    assert visitor.stored == {"a": 2, "b": [1, 2], "_f_": ["own"]}


def test_invalidate_of_a_session_that_was_renewed(visitor: Visitor) -> None:
    """A logout that did not happen leaves no answer that looks well: the write-back tells as
    well."""
    session = visitor()
    session["a"] = 2
    visitor.does(lambda alt: alt.renew())
    with pytest.raises(SessionGone):
        session.invalidate()
    with pytest.raises(SessionGone):
        session.write_back()


def test_invalidate_beside_a_value_that_is_not_json(visitor: Visitor) -> None:
    """Logging out works whatever stands in the values."""
    session = visitor()
    session["b"].append({1})
    session.invalidate()
    visitor.done()
    assert visitor.jar is None


def test_append_is_bounded_on_the_server(store: Store) -> None:
    """The verb is refused where the list would be longer than its limit, and its result is 1."""
    visitor = small(store)
    assert visitor.visit().exists()
    alt = visitor.api.session(visitor.latest)
    assert alt.driver.write(Append("q", b'"12345678"', 12)) == [1]
    with pytest.raises(Refused):
        alt.driver.write(Append("q", b"1", 12))
    assert alt.driver.write(Append("q", b"1", 14)) == [1]
    assert alt.get("q") == ["12345678", 1]


def test_gone_session_takes_no_changes_back(visitor: Visitor) -> None:
    """What could not be written, as the session is gone, does not come to the next one."""
    session = visitor()
    assert session["a"] == 1
    session["a"] = "ann's"
    visitor.api.open(visitor.jar).invalidate()
    alt = visitor.latest.altsession
    with pytest.raises(SessionGone):
        alt.increment("a")
    alt.login("bob")
    visitor.done()
    assert visitor.stored == {}


def test_message_that_grew_too_long(visitor: Visitor) -> None:
    """A message that was made too long after it was flashed stops no read; it is refused when it
    is to be written."""
    narrow = small(visitor.watched.store)
    session, message = narrow(), ["short"]
    session.flash(message)
    message.append("x" * LIMIT)
    assert (narrow.latest.altsession.get("a"), session.peek_flash()) == (1, [message])
    with pytest.raises(ValueTooLarge, match="'_f_'"):
        session.write_back()
    assert narrow.stored == {"a": 1}


def test_flash_onto_an_assigned_value_that_is_no_list(visitor: Visitor) -> None:
    """Where the queue's key was assigned something else, flash is CorruptValue at the call."""
    session = visitor()
    session["_f_"] = 5
    with pytest.raises(CorruptValue, match="'_f_'"):
        session.flash("x")


def test_assigned_messages_are_themselves(visitor: Visitor) -> None:
    """Messages that were assigned as a whole list are shown as what they are, once."""
    session = visitor()
    session["_f_"] = [Markup("own")]
    session.flash(("second",))
    assert [type(message) for message in session.pop_flash()] == [Markup, tuple]
    assert session.pop_flash() == []
