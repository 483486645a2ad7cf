"""Sessions on a cluster: the index of a user is on another node, slots move, nodes go away."""

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from accounts import Books, index_key
from inside import confirm_within, idle_in, state_in, store_in
from msgspec.structs import replace
from proxy import Proxy
from servers import Server, free_port
from topologies import Cluster, role, until
from workers import eventually, token_of

from pyramid_altsession.api import SessionAPI
from pyramid_altsession.config.sources import read_settings
from pyramid_altsession.errors import NotDurable, SessionGone, StoreUnavailable, TooManySessions
from pyramid_altsession.protocol.administration import survey
from pyramid_altsession.protocol.contract import PendingRead
from pyramid_altsession.protocol.fields import State, Timing
from pyramid_altsession.protocol.lifecycle import Invalidate, Life, Login, Renew, Touch
from pyramid_altsession.protocol.messages import (
    PRUNE_AGE,
    Describe,
    End,
    Listing,
    Read,
    Reply,
    Revoke,
    Scan,
    Write,
)
from pyramid_altsession.protocol.steps import advance, run
from pyramid_altsession.protocol.token import Token, new_verifier
from pyramid_altsession.protocol.verbs import Set
from pyramid_altsession.stores import open_store
from pyramid_altsession.stores.redis import cluster as cluster_module
from pyramid_altsession.stores.redis import ending as ending_module
from pyramid_altsession.stores.redis import leftovers
from pyramid_altsession.stores.redis.cluster import ClusterSteps
from pyramid_altsession.stores.redis.exchanges import Address, Exchange, Steps
from pyramid_altsession.stores.redis.failures import NotConnected
from pyramid_altsession.stores.redis.waiting import Sent

TIMING = Timing(60_000, 6_000, 0, 10_000)
LIFETIME = 3_600_000
NODE = ("127.0.0.1", 1)
MANY = 60
"""Sessions: so many that each of three nodes has some."""

# -- steps, one after the other, on one server that stands for all nodes


class OneForAll:
    """A cluster whose every node is the same server, so that each step can be taken by hand."""

    def __init__(self, server: Server) -> None:
        store = open_store(read_settings({"redis.url": server.url}))
        self.close = store.close
        self.pool: Any = store.servers[None].pool  # type: ignore[attr-defined]
        self.steps = ClusterSteps([NODE], b"sess:")
        self.books = Books(store, server.client)
        self.lost: Callable[[Exchange], bool] = lambda exchange: False
        self.nodes: list[Address] = [NODE]
        self.confirms: Callable[[Address | None], int] = lambda address: 0

    def carry_out(self, exchange: Exchange) -> list[Any]:
        if exchange.lookup:
            each = 16384 // len(self.nodes) + 1
            return [
                [
                    [
                        place * each,
                        min(place * each + each, 16384) - 1,
                        [host.encode(), port, b"id"],
                    ]
                    for place, (host, port) in enumerate(self.nodes)
                ]
            ]
        if self.lost(exchange):
            raise NotConnected("away")
        found: list[Any] = self.pool.exchange(exchange.packet, exchange.replies)
        if b"WAIT" in exchange.packet:
            found[-1] = self.confirms(exchange.address)
        return found

    def run(self, operation: Any) -> Reply:
        return run(self.carry_out, self.steps.execute(operation))

    def session(self, user: str | None = None) -> Token:
        """A live one, signed in if a user is named."""
        token = Token.new()
        self.run(Write(token.claim, (Set("k", b"1"),), TIMING, create=True))
        return token if user is None else self.sign_in(token, user)

    def sign_in(self, token: Token, user: str) -> Token:
        life = login(user)
        assert self.run(Write(token.claim, (), TIMING, user=user, life=life)).state is State.LIVE
        return Token(token.id, life.verifier)


def login(user: str, limit: int = 0) -> Login:
    return Login(new_verifier(), user, None, LIFETIME, limit)


def signing_in(token: Token, user: str, limit: int = 0) -> Write:
    return Write(token.claim, (), TIMING, user=user, life=login(user, limit))


@pytest.fixture
def nodes(server: Server) -> Iterator[OneForAll]:
    found = OneForAll(server)
    yield found
    found.close()


def unlisted(nodes: OneForAll) -> dict[str, str]:
    """Sessions that their users cannot find, which must never be."""
    held = nodes.books.signed_in()
    return {id: user for id, user in held.items() if id not in nodes.books.index(user)}


class Turn:
    """An operation whose steps are taken one by one."""

    def __init__(self, nodes: OneForAll, operation: Any) -> None:
        self._nodes = nodes
        self._steps: Steps[Reply] = nodes.steps.execute(operation)
        self._outcome: Any = None
        self.reply: Reply | None = None

    def step(self) -> None:
        """The next packet and its answer; nothing when all is done."""
        if self.reply is not None:
            return
        try:
            exchange = advance(self._steps, self._outcome)
            self._outcome = self._nodes.carry_out(exchange)
            if exchange.lookup:
                self.step()
        except StopIteration as done:
            self.reply = done.value


