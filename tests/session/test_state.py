"""SessionState without any store of ours: the same decisions drive an awaitable toy store."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from pyramid_altsession import SessionGone
from pyramid_altsession.config.table import SessionSettings
from pyramid_altsession.errors import StoreUnavailable
from pyramid_altsession.protocol.fields import FACTS, Facts, State, Timing, judge, remember_dead
from pyramid_altsession.protocol.lifecycle import Invalidate, Life, Renew, Touch
from pyramid_altsession.protocol.messages import Operation, Read, Reply, Write
from pyramid_altsession.protocol.state import PendingEvent, SessionState, Status
from pyramid_altsession.protocol.token import Token, new_verifier
from pyramid_altsession.protocol.verbs import Increment, Refused, Set, Verb

TIMING = Timing.of(SessionSettings())
HOUR = 3_600_000


class ToyStore:
    """One session's fields in a dict; every operation is awaited. ``now`` stands still."""

    def __init__(self) -> None:
        self.held: dict[str, dict[str, bytes]] = {}
        self.now = HOUR

    async def execute(self, operation: Operation) -> Reply:
        await asyncio.sleep(0)
        if isinstance(operation, Read):
            return self.read(operation)
        id, verbs, life = operation.claim.id, operation.verbs, operation.life
        if operation.create:
            self.held[id] = {"@v": operation.claim.proof}
        state = self.judge(operation)
        if state is not State.LIVE:
            return Reply(state)
        for verb in verbs:
            if isinstance(verb, Set):
                self.held[id][verb.name] = verb.value
        if isinstance(life, Renew):
            dead = remember_dead(None, operation.claim.proof, self.now)
            self.held[id] |= {"@v": life.proof, "@q": dead}
        elif isinstance(life, Invalidate):
            self.held[id] = {"@x": life.nonce}
        results = [None if isinstance(v, Set) else 1 for v in verbs]
        return Reply(state, results, self.now, 2 * HOUR, done=0 if life is None else 1)

    def read(self, operation: Read) -> Reply:
        (claim,), fields = operation.claims, operation.fields or ()
        state = self.judge(operation)
        held = self.held.get(claim.id, {})
        values = [held.get(name) for name in fields] if state is State.LIVE else [state]
        live = state is State.LIVE
        return Reply(state if live else State.DEAD, values, self.now, HOUR if live else None)

    def judge(self, operation: Operation) -> State:
        claim = operation.claims[0] if isinstance(operation, Read) else operation.claim
        held = self.held.get(claim.id, {})
        facts = Facts(*[held.get(name) for name in FACTS])
        return judge(claim, facts, self.now, operation.timing.window, operation.timing)


class Visit:
    """A whole awaitable session: the driver, and a line for each call."""

    def __init__(self, store: ToyStore, token: Token | None = None) -> None:
        self.store = store
        self.state = SessionState([token] if token else [], TIMING)

    async def drive(self, operation: Operation | None) -> Sequence[Any]:
        while operation is not None:
            operation = self.state.learn(operation, await self.store.execute(operation))
        return self.state.results

    async def get(self, name: str) -> bytes | None:
        await self.drive(self.state.read((name,)))
        return self.state.cache.fields.get(name)

    async def write(self, *verbs: Verb) -> Sequence[Any]:
        return await self.drive(self.state.write(*verbs))

    async def step(self, life: Life) -> int:
        await self.drive(self.state.write(life=life))
        return self.state.done


async def new_session(store: ToyStore) -> Token:
    visit = Visit(store)
    await visit.write(Set("k", b"1"))
    assert isinstance(visit.state.cookie, Token)
    return visit.state.cookie


def awaited(test: Callable[[ToyStore], Awaitable[None]]) -> Callable[[], None]:
    """Run an async test on a toy store."""

    def run() -> None:
        asyncio.run(test(ToyStore()))  # type: ignore[arg-type]

    run.__doc__, run.__name__ = test.__doc__, test.__name__
    return run


