"""Operations in a few words."""

import pytest

from pyramid_altsession import Observation, SessionAPI
from pyramid_altsession.errors import SessionFull
from pyramid_altsession.protocol.fields import State, Timing
from pyramid_altsession.protocol.messages import (
    Describe,
    End,
    Inspect,
    Listing,
    Operation,
    Prune,
    Reply,
    Revoke,
    Scan,
)
from pyramid_altsession.stores.trace import Step, Trace
from pyramid_altsession.testing import fail

ID = "abcdefghijklmnopqrstuv"
TIMING = Timing(1, 1, 1, 1)

USERS: dict[str, Operation] = {
    "users list 'ann'": Listing("ann"),
    "users prune 'ann'": Prune("ann", ()),
    "users revoke 'ann'": Revoke("ann", None),
    "users end 'abcdefgh…'": End("ann", (ID,), b"", TIMING),
    "users describe 'abcdefgh…'": Describe((ID,)),
    "users inspect 'abcdefgh…'": Inspect((ID,)),
    "users scan": Scan(0),
}


@pytest.mark.parametrize(("words", "operation"), USERS.items())
def test_what_concerns_several_sessions(words: str, operation: Operation) -> None:
    """Users and the beginnings of ids, and nothing that became of one session."""
    seen = Observation(operation, Reply(State.LIVE), None, 1, 2, 3, 0.000_004)
    step = Step.seen(seen, values=True)
    assert str(step) == words
    assert (step.answer, step.became, step.values) == ("live", "", {})
    assert (step.round_trips, step.sent, step.received, step.microseconds) == (1, 2, 3, 4)


@pytest.fixture
def api() -> SessionAPI:
    return SessionAPI.from_settings({"redis.url": "memory://"})


def traced(api: SessionAPI) -> Trace:
    trace = Trace(values=True)
    api.observe(trace.note)
    return trace


def test_calls(api: SessionAPI) -> None:
    """A call of each kind, as it is written down."""
    trace = traced(api)
    session = api.create({"a": 1})
    other = api.open(str(session.token))
    other.touch()
    other.mget(["a", "b"])
    api.open(str(session.token)).userid()
    with other.batch() as batch:
        batch.set("c", 1)
        batch.all()
    session.login("ann")
    assert api.invalidate_id(str(session.id))
    assert [str(step) for step in trace.steps] == [
        "create set 'a'",
        "write touch (touched)",
        "read get 'a' 'b'",
        "read get userid",
        "write set everything 'c'",
        "write login (signed in)",
        f"users invalidate '{session.id[:8]}…' (ended)",
    ]
    assert [step.values for step in trace.steps][:5] == [
        {"a": "1"},
        {},
        {"a": "1"},
        {},
        {"c": "1"},
    ]


def test_an_error(api: SessionAPI) -> None:
    """An operation that failed has the name of its error."""
    trace = traced(api)
    with pytest.raises(Exception, match="a test's plan"), fail(api):
        api.create()
    assert [step.answer for step in trace.steps] == ["StoreUnavailable"]


def test_a_full_session() -> None:
    """A write that has no room leaves the session as it is."""
    api = SessionAPI.from_settings({"redis.url": "memory://", "session.max_keys": 1})
    token, trace = str(api.create({"a": 1}).token), traced(api)
    with pytest.raises(SessionFull):
        api.open(token).set("b", 1)
    assert [(step.answer, step.became) for step in trace.steps] == [("full", "")]


def test_a_refusal(api: SessionAPI) -> None:
    """A call that is refused leaves the session alive."""
    session, trace = api.create({"a": "text"}), traced(api)
    with pytest.raises(TypeError):
        session.increment("a")
    # The session was opened before anybody observed; another one is.
    with pytest.raises(TypeError):
        api.open(str(session.token)).increment("a")
    assert [(step.answer, step.became, step.values) for step in trace.steps] == [
        ("refused", "", {})
    ]