STEPS = 4
"""Packets of the longest operation below, and its end."""


ORDERS = [tuple(1 if place in ones else 0 for place in range(2 * STEPS))
          for ones in itertools.combinations(range(2 * STEPS), STEPS)]  # fmt: skip


def in_every_order(
    nodes: OneForAll, prepare: Callable[[], Sequence[Any]], check: Callable[[list[Turn]], None]
) -> None:
    for order in ORDERS:
        nodes.books.client.flushall()
        turns = [Turn(nodes, operation) for operation in prepare()]
        for which in order:
            turns[which].step()
            assert unlisted(nodes) == {}, order
        check(turns)


def two_logins(nodes: OneForAll) -> None:
    """Of two logins on one session the winner's session stays in the index."""

    def prepare() -> Sequence[Any]:
        token = nodes.session()
        return signing_in(token, "ann"), signing_in(token, "ann")

    def check(turns: list[Turn]) -> None:
        states = sorted([turn.reply.state.name for turn in turns if turn.reply])
        assert states in (["LIVE", "REPLACED"], ["LIVE", "REJECTED"])

    in_every_order(nodes, prepare, check)


def test_two_logins_on_one_session(nodes: OneForAll) -> None:
    """At no moment is a signed-in session one that its user cannot find."""
    two_logins(nodes)


