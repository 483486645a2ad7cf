"""Requests of one browser at once: every order of their operations on the store and of their
answers. The mutants at the end take one guard out each, and must be found."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from random import Random
from typing import Any

import pytest
from apps import Repeating
from inside import GuardedWrite, store_in
from scheduler import WINDOW, Actor, Body, Broken, World, explore, found, orders, play, sample
from servers import Server

from pyramid_altsession import AltSession, SessionGone
from pyramid_altsession.config.sources import read_settings
from pyramid_altsession.protocol.fields import State, judge
from pyramid_altsession.protocol.lifecycle import Invalidate, Login, Renew, Touch
from pyramid_altsession.protocol.messages import Operation, Reply, Write
from pyramid_altsession.protocol.state import SessionState, Status
from pyramid_altsession.protocol.token import Token
from pyramid_altsession.session import Driver
from pyramid_altsession.stores import apply as applying
from pyramid_altsession.stores import memory, open_store
from pyramid_altsession.stores.memory import MemoryStore

Act = Callable[[Actor, AltSession], object]


def in_batch(actor: Actor, session: AltSession) -> None:
    with session.batch() as batch:
        batch.get("c")
        batch.set(actor.key, 1)


READS: dict[str, Act] = {
    "get": lambda actor, s: s.get("c"),
    "mget": lambda actor, s: s.mget(["a", "c"]),
    "all": lambda actor, s: s.all(),
    "keys": lambda actor, s: s.keys(),
    "exists": lambda actor, s: s.exists(fresh=True),
    "exists key": lambda actor, s: s.exists("c"),
    "created": lambda actor, s: s.created(),
    "ttl": lambda actor, s: s.ttl(),
    "prefetch": lambda actor, s: (s.prefetch("a", "c"), s.get("c")),
}
STORES: dict[str, Act] = {
    "set": lambda actor, s: s.set(actor.key, 1),
    "mset": lambda actor, s: s.mset({actor.key: 1, "c": 2}),
    "setdefault": lambda actor, s: s.setdefault(actor.key, 1),
    "increment": lambda actor, s: s.increment(actor.key),
    "compare_and_set": lambda actor, s: s.compare_and_set(actor.key, None, 1),
    "modify": lambda actor, s: s.modify(actor.key, lambda value: 1),
    "prefetch, set": lambda actor, s: (s.prefetch(actor.key, "c"), s.set(actor.key, 1)),
    "batch": lambda actor, s: in_batch(actor, s),
}
OTHERS: dict[str, Act] = {
    "remove": lambda actor, s: s.remove("n"),
    "pop": lambda actor, s: s.pop("n"),
    "touch": lambda actor, s: s.touch(),
    "renew": lambda actor, s: s.renew(),
    "invalidate": lambda actor, s: s.invalidate(),
}
EVERY = READS | STORES | OTHERS


def alone(name: str) -> Body:
    """A request that makes one call."""

    def body(actor: Actor, session: AltSession) -> None:
        EVERY[name](actor, session)
        if name in STORES:
            actor.acknowledged()

    return body


def between(name: str) -> Body:
    """A request that makes a call between two reads, which must not contradict each other."""

    def body(actor: Actor, session: AltSession) -> None:
        first = session.get("a")
        EVERY[name](actor, session)
        if name in STORES:
            actor.acknowledged()
        second = session.get("b")
        if first != second and not actor.ended_own:
            raise Broken(f"I8: read {first!r} and then {second!r}")

    return body


def slow(name: str) -> Body:
    """A request that thinks before its call, having used its session or not."""

    def body(actor: Actor, session: AltSession) -> None:
        actor.think()
        alone(name)(actor, session)
        actor.think()
        alone(name)(actor, session)

    return body


def anew(actor: Actor, session: AltSession) -> None:
    """A request that signs out and goes on."""
    session.invalidate()
    session.set(actor.key, 1)


@pytest.mark.volume
@pytest.mark.parametrize("end", ["renew", "invalidate"])
@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("body", [alone, between])
def test_pairs(name: str, end: str, body: Callable[[str], Body]) -> None:
    """renew and invalidate against every other call, in every interleaving, with the answers in
    any order or lost: every invariant holds."""
    assert orders(explore(lambda: World([body(name), alone(end)]), lossy=True)) >= 80


@pytest.mark.volume
@pytest.mark.parametrize("pair", [("get", "invalidate"), ("set", "renew")])
@pytest.mark.parametrize("lossy", [False, True])
def test_explorer_leaves_nothing_out(pair: tuple[str, str], lossy: bool) -> None:
    """The runs that it makes stand for every order there is, each for its own ones: those that it
    spares differ from one that it makes in nothing but the order of independent events."""
    bodies = [between(name) for name in pair]
    few = list(explore(lambda: World(bodies), lossy=lossy))
    every = Counter(run.kind for run in explore(lambda: World(bodies), lossy=lossy, whole=True))
    assert {run.kind: run.orders for run in few} == every
    assert len(few) < every.total()


TRIPLES: dict[str, list[Body]] = {
    "renew, renew, set": [alone("renew"), alone("renew"), alone("set")],
    "renew, invalidate, set": [alone("renew"), alone("invalidate"), alone("set")],
    "invalidate, invalidate, increment": [*[alone("invalidate")] * 2, alone("increment")],
    "renew, touch, get": [alone("renew"), alone("touch"), alone("get")],
}


@pytest.mark.volume
@pytest.mark.parametrize("bodies", TRIPLES.values(), ids=TRIPLES)
def test_triples(bodies: Sequence[Body]) -> None:
    """Three requests at once, in every interleaving, with the answers in any order."""
    assert orders(explore(lambda: World(bodies))) >= 1000


@pytest.mark.volume
@pytest.mark.parametrize("end", ["renew", "invalidate"])
@pytest.mark.parametrize("name", ["set", "touch", "invalidate"])
def test_slow_requests(name: str, end: str) -> None:
    """The same when time passes in between: shorter than the window, and longer."""
    bodies = [slow(name), alone(end)]
    runs = explore(lambda: World(bodies), ticks=[WINDOW - 1, WINDOW * 3])
    assert orders(runs) >= 100


def test_sign_out_and_go_on() -> None:
    """A request that invalidates and writes on, against one that writes: one session remains,
    whichever was first, and the browser has its cookie."""
    assert orders(explore(lambda: World([anew, between("set")]), lossy=True)) >= 80


@pytest.mark.volume
@pytest.mark.parametrize("end", ["renew", "invalidate"])
@pytest.mark.parametrize("name", ["get", "set", "pop", "touch", "invalidate"])
def test_pairs_on_a_server(server: Server, name: str, end: str) -> None:
    """The same on a real server."""
    store = open_store(read_settings({"redis": {"url": server.url}}))
    bodies = [between(name), alone(end)]
    covered = orders(explore(lambda: World(bodies, store, server.client)))
    store.close()
    assert covered >= 35


# -- traces that broke earlier designs


@pytest.fixture(params=["memory", "valkey"])
def worlds(request: pytest.FixtureRequest) -> Iterator[Callable[..., World]]:
    """Worlds in memory and on a server."""
    if request.param == "memory":
        yield lambda *bodies: World(bodies)
        return
    server: Server = request.getfixturevalue("server")
    store = open_store(read_settings({"redis": {"url": server.url}}))
    yield lambda *bodies: World(bodies, store, server.client)
    store.close()


def run(number: int, times: int = 2) -> list[tuple[str, float]]:
    """Send a request and let it do its operation (or several)."""
    return [("step", number)] * times


def test_logout_that_lies(worlds: Callable[..., World]) -> None:
    """``invalidate`` with a cookie that another request has just renewed is refused and touches
    no cookie; the session lives under its newer one."""
    world = worlds(alone("invalidate"), alone("renew"))
    play(world, ("step", 0), *run(1), ("deliver", 1), ("step", 0), ("deliver", 0))
    assert world.actors[0].refused is True
    assert world.api.open(str(world.jar)).get("a") == "old"


def test_slow_logout_after_a_newer_cookie(worlds: Callable[..., World]) -> None:
    """A second sign-out that answers last does not drop the cookie that came in between."""
    world = worlds(anew, alone("invalidate"))
    play(world, ("step", 1), *run(0, 3), ("deliver", 0), ("step", 1), ("deliver", 1))
    assert world.api.open(str(world.jar)).exists() is True


@pytest.mark.parametrize("seconds", [0, WINDOW * 2, 900])
def test_request_slower_than_the_window(worlds: Callable[..., World], seconds: float) -> None:
    """A write that was on its way when the cookie was renewed is refused however long it
    takes, and does not put its own cookie over the newer one."""
    world = worlds(slow("set"), alone("renew"))
    play(world, ("step", 0), *run(1), ("deliver", 1), ("tick", seconds), *run(0), ("deliver", 0))
    assert world.actors[0].refused is True
    assert world.api.open(str(world.jar)).get("a") == "old"


def test_holder_of_a_newer_token_renews_on(worlds: Callable[..., World]) -> None:
    """However often the holder of the newer cookie renews, the older one is refused for the
    window alone, counted from its own death."""
    world = worlds(alone("renew"), alone("set"), alone("set"))
    play(world, *run(0), ("lose", 0))
    newer = world.api.open(str(world.actors[0].cookie))
    world.tick(WINDOW * 0.6)
    newer.renew()
    play(world, *run(1), ("deliver", 1))
    world.tick(WINDOW * 0.6)
    newer.renew()
    play(world, *run(2, 3), ("deliver", 2))
    assert [actor.refused for actor in world.actors] == [False, True, False]


def test_two_renewals_within_the_window(worlds: Callable[..., World]) -> None:
    """A slow write with a cookie that was renewed twice since is refused as well."""
    world = worlds(alone("set"), alone("renew"), alone("renew"))
    play(world, ("step", 0), *run(1), ("deliver", 1), *run(2), ("deliver", 2), *run(0, 1))
    assert world.actors[0].refused is True


def test_touch_does_not_prolong_a_tombstone(worlds: Callable[..., World]) -> None:
    """The touch that a read owes, sent after the session's end, leaves the tombstone alone."""
    world = worlds(alone("get"), alone("invalidate"))
    world.tick(500)
    play(world, *run(0), *run(1), ("step", 0))
    (id,) = world.ended
    assert 0 < world.behind.left(id) <= WINDOW
    assert world.actors[0].refused is False  # its value was read while the session lived