@awaited
async def test_awaited_creation(store: ToyStore) -> None:
    """An awaited first write makes a session and its cookie."""
    token = await new_session(store)
    assert await Visit(store, token).get("k") == b"1"


@awaited
async def test_awaited_renewal(store: ToyStore) -> None:
    """After an awaited renew the new token reads, the old one finds nothing and may not write."""
    token = await new_session(store)
    visit = Visit(store, token)
    assert await visit.step(Renew(new_verifier())) == 1
    assert isinstance(visit.state.cookie, Token)
    assert await Visit(store, visit.state.cookie).get("k") == b"1"
    assert await Visit(store, token).get("k") is None
    with pytest.raises(SessionGone):
        await Visit(store, token).write(Set("k", b"2"))


@awaited
async def test_awaited_logout_under_a_request(store: ToyStore) -> None:
    """Of two awaited requests at once, the one that saw the session alive is SessionGone after
    the other has ended it."""
    token = await new_session(store)
    slow, other = Visit(store, token), Visit(store, token)
    first, _ = await asyncio.gather(slow.get("k"), other.step(Invalidate(b"nonce")))
    assert (first, other.state.cookie) == (b"1", False)
    with pytest.raises(SessionGone):
        await slow.write(Set("k", b"2"))
    with pytest.raises(SessionGone):
        await slow.get("k")


@awaited
async def test_awaited_expired_cookie(store: ToyStore) -> None:
    """An awaited write with a dead cookie starts a session under another token."""
    dead = Token.new()
    visit = Visit(store, dead)
    assert await visit.get("k") is None
    await visit.write(Set("k", b"2"))
    assert isinstance(visit.state.cookie, Token)
    assert visit.state.cookie.id != dead.id
    assert list(store.held) == [visit.state.cookie.id]


@awaited
async def test_awaited_rejection(store: ToyStore) -> None:
    """A wrong verifier is noted once, harms nothing, and its write starts another session."""
    token = await new_session(store)
    visit = Visit(store, Token(token.id, new_verifier()))
    await visit.get("k")
    await visit.write(Set("k", b"2"))
    assert [event.kind for event in visit.state.events] == ["rejected", "created"]
    assert await Visit(store, token).get("k") == b"1"


# -- one reply at a time


@pytest.fixture
def token() -> Token:
    return Token.new()


@pytest.fixture
def state(token: Token) -> SessionState:
    """A request whose cookie was not looked at yet."""
    return SessionState([token], TIMING, clock=lambda: 0.0)


def live(left: int = 2 * HOUR, tti: int | None = None, deadline: int | None = None) -> Reply:
    own = None if tti is None else b"%d" % tti
    end = None if deadline is None else b"%d" % deadline
    facts = Facts(b"proof", None, end, None, own, None, None, None)
    return Reply(State.LIVE, [None], HOUR, left, facts=facts)


def read(state: SessionState, reply: Reply) -> Operation | None:
    operation = state.read(("k",))
    assert operation is not None
    return state.learn(operation, reply)


def full() -> int:
    """Milliseconds that a touch gives."""
    return TIMING.tti + TIMING.interval


@pytest.mark.parametrize(
    ("reply", "due"),
    [
        (live(full()), False),
        (live(TIMING.tti), False),
        (live(TIMING.tti - 1), True),
        (live(1), True),
        (live(-1), True),  # no TTL at all
        (live(full() + 1000), False),
        (live(full() + 1001), True),  # more than a touch gives: the clock was set back
        (live(600_000, deadline=HOUR + 600_000), False),  # the deadline limits it already
        (live(600_000, deadline=HOUR + 600_001), True),
        (live(70_000, tti=60_000), False),  # a tti of its own
        (live(59_999, tti=60_000), True),
        (live(3 * HOUR, tti=3 * HOUR), False),
        (Reply(State.LIVE, [None], HOUR, None), False),  # it ended while it was read
    ],
)
def test_when_a_touch_is_due(state: SessionState, reply: Reply, due: bool) -> None:
    """A read owes a touch when less than the tti is left and the deadline is not what limits it,
    or when more is left than any touch gives."""
    following = read(state, reply)
    assert isinstance(following, Write) is due
    assert following is None or (following.life, following.optional) == (Touch(), True)