def test_the_loser_of_two_logins_must_not_leave(
    nodes: OneForAll, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it did, the test above would see it."""
    monkeypatch.setattr(
        cluster_module, "OVER", (*cluster_module.OVER, State.REJECTED, State.REPLACED)
    )
    with pytest.raises(AssertionError):
        two_logins(nodes)


def test_a_login_and_the_end_of_its_session(nodes: OneForAll) -> None:
    """Whoever is first: no session is unlisted, and nothing is listed that is over."""

    def prepare() -> Sequence[Any]:
        token = nodes.session()
        ends = Invalidate(b"n" * 16)
        return signing_in(token, "ann"), Write(token.claim, (), TIMING, user="ann", life=ends)

    def check(turns: list[Turn]) -> None:
        assert set(nodes.books.index("ann")) == set(nodes.books.signed_in())

    in_every_order(nodes, prepare, check)


def test_a_login_and_the_end_of_all_sessions(nodes: OneForAll) -> None:
    """The login is over before "log out everywhere" and its session is ended, or comes after it."""

    def prepare() -> Sequence[Any]:
        token = nodes.session("ann")
        return signing_in(nodes.session(), "ann"), Revoke("ann", None), token

    for order in ORDERS:
        nodes.books.client.flushall()
        first, second, _ = prepare()
        turns = [Turn(nodes, first), Turn(nodes, second)]
        for which in order:
            turns[which].step()
            assert unlisted(nodes) == {}
        assert turns[1].reply is not None
        ids = tuple(id for id, _ in turns[1].reply.values)
        nodes.run(End("ann", ids, b"e" * 16, TIMING))
        left = [id for id, user in nodes.books.signed_in().items() if user == "ann"]
        assert set(left) <= {first.claim.id}
        nodes.run(End("ann", (first.claim.id,), b"e" * 16, TIMING))


@pytest.mark.parametrize("after", range(STEPS))
def test_a_process_that_dies_between_the_steps(nodes: OneForAll, after: int) -> None:
    """Of a login, an end, a touch: an entry too many at worst."""
    token = nodes.session()
    signed = nodes.session("ann")
    ends = Write(signed.claim, (), TIMING, user="ann", life=Invalidate(b"n" * 16))
    for operation in (signing_in(token, "ann"), ends, with_life(signed, "ann", Touch())):
        turn = Turn(nodes, operation)
        for _ in range(after):
            turn.step()
        assert unlisted(nodes) == {}


def with_life(token: Token, user: str, life: Life | None) -> Write:
    return Write(
        token.claim, (Set("k", b"2"),) if life is None else (), TIMING, 0, user=user, life=life
    )


def test_a_limit_holds_for_logins_at_once(nodes: OneForAll) -> None:
    """Of two logins for one place, one is refused."""

    def prepare() -> Sequence[Any]:
        return [signing_in(nodes.session(), "ann", limit=1) for _ in range(2)]

    def check(turns: list[Turn]) -> None:
        states = sorted([turn.reply.state.name for turn in turns if turn.reply])
        assert states == ["LIVE", "SESSION_LIMIT"]

    in_every_order(nodes, prepare, check)


@pytest.mark.parametrize("after", [1, 2])
@pytest.mark.parametrize("signed_out", [True, False])
def test_a_login_under_way_counts_as_a_session(
    nodes: OneForAll, after: int, signed_out: bool
) -> None:
    """The other sign-in, at the limit, is refused: whether the first one begins a session, or signs
    in on one that is there. Its entry counts for ten seconds; then it is that of a dead login."""
    token = nodes.session() if signed_out else Token.new()
    first = replace(signing_in(token, "ann", limit=1), create=not signed_out)
    turn = Turn(nodes, first)
    for _ in range(after):
        turn.step()
    api = SessionAPI(LIMITED, store=Plain(nodes))
    with pytest.raises(TooManySessions, match="the user has 1 sessions"):
        api.create().login("ann")
    for _ in range(STEPS):
        turn.step()
    assert turn.reply is not None
    assert turn.reply.state is State.LIVE
    assert run(nodes.run, survey("ann")).ended == ()
    nodes.run(End(None, (token.id,), b"e" * 16, TIMING))
    entered = nodes.books.index("ann")[token.id]
    nodes.books.put_entry("ann", token.id, entered - cluster_module.ENTERING)
    api.create().login("ann")
    assert len(api.sessions_of("ann")) == 1


def test_an_entry_of_the_future_is_of_no_login_under_way(nodes: OneForAll) -> None:
    """The index has it since before its node's clock was set back. Its session has ended, so it
    does not keep the user out until the clock is there again."""
    api = SessionAPI(LIMITED, store=Plain(nodes))
    first = api.create()
    first.login("ann")
    assert first.id is not None
    nodes.run(End(None, (first.id,), b"e" * 16, TIMING))
    entered = nodes.books.index("ann")[first.id]
    nodes.books.put_entry("ann", first.id, entered + 3_600_000)
    api.create().login("ann")
    assert len(api.sessions_of("ann")) == 1


def test_a_logout_makes_room_whoever_asks(nodes: OneForAll) -> None:
    """Also if it is a request's first call, which does not know the user yet: the user can sign in
    again at once."""
    api = SessionAPI(LIMITED, store=Plain(nodes))
    for _ in range(2):
        session = api.create()
        session.login("ann")
        assert api.open(token_of(session)).logout()
        assert nodes.books.index("ann") == {}
    assert api.create().invalidate()


def test_a_logout_of_which_only_the_entry_is_left(
    nodes: OneForAll, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the node of the user's index is away: it goes with a later login."""
    token = nodes.session("ann")
    nodes.lost = lambda exchange: b"sess:user:" in exchange.packet
    assert nodes.run(replace(ending(token), user=None)).done == 1
    nodes.lost = lambda exchange: False
    nodes.books.put_entry("ann", token.id, 1)
    monkeypatch.setattr(leftovers, "OLD", -1.0)
    nodes.session("bob")
    assert nodes.books.index("ann") == {}


LIMITED = read_settings({"session": {"max_sessions_per_user": 1, "on_max_sessions": "deny"}})


class Plain:
    """The store contract, as far as a login needs it."""

    def __init__(self, nodes: OneForAll) -> None:
        self.execute = nodes.run

    def send(self, operation: Read) -> PendingRead:
        raise NotImplementedError

    def close(self) -> None:
        """The fixture does it."""


def test_a_login_that_was_held_up_gives_up(
    nodes: OneForAll, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After so long its entry may have been pruned, and nobody would find the session."""
    monkeypatch.setattr(cluster_module, "FROZEN", -1.0)
    token = nodes.session()
    with pytest.raises(NotConnected, match="held up in the middle of a login"):
        nodes.run(signing_in(token, "ann"))
    assert nodes.books.signed_in() == {}


def test_a_login_on_a_dead_session_leaves_no_entry(nodes: OneForAll) -> None:
    """Nobody will ever have that id again."""
    assert nodes.run(signing_in(Token.new(), "ann")).state is State.DEAD
    assert nodes.books.index("ann") == {}


@pytest.mark.parametrize("life", [None, Touch()])
def test_an_evicted_index_heals(nodes: OneForAll, life: Life | None) -> None:
    """At the next touch, or write, the session is entered with the time of its login."""
    token = nodes.session("ann")
    nodes.books.lose_index("ann")
    assert nodes.run(with_life(token, "ann", life)).state is State.LIVE
    assert nodes.books.index("ann") == {token.id: int(nodes.books.fields(token.id)["@l"])}


def test_a_session_that_a_log_out_everywhere_could_not_find(nodes: OneForAll) -> None:
    """It is ended at its next write, which is not carried out; the browser is owed a new one."""
    token = nodes.session("ann")
    nodes.books.pass_time(token.id, 1)
    nodes.books.lose_index("ann")
    nodes.run(Revoke("ann", None))
    assert nodes.run(with_life(token, "ann", None)).state is State.ENDED
    assert set(nodes.books.fields(token.id)) == {"@x", "@o"}


def test_the_index_is_looked_at_once_in_an_interval(
    nodes: OneForAll, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at every write; what is remembered of it is bounded."""
    token = nodes.session("ann")
    asked: list[Exchange] = []
    nodes.lost = lambda exchange: bool(asked.append(exchange))
    for _ in range(3):
        nodes.run(with_life(token, "ann", None))
    assert len(asked) == 4
    monkeypatch.setattr(cluster_module, "MOST_CHECKED", 1)
    other = nodes.session("bob")
    nodes.run(with_life(other, "bob", None))
    asked.clear()
    nodes.run(with_life(token, "ann", None))
    assert len(asked) == 2


def test_nothing_is_remembered_of_a_session_that_was_ended(
    nodes: OneForAll, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So there is room for others: their index is not looked at again."""
    monkeypatch.setattr(cluster_module, "MOST_CHECKED", 2)
    ann, bob, cid = (nodes.session(user) for user in ("ann", "bob", "cid"))
    nodes.run(with_life(ann, "ann", None))
    nodes.run(with_life(bob, "bob", None))
    nodes.run(with_life(bob, "bob", Invalidate(b"n" * 16)))
    nodes.run(with_life(cid, "cid", None))
    asked: list[Exchange] = []
    nodes.lost = lambda exchange: bool(asked.append(exchange))
    nodes.run(with_life(ann, "ann", None))
    assert len(asked) == 1


def test_the_index_of_somebody_else_is_left_alone(nodes: OneForAll) -> None:
    """A session that is another user's by now, or over, is not entered."""
    token = nodes.session("ann")
    nodes.run(with_life(token, "bob", Touch()))
    nodes.run(with_life(Token.new(), "bob", Touch()))
    assert nodes.books.index("bob") == {}


def test_the_node_of_the_index_is_away(nodes: OneForAll) -> None:
    """Writes and ends are carried out all the same; a login is not, nor is anything left of it."""
    token, other = nodes.session("ann"), nodes.session()
    nodes.lost = lambda exchange: b"sess:user:" in exchange.packet
    assert nodes.run(with_life(token, "ann", None)).state is State.LIVE
    with pytest.raises(NotConnected):
        nodes.run(signing_in(other, "ann"))
    ends = with_life(token, "ann", Invalidate(b"n" * 16))
    assert nodes.run(ends).done == 1
    nodes.lost = lambda exchange: False
    assert set(nodes.books.index("ann")) == {token.id}
    assert nodes.run(Read((other.claim,), ("k",), TIMING)).values == [b"1"]


def ending(token: Token) -> Write:
    return with_life(token, "ann", Invalidate(b"n" * 16))


def ending_many(token: Token) -> End:
    return End("ann", (token.id,), b"e" * 16, TIMING)


@pytest.mark.parametrize(
    ("signed_in", "call", "fails"),
    [
        (False, partial(signing_in, user="ann"), [False, True]),  # entered, not signed in
        (True, ending, [False, True]),  # ended, its entry stays
        (True, ending_many, [False, True]),
        (True, partial(signing_in, user="ann"), [True]),  # not known to have begun
        (True, ending, [True]),
    ],
)
def test_what_a_failed_call_leaves_goes_with_a_later_login(
    nodes: OneForAll, monkeypatch: pytest.MonkeyPatch, signed_in: bool, call: Any, fails: list[bool]
) -> None:
    """Of whomever. Not before it is a minute old; and then once."""
    token = nodes.session("ann" if signed_in else None)
    outcomes = iter(fails)
    nodes.lost = lambda exchange: next(outcomes, False)
    with suppress(NotConnected):
        nodes.run(call(token))
    assert next(outcomes, None) is None
    drop(nodes, token)
    if fails[0]:
        nodes.books.put_entry("ann", token.id, 1)
    asked: list[Exchange] = []
    nodes.lost = lambda exchange: bool(asked.append(exchange))
    nodes.session("bob")
    assert (list(nodes.books.index("ann")), len(asked)) == ([token.id], 3)
    entered = nodes.books.index("ann")[token.id]
    nodes.books.put_entry("ann", token.id, entered - PRUNE_AGE)
    monkeypatch.setattr(leftovers, "OLD", -1.0)
    for calls in (6, 3):
        asked.clear()
        nodes.session("bob")
        assert (nodes.books.index("ann"), len(asked)) == ({}, calls)


class Cancelled(BaseException):
    """A call that is given up, as by asyncio."""


@pytest.mark.parametrize(
    ("signed_in", "call"), [(False, partial(signing_in, user="ann")), (True, ending)]
)
def test_what_a_cancelled_call_leaves_goes_with_a_later_login(
    nodes: OneForAll, monkeypatch: pytest.MonkeyPatch, signed_in: bool, call: Any
) -> None:
    """As of one that failed: between the two steps it leaves an entry without a session."""
    token = nodes.session("ann" if signed_in else None)
    outcomes = iter([False, True])

    def lost(exchange: Exchange) -> bool:
        if next(outcomes, False):
            raise Cancelled
        return False

    nodes.lost = lost
    with pytest.raises(Cancelled):
        nodes.run(call(token))
    drop(nodes, token)
    nodes.books.put_entry("ann", token.id, 1)
    monkeypatch.setattr(leftovers, "OLD", -1.0)
    nodes.session("bob")
    assert nodes.books.index("ann") == {}


def drop(nodes: OneForAll, token: Token) -> None:
    """As a session ends by itself."""
    nodes.books.client.delete(f"sess:{token.id}")


def test_what_cannot_be_tidied_now_is_tidied_later(
    nodes: OneForAll, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login succeeds whatever becomes of it. What is remembered is bounded."""
    monkeypatch.setattr(leftovers, "OLD", -1.0)
    monkeypatch.setattr(leftovers, "MOST", 1)
    for user in ("ann", "cid"):
        nodes.lost = lambda exchange: True
        with pytest.raises(NotConnected):
            nodes.run(signing_in(Token.new(), user))
        nodes.books.put_entry(user, "x" * 22, 1)
    anns = index_key("ann").encode()
    nodes.lost = lambda exchange: anns in exchange.packet
    nodes.session("bob")
    nodes.lost = lambda exchange: False
    monkeypatch.setattr(leftovers, "OLD", 1e9)
    nodes.session("bob")
    assert len(nodes.books.index("ann")) == 1
    monkeypatch.setattr(leftovers, "AGAIN", -1.0)
    for _ in range(3):
        nodes.session("bob")
    assert (nodes.books.index("ann"), len(nodes.books.index("cid"))) == ({}, 1)


def test_a_user_whose_calls_fail_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The index is tidied a minute after each failure, but for those that come close together."""
    now = [0.0]
    monkeypatch.setattr(leftovers, "time", SimpleNamespace(monotonic=lambda: now[0]))
    found, due = leftovers.Leftovers(), []
    for second in range(200):
        now[0] = float(second)
        if second in (0, 5, 30, 59):
            found.note("ann")
        due += [second] * (found.due() == "ann")
    assert due == [66, 91, 120]
    monkeypatch.setattr(leftovers, "MOST", 0)  # of so many it is remembered
    found.note("ann")
    found.failed("ann")
    now[0] = 300.0
    assert found.due() is None


@pytest.mark.parametrize(("latest", "left"), [(60.0, 0), (-1.0, 1)])
def test_what_a_failover_may_have_lost(
    nodes: OneForAll, monkeypatch: pytest.MonkeyPatch, latest: float, left: int
) -> None:
    """The primary acknowledges a sign-in, and dies before its replica has it. The entry, on another
    node, goes with a later login. Whoever signed in long before is not looked at."""
    monkeypatch.setattr(leftovers, "OLD", -1.0)
    monkeypatch.setattr(leftovers, "LATEST", latest)
    token = nodes.session("ann")
    drop(nodes, token)
    nodes.books.put_entry("ann", token.id, 1)
    nodes.session("bob")
    assert len(nodes.books.index("ann")) == 1
    nodes.steps.map.primaries = (("127.0.0.1", 2),)
    nodes.session("bob")
    nodes.session("bob")
    assert len(nodes.books.index("ann")) == left


def test_nodes_that_join_or_change_their_order_are_no_failover(
    nodes: OneForAll, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No sign-in was lost, so later logins look at no index of others."""
    monkeypatch.setattr(leftovers, "OLD", -1.0)
    nodes.session("ann")
    asked: list[Exchange] = []
    nodes.lost = lambda exchange: bool(asked.append(exchange))
    other = ("127.0.0.1", 2)
    for primaries in ((NODE, other), (other, NODE)):
        nodes.steps.map.primaries = primaries
        asked.clear()
        nodes.session("bob")
        assert len(asked) == 3


def test_what_no_replica_confirms_stays_in_the_index(nodes: OneForAll) -> None:
    """It was carried out, and may come back: another call has to find it."""
    nodes.steps = ClusterSteps([NODE], b"sess:", 1)
    one, other = nodes.session("ann"), nodes.session("ann")
    renew = Write(one.claim, (), TIMING, user="ann", life=Renew(new_verifier()), durable=True)
    assert not nodes.run(renew).confirmed
    ends = replace(with_life(other, "ann", Invalidate(b"n" * 16)), verbs=(), durable=True)
    assert (nodes.run(ends).done, nodes.run(ends).confirmed) == (1, False)
    for done in ([True, False], [False, False]):
        revoked = nodes.run(Revoke("ann", None, durable=True))
        assert {id for id, _ in revoked.values} == {one.claim.id, other.claim.id}
        assert not revoked.confirmed
        ids = (one.claim.id, other.claim.id)
        reply = nodes.run(End("ann", ids, b"e%d" % done[0] * 8, TIMING, durable=True))
        assert (reply.values, reply.confirmed) == (done, False)
    assert set(nodes.books.index("ann")) == {one.claim.id, other.claim.id}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("takes", "unsure", "waits"),
    [
        (0.1, None, [300, 200, 100]),
        (0.2, None, [300, 100, 1]),  # never 0: WAIT takes that for ever
        (0.1, 1, [300, 200]),
        (0.1, 0, [300]),
    ],
)
def test_a_durable_end_of_many(
    nodes: OneForAll,
    monkeypatch: pytest.MonkeyPatch,
    takes: float,
    unsure: int | None,
    waits: list[int],
) -> None:
    """One packet to each node ends its sessions. The replicas of all nodes share one time, so that
    every session is ended before the call's time is over, and nobody waits when one has not
    confirmed."""
    nodes.nodes = [("127.0.0.1", port) for port in range(3)]
    nodes.steps = ClusterSteps(nodes.nodes, b"sess:", 300)
    tokens = [nodes.session("ann") for _ in range(MANY)]
    now, asked = [0.0], []
    monkeypatch.setattr(ending_module, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def confirms(address: Address | None) -> int:
        now[0] += takes
        return int(len(asked) - 1 != unsure)

    nodes.lost = lambda exchange: bool(asked.append(exchange))
    nodes.confirms = confirms
    reply = nodes.run(End("ann", tuple([each.id for each in tokens]), b"e" * 16, TIMING, True))
    assert (reply.values, reply.confirmed) == ([True] * MANY, unsure is None)
    ends = asked[: len(nodes.nodes)]
    assert sorted([exchange.address for exchange in ends if exchange.address]) == nodes.nodes
    assert all(b"invalidate" in exchange.packet for exchange in ends)
    assert [int(wait) for exchange in asked for wait in WAIT.findall(exchange.packet)] == waits
    assert len(nodes.books.index("ann")) == (0 if unsure is None else MANY)


WAIT = re.compile(rb"WAIT\r\n\$1\r\n1\r\n\$\d\r\n(\d+)")


@pytest.mark.parametrize("call", [ending, ending_many])
def test_the_entry_of_an_unconfirmed_end_goes_later(
    nodes: OneForAll, monkeypatch: pytest.MonkeyPatch, call: Any
) -> None:
    """If the session has not come back in a minute."""
    nodes.steps = ClusterSteps([NODE], b"sess:", 1)
    token = nodes.session("ann")
    assert not nodes.run(replace(call(token), durable=True)).confirmed
    nodes.books.put_entry("ann", token.id, 1)
    monkeypatch.setattr(leftovers, "OLD", -1.0)
    nodes.session("bob")
    assert nodes.books.index("ann") == {}


def test_many_sessions_where_a_packet_fails(nodes: OneForAll) -> None:
    """They are asked for one by one."""
    tokens = [nodes.session("ann") for _ in range(3)]
    ids = tuple(token.id for token in tokens)

    def lost(exchange: Exchange) -> bool:
        away = (
            all(id.encode() in exchange.packet for id in ids)
            and b"sess:user:" not in exchange.packet
        )
        packets.append(away)
        return away

    packets: list[bool] = []
    nodes.lost = lost
    found = nodes.run(Describe(ids)).values
    assert [each.user for each in found] == ["ann"] * 3
    assert nodes.run(End("ann", ids, b"e" * 16, TIMING)).values == [True] * 3
    assert packets.count(True) == 2
    assert nodes.run(End("ann", (Token.new().id,), b"f" * 16, TIMING)).values == [False]
    assert nodes.run(Listing("ann")).values == []


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("away", range(3))
def test_an_end_of_many_while_a_node_is_away(nodes: OneForAll, away: int, durable: bool) -> None:
    """The sessions of the other nodes are ended. The call fails, and the node that was asked last,
    which messages name, is the one that is away."""
    nodes.nodes = [("127.0.0.1", port) for port in range(3)]
    nodes.steps = ClusterSteps(nodes.nodes, b"sess:", 1)
    ids = tuple([nodes.session("ann").id for _ in range(MANY)])
    asked: list[Address | None] = []

    def lost(exchange: Exchange) -> bool:
        asked.append(exchange.address)
        return exchange.address == nodes.nodes[away]

    nodes.lost = lost
    with pytest.raises(NotConnected):
        nodes.run(End("ann", ids, b"e" * 16, TIMING, durable))
    assert asked[-1] == nodes.nodes[away]
    left = [nodes.steps.map.known(b"sess:" + id.encode()) for id in nodes.books.signed_in()]
    assert set(left) == {nodes.nodes[away]}


def test_a_durable_end_of_many_where_a_packet_fails(nodes: OneForAll) -> None:
    """Each session is ended, and confirmed, by itself."""
    ids = tuple([nodes.session("ann").id for _ in range(3)])
    nodes.lost = lambda exchange: exchange.packet.count(b"invalidate") == 3
    nodes.confirms = lambda address: 1
    reply = nodes.run(End("ann", ids, b"e" * 16, TIMING, durable=True))
    assert (reply.values, reply.confirmed) == ([True] * 3, True)


def test_a_node_with_many_keys_is_walked_in_parts(nodes: OneForAll) -> None:
    """The cursor is the node's own until it is through."""
    names = {f"{number:022}" for number in range(1_200)}
    with nodes.books.client.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.hset(f"sess:{name}", "k", "1")
        pipe.execute()
    cursor, found, calls = 0, set(), 0
    while calls == 0 or cursor:
        cursor, ids = nodes.run(Scan(cursor)).values
        found |= set(ids)
        calls += 1
    assert found == names
    assert calls > 1


# -- a real cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One that the tests of this module may harm, and that is whole again after each."""
    found = Cluster()
    yield found
    found.stop()


@pytest.fixture
def api(cluster: Cluster) -> Iterator[SessionAPI]:
    """At its first two nodes; with short times, as there will be an outage."""
    cluster.empty()
    found = at(cluster.url)
    yield found
    found.close()
    for node in cluster.nodes:
        if node.process is None:
            node.start()
    cluster.settle()


def at(url: str, seconds: float = 2) -> SessionAPI:
    times = {"redis.timeout": seconds, "redis.connect_timeout": seconds}
    return SessionAPI.from_settings({"redis.url": url, **times})


def many(api: SessionAPI) -> list[str]:
    """Sessions on every node, each with its number."""
    return [token_of(api.create({"n": number})) for number in range(24)]


def all_there(api: SessionAPI, tokens: list[str]) -> bool:
    """Whether each can be read; what is raised until then is StoreUnavailable only."""
    try:
        return [api.open(token).get("n") for token in tokens] == list(range(len(tokens)))
    except StoreUnavailable:
        return False


@pytest.mark.slow
def test_an_end_while_the_slot_moves(api: SessionAPI, cluster: Cluster) -> None:
    """A node that hands a slot over answers only for keys that it has: a session that ends there
    never leaves its key missing, and its cookie is told of the end."""
    session = api.create({"cart": ["tea"], "theme": "dark"})
    token, key = token_of(session), f"sess:{session.id}"
    source = cluster.primary_of(key)
    target = next(node for node in cluster.primaries if node is not source)
    cluster.begin_move(key, target)
    assert session.invalidate()
    with pytest.raises(SessionGone):
        api.open(token).set("cart", [])
    cluster.move_keys(key, target)
    cluster.end_move(key, target)
    with pytest.raises(SessionGone):
        api.open(token).set("cart", [])


def test_durable_calls_while_the_slot_moves(api: SessionAPI, cluster: Cluster) -> None:
    """They are carried out where the session is, and say so. The old node cannot ask its replicas;
    the new one can."""
    confirm_within(api, 10_000)
    session = api.create({"a": 1})
    old, key = token_of(session), f"sess:{session.id}"
    target = next(node for node in cluster.primaries if node is not cluster.primary_of(key))
    cluster.begin_move(key, target)
    with pytest.raises(NotDurable):
        session.renew(durable=True)
    assert session.token not in (None, old)
    assert session.get("a", fresh=True) == 1
    cluster.move_keys(key, target)
    assert session.renew(durable=True)
    assert session.invalidate(durable=True)
    cluster.end_move(key, target)
    with pytest.raises(SessionGone):
        api.open(old).get("a")


@pytest.mark.parametrize("moves", ["the list", "a session"])
def test_a_durable_end_of_all_while_a_slot_moves(
    api: SessionAPI, cluster: Cluster, moves: str
) -> None:
    """The session is ended, though no replica could be asked. Afterwards a repeat is confirmed."""
    confirm_within(api, 10_000)
    session = api.create({"a": 1})
    session.login("ann")
    key = index_key("ann") if moves == "the list" else f"sess:{session.id}"
    target = next(node for node in cluster.primaries if node is not cluster.primary_of(key))
    cluster.begin_move(key, target)
    with pytest.raises(NotDurable):
        api.invalidate_user("ann", durable=True)
    assert api.describe(str(session.id)) is None
    cluster.move_keys(key, target)
    cluster.end_move(key, target)
    assert api.invalidate_user("ann", durable=True) == 0


def test_a_durable_end_of_all_without_replicas(api: SessionAPI, cluster: Cluster) -> None:
    """No session stays signed in, as on one server."""
    sessions = [api.create({"n": n}) for n in range(8)]
    for each in sessions:
        each.login("ann")
    confirm_within(api, 400)  # eight times that is more than a call may take
    replicas = [node for node in cluster.nodes if role(node) == "slave"]
    for node in replicas:
        node.pause()
    try:
        with pytest.raises(NotDurable):
            api.invalidate_user("ann", durable=True)
    finally:
        for node in replicas:
            node.resume()
    assert [api.describe(str(each.id)) for each in sessions] == [None] * 8


def test_slots_that_move(api: SessionAPI, cluster: Cluster) -> None:
    """Before, while and after slots move to another node, sessions are read and written there."""
    tokens = many(api)
    key = "sess:" + tokens[0].partition(".")[0]
    source = cluster.primary_of(key)
    target = next(node for node in cluster.primaries if node is not source)
    cluster.begin_move(key, target)
    assert all_there(api, tokens)  # not moved yet: at the source
    cluster.move_keys(key, target)
    assert all_there(api, tokens)  # moved: ASK
    api.open(tokens[0]).set("m", 1)
    cluster.end_move(key, target)
    assert all_there(api, tokens)  # MOVED
    assert api.open(tokens[0]).get("m") == 1
    assert cluster.primary_of(key) is target


@pytest.mark.slow
def test_a_primary_that_is_killed(
    api: SessionAPI, cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    """Until its replica serves, its sessions are StoreUnavailable and the others are not; two lines
    in the log."""
    patient = at(cluster.url, 60)  # on a busy machine the others may be slow
    tokens = many(patient)
    primary = cluster.primary_of("sess:" + tokens[0].partition(".")[0])
    replica = cluster.nodes[cluster.nodes.index(primary) + 3]
    until(lambda: replica.client.dbsize() == primary.client.dbsize())
    primary.kill()
    assert eventually(lambda: all_there(patient, tokens))
    patient.close()
    said = [(r.levelname, r.getMessage()) for r in caplog.records if r.name == "pyramid_altsession"]
    assert {level for level, _ in said} == {"ERROR", "WARNING"}
    assert all(f":{primary.port}, a node of the cluster" in text for _, text in said)
    assert len(said) == 2
    assert said[1][1].endswith("is not asked any more: others serve")


def test_a_prefetch_finds_the_cluster_past_a_seed_that_is_away(
    api: SessionAPI, cluster: Cluster
) -> None:
    """The first call of a process asks the next seed, and its read is sent ahead all the same."""
    token = many(api)[0]
    seeds = cluster.url.removeprefix("redis+cluster://")
    other = at(f"redis+cluster://127.0.0.1:{free_port()},{seeds}")
    session = other.open(token)
    session.prefetch("n")
    assert isinstance(state_in(session).sent.pending, Sent)
    assert session.get("n") == 0
    other.close()


def test_all_nodes_get_new_addresses(cluster: Cluster) -> None:
    """The seeds are names, which are asked again when no node that is known answers. Until then no
    connection to them stays open."""
    cluster.empty()
    front = Proxy(cluster.nodes[0])
    api = at(front.url.replace("redis://", "redis+cluster://"))
    try:
        tokens = many(api)
        assert all_there(api, tokens)
        seed = store_in(api).servers["127.0.0.1", front.port].pool
        assert not any(each.is_connected for each in idle_in(seed))
        cluster.change_ports()
        front.target(cluster.nodes[0])
        assert eventually(lambda: all_there(api, tokens))
    finally:
        api.close()
        front.close()


@pytest.mark.slow
def test_a_read_that_was_sent_ahead(api: SessionAPI, cluster: Cluster) -> None:
    """A prefetch asks for the map where it is not known, and goes to the right node; where the node
    went away in between, the read is carried out anew."""
    session = api.open(token_of(api.create({"a": 1, "b": 2})))
    session.exists()
    session.prefetch("a")
    assert session.get("a") == 1
    other = at(cluster.url)
    fresh = other.open(token_of(session))
    fresh.prefetch("a")
    assert fresh.get("a") == 1
    primary = cluster.primary_of(f"sess:{session.id}")
    replica = cluster.nodes[(cluster.nodes.index(primary) + 3) % 6]
    until(lambda: replica.client.dbsize() == primary.client.dbsize())
    primary.kill()
    fresh.prefetch("b")
    with pytest.raises(StoreUnavailable):
        fresh.get("b")
    other.close()


LEAST = (
    "+hget +hmget +hset +hdel +hgetall +exists +pttl +pexpire +pexpireat +time +eval +evalsha"
    " +zadd +zrem +zcard +zscore +zmscore +zrevrange +zrandmember +cluster|slots +asking"
)
"""What docs/operations.rst says that a cluster's user needs."""


def test_least_rights(cluster: Cluster) -> None:
    """They are enough for all that requests and administration do, slots that move included."""
    cluster.empty()
    for node in cluster.nodes:
        rules = ("reset", "on", ">secret", "~sess:*", *LEAST.split())
        node.client.execute_command("ACL", "SETUSER", "app", *rules)
    api = at(cluster.url.replace("://", "://app:secret@"))
    try:
        api.check()
        session = api.create({"a": 1})
        key = f"sess:{session.id}"
        target = next(n for n in cluster.primaries if n is not cluster.primary_of(key))
        cluster.begin_move(key, target)
        cluster.move_keys(key, target)
        session.login("ann")
        assert session.get("a", fresh=True) == 1
        cluster.end_move(key, target)
        assert [info.id for info in api.sessions_of("ann")] == [session.id]
        assert api.invalidate_user("ann") == 1
    finally:
        api.close()
        for node in cluster.nodes:
            node.client.execute_command("ACL", "DELUSER", "app")


def test_scan_walks_over_all_nodes(api: SessionAPI) -> None:
    """Every session once, however many nodes there are."""
    tokens = many(api)
    ids = [token.partition(".")[0] for token in tokens]
    assert sorted(info.id for info in api.scan()) == sorted(ids)


def test_a_node_that_the_url_takes_for_a_server(cluster: Cluster) -> None:
    """The message says how the URL has to begin."""
    node = cluster.primaries[0]
    api = at(f"redis://127.0.0.1:{node.port}")

    def told() -> str:
        try:
            session = api.create({"a": 1})
            session.get("a", fresh=True)
        except StoreUnavailable as error:
            return str(error)
        return ""

    assert eventually(lambda: "begin altsession.redis.url with redis+cluster://" in told())
    api.close()