def test_clock_set_back(worlds: Callable[..., World]) -> None:
    """A server whose clock is set back an hour refuses nobody for that hour: what died in
    the future died long ago."""
    world = worlds(alone("renew"), alone("set"))
    play(world, *run(0), ("lose", 0))
    world.tick(WINDOW * 2, skew=-3600)
    play(world, *run(1, 3), ("deliver", 1))
    assert world.actors[1].refused is False


def test_default_after_a_value(worlds: Callable[..., World]) -> None:
    """A request that read a value and lost its session goes on with nothing: SessionGone,
    for reads too."""
    world = worlds(between("get"), alone("renew"))
    play(world, *run(0), *run(1), ("step", 0))
    assert world.actors[0].refused is True


@pytest.mark.parametrize("name", ["renew", "invalidate"])
def test_lost_reply_and_repeat(worlds: Callable[..., World], name: str) -> None:
    """``renew`` and ``invalidate`` whose first reply is lost find their own doing and are done."""
    world = worlds(alone(name))
    store_in(world.api).store = Repeating(world.store)
    play(world, *run(0), ("deliver", 0))
    assert world.actors[0].refused is False
    found = None if world.jar is None else world.api.open(world.jar).get("a")
    assert found == {"renew": "old", "invalidate": None}[name]