def test_touch_is_not_owed_by_ttl(state: SessionState) -> None:
    """A read that asks for the time left owes no touch."""
    operation = state.read((), touch=False)
    assert operation is not None
    assert state.learn(operation, replace(live(1), values=[])) is None
    assert state.left == 1


def test_interval_of_a_session_with_its_own_tti() -> None:
    """A session's own tti has an interval of a tenth of it, and not below the setting's."""
    assert TIMING.own(None) is TIMING
    assert (TIMING.own(60_000).tti, TIMING.own(60_000).interval) == (60_000, TIMING.interval)
    assert TIMING.own(30 * HOUR).interval == 3 * HOUR


def test_attempts_share_all_but_the_memo(state: SessionState) -> None:
    """A new attempt keeps what is true and forgets what was read."""
    read(state, Reply(State.LIVE, [b"1"], HOUR, 2 * HOUR))
    state.begin_attempt(1, False)
    assert (state.status, state.cache.fields) == (Status.ALIVE, {})


def test_refused_in_a_new_session() -> None:
    """A write that is refused while it makes a session makes none, and a later one does."""
    state = SessionState([], TIMING)
    operation = state.write(Increment("n", 1), Increment("n", 1))
    assert isinstance(operation, Write)
    with pytest.raises(Refused):
        state.learn(operation, Reply(State.REFUSED, 1, HOUR, None))
    assert (state.status, state.new, state.cookie) == (Status.NONE, False, None)
    assert state.events == ()


def test_refused_in_a_live_session(state: SessionState) -> None:
    """A write that is refused has seen the session alive."""
    operation = state.write(Increment("n", 1))
    assert operation is not None
    with pytest.raises(Refused):
        state.learn(operation, Reply(State.REFUSED, 0, HOUR, HOUR))
    assert state.status is Status.ALIVE


def test_no_reply_to_a_read(state: SessionState) -> None:
    """A read without a reply leaves what is remembered."""
    read(state, Reply(State.LIVE, [b"1"], HOUR, 2 * HOUR))
    operation = state.read(("other",))
    assert operation is not None
    assert not state.failed(operation, StoreUnavailable("away"))
    assert state.cache.fields == {"k": b"1"}


def test_window_of_a_write(token: Token) -> None:
    """A write says how long ago its request began, on top of gone_window; 0 stays 0."""
    clock = iter([5.0, 7.5])
    state = SessionState([token], TIMING, clock=lambda: next(clock))
    operation = state.write(life=Touch())
    assert isinstance(operation, Write)
    assert operation.window == 12_500
    none = SessionState([token], TIMING._replace(window=0), began=1.0, clock=lambda: 100.0)
    operation = none.write(life=Touch())
    assert isinstance(operation, Write)
    assert operation.window == 0


def test_renewal_that_is_not_due(state: SessionState) -> None:
    """Nothing is renewed that is not due, nor what the request has not seen alive."""
    assert (state.renewal_due, state.renewal()) == (False, None)
    state.renewal_due = True
    assert (state.status, state.renewal()) == (Status.UNSEEN, None)


def test_repr_has_no_verifier(state: SessionState, token: Token) -> None:
    """repr shows the status and the selector."""
    assert repr(state) == "<SessionState UNSEEN None>"
    read(state, live())
    assert repr(state) == f"<SessionState ALIVE <Token {token.id}>>"


def test_happening_after_own_end(state: SessionState, token: Token) -> None:
    """Ending is told with the id, although the session has none any more."""
    operation = state.write(life=Invalidate(b"nonce"))
    assert operation is not None
    state.learn(operation, Reply(State.LIVE, [], HOUR, None, done=1))
    assert state.events == (PendingEvent("invalidated", token.id, None, "call"),)
    assert (state.status, state.cookie) == (Status.ENDED, False)