# -- sessions that are ended from elsewhere, of which the browser is not told


def elsewhere(actor: Actor, session: AltSession) -> None:
    """No request of the browser's: administration ends its session."""
    actor.world.api.invalidate_id(actor.world.first)


def sign_in(actor: Actor, session: AltSession) -> None:
    session.login("ann")


def looks(actor: Actor, session: AltSession) -> None:
    """A page that reads, and then stores something for its form."""
    session.get("a")
    session.setdefault("token", 1)


UNTOLD: dict[str, list[Body]] = {
    "set": [alone("set"), elsewhere],
    "two tabs": [alone("set"), elsewhere, alone("increment")],
    "read and write": [looks, elsewhere],
    "between reads": [between("set"), elsewhere],
    "login": [sign_in, elsewhere],
    "login and a late write": [alone("set"), elsewhere, sign_in],
    "logout": [alone("invalidate"), elsewhere],
    "logout and a write": [alone("invalidate"), elsewhere, alone("set")],
    "nothing to store": [alone("remove"), elsewhere, alone("set")],
    "ended twice": [alone("set"), elsewhere, elsewhere],
}


PAIRS = [name for name, bodies in UNTOLD.items() if len(bodies) == 2]


@pytest.mark.parametrize("name", PAIRS)
def test_ended_elsewhere(name: str) -> None:
    """A session that is ended from elsewhere, in every interleaving with a request of the
    browser's, whose answer may get lost: of the dead cookie one session is born, a login is not
    followed by another, and a browser that has every answer is not refused."""
    assert orders(explore(lambda: World(UNTOLD[name]), lossy=True)) >= 20


@pytest.mark.volume
@pytest.mark.parametrize("bodies", UNTOLD.values(), ids=UNTOLD)
def test_ended_elsewhere_in_time(bodies: Sequence[Body]) -> None:
    """The same with two requests, in a random order, with time passing: within the window, and
    beyond it."""
    runs = sample(lambda: World(bodies), 300, Random(4), ticks=[WINDOW - 1, WINDOW * 3])
    assert len(list(runs)) == 300


def test_signed_out_elsewhere_and_back_at_once(worlds: Callable[..., World]) -> None:
    """A browser that is signed out from elsewhere is served at its next request: the form's page
    stores its token, and the login that it posts is the same browser's."""
    world = worlds(looks, elsewhere, looks, sign_in, alone("set"))
    play(world, *run(0, 3), ("deliver", 0), *run(1), *run(2, 5), ("deliver", 2))
    play(world, *run(3, 3), ("deliver", 3), *run(4, 2), ("deliver", 4))
    assert [actor.refused for actor in world.actors] == [False] * 5
    assert world.api.open(str(world.jar)).userid() == "ann"


def test_write_that_comes_after_the_birth(worlds: Callable[..., World]) -> None:
    """A slow write with the dead cookie that reaches the server after the new session began is
    refused, and leaves the new cookie alone."""
    world = worlds(alone("set"), elsewhere, alone("set"))
    play(world, ("step", 0), ("step", 2), *run(1), *run(2), ("deliver", 2), *run(0), ("deliver", 0))
    assert [actor.refused for actor in world.actors] == [True, False, False]
    assert jar_of(world) == {"own2": 1}


def test_write_that_comes_after_a_login(worlds: Callable[..., World]) -> None:
    """A login with the dead cookie marks its tombstone: the slow write is refused."""
    world = worlds(alone("set"), elsewhere, sign_in)
    play(world, ("step", 0), ("step", 2), *run(1), *run(2), ("deliver", 2), *run(0), ("deliver", 0))
    assert world.actors[0].refused is True
    assert world.api.open(str(world.jar)).userid() == "ann"


def test_login_after_the_session_was_seen_alive(worlds: Callable[..., World]) -> None:
    """A login in a request that saw the session alive, and then gone, marks the tombstone too."""

    def reads_and_signs_in(actor: Actor, session: AltSession) -> None:
        session.get("a")
        with suppress(SessionGone):
            session.get("b")
        actor.ended_own = True  # a sign-in may go from one session to another
        session.login("ann")

    world = worlds(reads_and_signs_in, elsewhere, alone("set"))
    play(world, ("step", 2), *run(0), *run(1), *run(0, 3), ("deliver", 0), *run(2), ("deliver", 2))
    assert [actor.refused for actor in world.actors] == [False, False, True]
    assert world.api.open(str(world.jar)).userid() == "ann"


def test_lost_reply_of_a_birth(worlds: Callable[..., World]) -> None:
    """A script that is sent again finds that the session is its own request's to start."""
    world = worlds(alone("set"), elsewhere)
    play(world, ("step", 0), *run(1))
    store_in(world.api).store = Repeating(world.store)
    play(world, *run(0), ("deliver", 0))
    assert world.actors[0].refused is False
    assert jar_of(world) == {"own0": 1}


# -- what one cookie cannot give (docs/semantics, "Limits of one cookie")


def sign_in_anyhow(actor: Actor, session: AltSession) -> None:
    actor.sent = None  # a login may set a cookie whatever it came with
    session.login("ann")


def jar_of(world: World) -> dict[str, Any]:
    return world.api.open(str(world.jar)).all()


def test_expired_cookie_and_a_login(worlds: Callable[..., World]) -> None:
    """A slow first write with an expired cookie that crosses a login: the later answer's
    cookie wins. It opens an anonymous session; the user's is neither harmed nor in it."""
    world = worlds(alone("set"), sign_in_anyhow)
    world.behind.end_in(str(world.jar).partition(".")[0], 0)
    play(world, ("step", 0), *run(1, 3), ("deliver", 1), *run(0, 2), ("deliver", 0))
    assert (jar_of(world), world.actors[0].refused) == ({"own0": 1}, False)
    (known,) = world.api.sessions_of("ann")
    assert known.id != str(world.jar).partition(".")[0]


def test_first_writes_without_a_session(worlds: Callable[..., World]) -> None:
    """The first writes of two tabs without a session make one each, and the later answer's
    cookie wins; once a cookie is there, nothing is lost."""
    world = worlds(alone("set"), alone("set"), alone("set"), alone("set"))
    world.jar = None
    play(world, ("step", 0), ("step", 1), *run(0, 1), *run(1, 1), ("deliver", 0), ("deliver", 1))
    assert jar_of(world) == {"own1": 1}
    play(world, ("step", 2), ("step", 3), *run(2, 1), *run(3, 1), ("deliver", 3), ("deliver", 2))
    assert jar_of(world) == {"own1": 1, "own2": 1, "own3": 1}


def test_answers_that_change_places(worlds: Callable[..., World]) -> None:
    """The answer to a renewal that arrives after that of a login which came later: the
    browser is in its old, anonymous session, is not refused there, and the next login heals it."""
    world = worlds(alone("renew"), sign_in_anyhow, alone("set"), sign_in_anyhow)
    play(world, ("step", 0), ("step", 1), *run(0, 1), *run(1, 2), ("deliver", 1), ("deliver", 0))
    assert jar_of(world) == {"a": "old", "b": "old", "n": 0}
    play(world, *run(2), ("deliver", 2), *run(3), ("deliver", 3))
    assert world.actors[2].refused is False
    assert world.api.open(str(world.jar)).userid() == "ann"


# -- mutants: one guard out each

PAIR = [alone("set"), alone("renew")]


def judged(wrong: dict[State, State]) -> Callable[..., State]:
    """A judge that takes one state for another."""

    def mutant(*arguments: Any) -> State:
        state = judge(*arguments)
        return wrong.get(state, state)

    return mutant


def patch_judge(monkeypatch: pytest.MonkeyPatch, **wrong: State) -> None:
    table = {State[name]: state for name, state in wrong.items()}
    for module in (memory, applying):
        monkeypatch.setattr(module, "judge", judged(table))


def replaced_as_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    patch_judge(monkeypatch, REPLACED=State.DEAD)


def ended_as_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """As without a tombstone."""
    patch_judge(monkeypatch, ENDED=State.DEAD)


def no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that checks life and not the proof."""
    patch_judge(monkeypatch, REPLACED=State.LIVE, REJECTED=State.LIVE)


def every_wrong_verifier(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever holds a wrong verifier is refused as long as the session lives."""
    patch_judge(monkeypatch, REJECTED=State.REPLACED)


def unguarded_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """HSET and EXPIRE without a look, as session libraries do: the session comes back."""
    apply = memory.apply

    def mutant(store: MemoryStore, write: Write, now: int) -> Reply:
        if isinstance(write.life, Renew | Invalidate) or write.create:
            return apply(store, write, now)
        held = store.hashes.setdefault(write.claim.id, memory.Hash())
        for verb in write.verbs:
            held[verb.name] = verb.value  # type: ignore[attr-defined]
        held.expires = now + write.timing.tti
        return Reply(State.LIVE, [None] * len(write.verbs), now, write.timing.tti)

    monkeypatch.setattr(memory, "apply", mutant)


def bare_touch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A touch that is a PEXPIRE, and not the guarded script."""
    apply = memory.apply

    def mutant(store: MemoryStore, write: Write, now: int) -> Reply:
        if not isinstance(write.life, Touch):
            return apply(store, write, now)
        if write.claim.id in store.hashes:
            store.hashes[write.claim.id].expires = now + write.timing.tti
        return Reply(State.LIVE, [], now, write.timing.tti, done=1)

    monkeypatch.setattr(memory, "apply", mutant)


def no_age(monkeypatch: pytest.MonkeyPatch) -> None:
    """The window without the request's own age."""
    guarded = SessionState._guarded

    def mutant(state: SessionState, *arguments: Any, **named: Any) -> Write:
        state.began = state.clock()
        return guarded(state, *arguments, **named)

    monkeypatch.setattr(SessionState, "_guarded", mutant)


def gone_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session seen alive that is gone counts as one that never was."""
    learn = SessionState.learn

    def mutant(state: SessionState, operation: Operation, reply: Reply) -> Operation | None:
        if state.status is Status.ALIVE and reply.state is not State.LIVE:
            state.status = Status.LOST
        return learn(state, operation, reply)

    monkeypatch.setattr(SessionState, "learn", mutant)


def cookie_always_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """invalidate on a dead session drops the cookie, whoever ended it."""
    learn = SessionState.learn

    def mutant(state: SessionState, operation: Operation, reply: Reply) -> Operation | None:
        following = learn(state, operation, reply)
        if isinstance(operation, Write) and isinstance(operation.life, Invalidate):
            state.cookie = False
        return following

    monkeypatch.setattr(SessionState, "learn", mutant)


def refusal_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused write returns as if it had been done."""
    learn = SessionState.learn

    def mutant(state: SessionState, operation: Operation, reply: Reply) -> Operation | None:
        try:
            return learn(state, operation, reply)
        except SessionGone:
            return None

    monkeypatch.setattr(SessionState, "learn", mutant)


def one_dead_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the last verifier is remembered as dead."""
    monkeypatch.setattr("pyramid_altsession.protocol.fields._KEPT", 1)


def not_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tombstone does not note that its session was followed by another."""
    monkeypatch.setattr(GuardedWrite, "owed", lambda change: State.OWED)


def untold_as_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tombstone counts as one that the browser was told of."""
    monkeypatch.setattr(GuardedWrite, "owed", lambda change: State.ENDED)


def login_unmarked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A login starts its session without a look at the tombstone."""

    def mutant(state: SessionState, life: Login) -> Write:
        state.used = True
        return state._create(Token.new(), (), life)

    monkeypatch.setattr(SessionState, "login", mutant)


def write_in_two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check first, write then: EXISTS and HSET, with room for another request between them."""
    unguarded_write(monkeypatch)
    write = Driver.write

    def mutant(driver: Driver, *verbs: Any) -> Any:
        driver.ask(())
        return write(driver, *verbs) if driver.state.status is Status.ALIVE else None

    monkeypatch.setattr(Driver, "write", mutant)


Mutant = Callable[[pytest.MonkeyPatch], None]
MUTANTS: dict[Mutant, tuple[list[Body], str, dict[str, Any]]] = {
    replaced_as_dead: (PAIR, "I4", {}),
    ended_as_dead: ([alone("set"), alone("invalidate")], "I4", {}),
    no_proof: (PAIR, "I1", {}),
    every_wrong_verifier: (PAIR, "I5", {"lossy": True}),
    unguarded_write: ([alone("set"), alone("invalidate")], "I1", {}),
    bare_touch: ([alone("touch"), alone("invalidate")], "I1", {}),
    no_age: ([slow("set"), alone("renew")], "I4", {"ticks": [WINDOW]}),
    gone_forgotten: ([between("get"), alone("renew")], "I8", {}),
    cookie_always_dropped: ([alone("invalidate"), anew], "I4", {}),
    refusal_swallowed: (PAIR, "I2", {}),
    not_marked: ([alone("set"), elsewhere, alone("increment")], "I4", {}),
    untold_as_told: ([alone("set"), elsewhere], "I5", {}),
    login_unmarked: ([alone("set"), elsewhere, sign_in], "I4", {}),
    one_dead_proof: ([alone("set"), alone("renew"), alone("renew")], "I4", {}),
    write_in_two_steps: ([alone("set"), alone("invalidate")], "I1", {}),
}


@pytest.mark.volume
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_mutants_are_found(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one guard taken out the explorer finds a run that breaks the invariant it is for; with
    the guard the same runs are sound."""
    bodies, invariant, how = MUTANTS[mutant]

    def runs() -> Iterator[list[tuple[str, float]]]:
        if len(bodies) == 3 and elsewhere in bodies:  # too many to explore
            return sample(lambda: World(bodies), 300, Random(4))
        return explore(lambda: World(bodies), **how)

    assert found(runs()) is None
    mutant(monkeypatch)
    assert found(runs()) == invariant
