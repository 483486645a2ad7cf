"""A deterministic scheduler: requests of one browser, stepped one ``execute`` at a time, and an
explorer of every order in which their steps and answers can come.

A run is a list of events: ``("step", i)`` sends request i, or lets it do its next operation on
the store; ``("deliver", i)`` and ``("lose", i)`` decide about its answer; ``("tick", n)`` lets n
seconds pass, while no operation is under way (those are bounded by redis.timeout). After each
event these invariants hold:

I1  nothing reads or writes with a token once its renewal or its session's end is carried out
I2  an acknowledged write is there as long as its session is
I4  within the window no answer to a request with a replaced token touches the cookie; one whose
    end the browser was not told of starts one session, and none once a login has come with it
I5  a browser is refused no longer than the window, and not at all once it has every answer
I6  every key has a TTL, of at most tti + touch_interval
I8  one request never meets two sessions, nor a session and its absence
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

from apps import Behind
from greenlet import getcurrent, greenlet
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response

from pyramid_altsession import AltSession, SessionGone
from pyramid_altsession.api import SessionAPI
from pyramid_altsession.config.sources import read_settings
from pyramid_altsession.interfaces import Store
from pyramid_altsession.protocol.fields import State
from pyramid_altsession.protocol.lifecycle import Invalidate, Login, Renew
from pyramid_altsession.protocol.messages import Operation, Read, Reply, Write
from pyramid_altsession.protocol.token import Claim
from pyramid_altsession.stores.memory import MemoryStore

WINDOW = 10.0
SETTINGS = read_settings({"session": {"gone_window": WINDOW, "tti": 1000, "secure": False}})
Event = tuple[str, float]
Body = Callable[["Actor", AltSession], None]


class Broken(Exception):
    """An invariant does not hold; ``trace`` are the events that led here."""

    trace: Sequence[Event] = ()

    def __str__(self) -> str:
        return f"{self.args[0]} after {' '.join(f'{what}:{which}' for what, which in self.trace)}"


class Actor:
    """One request of the browser's: sent with what the jar holds at its first step."""

    def __init__(self, world: "World", number: int, body: Body) -> None:
        self.world = world
        self.number = number
        self.body = body
        self.sent: Claim | None = None
        self.began = 0.0
        self.response: Response | None = None  # what is under way to the browser
        self.cookie: str | None = None  # what it sets
        self.made = 0  # the answer's place among all answers
        self.refused = False
        self.thinks = False
        self.ended_own = False
        self.may_start = False
        self.met: set[str] = set()
        self.written: set[str] = set()
        self.greenlet = greenlet(self._run)
        self.greenlet.actor = self

    begins_by_the_jar = True
    """Whether what it is sent with depends on nothing else."""

    @property
    def key(self) -> str:
        """A key that this request alone writes."""
        return f"own{self.number}"

    def think(self) -> None:
        """Let others go on, and time pass, within the view."""
        self.thinks = True
        self.greenlet.parent.switch()
        self.thinks = False

    def _run(self) -> None:
        world = self.world
        self.began = world.now
        headers = {} if world.jar is None else {"Cookie": f"sid={world.jar}"}
        request = Request.blank("/", headers=headers)
        request.registry = world.registry
        session = world.api.session(request)
        state = world.api.requests.state_of(request)
        assert state is not None
        state.clock, state.began = (lambda: world.now), world.now
        self.sent = state.claims[0] if state.claims else None
        try:
            self.body(self, session)
        except SessionGone:
            self.refused = True
        self.response = Response()
        world.answers += 1
        self.made = world.answers
        request._process_response_callbacks(self.response)
        for header in self.response.headers.getall("Set-Cookie"):
            self.cookie = header.partition(";")[0].partition("=")[2] or None
        self._check_cookie()

    def _check_cookie(self) -> None:
        assert self.response is not None
        death = self.world.deaths.get(self.sent) if self.sent else None
        if death is None or not self.response.headers.getall("Set-Cookie"):
            return
        when, who, how = death
        age = self.world.now - self.began if how is Renew else 0
        if who is not self and self.world.now - when < WINDOW + age:
            raise Broken("I4: an answer to a replaced token touches the cookie")

    def acknowledged(self) -> None:
        """The request's own key was stored, as its call returned."""
        if not self.written:
            raise Broken("I2: acknowledged and never written")


class Stepped:
    """A store whose every operation waits for the scheduler, and is watched."""

    def __init__(self, world: "World", store: Store) -> None:
        self.world = world
        self.store = store

    def execute(self, operation: Operation) -> Reply:
        here = getcurrent()
        actor: Actor | None = getattr(here, "actor", None)
        if actor is not None:
            here.parent.switch()
        reply = self.store.execute(operation)
        if actor is not None:
            self.world.watch(actor, operation, reply)
        return reply

    def send(self, operation: Read) -> "Travelling":
        """The store sees it at once; its reply may come much later."""
        return Travelling(self.execute(operation))

    def close(self) -> None:
        self.store.close()


class Travelling:
    """A reply that waits for the scheduler."""

    def __init__(self, answer: Reply) -> None:
        self.answer = answer

    def result(self, operation: Read) -> Reply:
        here = getcurrent()
        if hasattr(here, "actor"):
            here.parent.switch()
        return self.answer

    def cancel(self) -> None:
        """Nobody waits for it."""


class World:
    """One browser, its requests, one store, one clock."""

    def __init__(self, bodies: Sequence[Body], store: Store | None = None, client: Any = None):
        self.now = 1_000_000.0
        self.skew = 0.0  # of the server's clock
        self.memory = MemoryStore(lambda: self.now + self.skew) if store is None else None
        self.store: Store = self.memory or store  # type: ignore[assignment]
        self.behind = Behind(self.store, client)
        if client is not None:
            client.flushdb()
        self.api = SessionAPI(SETTINGS, store=Stepped(self, self.store))
        self.registry = Registry()
        first = self.api.create({"a": "old", "b": "old", "n": 0})
        self.first = first.id
        self.jar: str | None = first.token
        self.deaths: dict[Claim, tuple[float, Actor, type]] = {}
        self.ended: dict[str, float] = {}
        self.untold: set[str] = set()  # ended by administration
        self.born: dict[Claim, bool] = {}  # of a dead cookie: whether by a login
        self.kept: list[tuple[str, str, bytes]] = []
        self.lost = False
        self.seen_before = False  # this far another run has been looked at already
        self.answers = self.newest = 0
        self.actors = [Actor(self, number, body) for number, body in enumerate(bodies)]

    # what happens

    def events(self) -> list[Event]:
        """What can happen next."""
        found: list[Event] = [("step", a.number) for a in self.actors if not a.greenlet.dead]
        return found + [("deliver", a.number) for a in self.actors if a.response is not None]

    @property
    def quiet(self) -> bool:
        """Whether no operation is under way."""
        return all(not a.greenlet or a.thinks for a in self.actors)

    def do(self, event: Event) -> None:
        what, which = event
        if what == "tick":
            self.tick(which)
            return
        actor = self.actors[int(which)]
        if what == "step":
            actor.greenlet.switch()
        else:
            response, actor.response = actor.response, None
            assert response is not None
            if what == "lose":
                self.lost = True
            elif response.headers.getall("Set-Cookie"):
                self.jar = actor.cookie
                # Of two answers that set a cookie the browser keeps the one that comes last.
                self.lost |= self.first in self.untold and actor.made < self.newest
                self.newest = max(self.newest, actor.made)
        if self.memory is not None and not self.seen_before:
            self.check()

    def settled(self, actor: Actor) -> bool:
        """Whether nothing depends on when the answer arrives: it sets no cookie."""
        assert actor.response is not None
        return not actor.response.headers.getall("Set-Cookie")

    def tick(self, seconds: float, skew: float = 0) -> None:
        """Let time pass. ``skew``: so much more of it by the server's clock."""
        self.now += seconds
        self.skew += skew
        if self.memory is None:
            for id in self.behind.ids():
                self.behind.pass_time(id, seconds + skew)

    # what must hold

    def watch(self, actor: Actor, operation: Operation, reply: Reply) -> None:
        if reply.state is State.OWED:
            actor.may_start = actor.sent not in self.born
        if reply.state is not State.LIVE or not isinstance(operation, Read | Write):
            return
        read = isinstance(operation, Read)
        claim = operation.claims[reply.which] if isinstance(operation, Read) else operation.claim
        if claim in self.deaths or claim.id in self.ended:
            raise Broken(f"I1: a {'read' if read else 'write'} with a dead token")
        actor.met.add(claim.id)
        if len(actor.met) > 1 and not actor.ended_own:
            raise Broken("I8: one request met two sessions")
        if not isinstance(operation, Write):
            return
        if operation.create:
            self._note_birth(actor, isinstance(operation.life, Login))
        if isinstance(operation.life, Renew | Invalidate):
            self.deaths[claim] = (self.now, actor, type(operation.life))
        if isinstance(operation.life, Invalidate):
            self.ended[claim.id] = self.now
            actor.ended_own = True
            if operation.anybody:
                self.untold.add(claim.id)
        for verb, result in zip(operation.verbs, reply.values, strict=True):
            if getattr(verb, "name", "") == actor.key:
                stored = result if isinstance(result, bytes) else getattr(verb, "value", b"")
                self.kept.append((claim.id, actor.key, stored))
                actor.written.add(claim.id)

    def _note_birth(self, actor: Actor, by_login: bool) -> None:
        """I4, where the browser was not told of an end: its dead cookie starts one session, and
        none by a request that comes after a login with it."""
        sent = actor.sent
        if sent is None or sent.id not in self.untold or self.now - self.ended[sent.id] >= WINDOW:
            return
        if not by_login and (self.born.get(sent) is False or not actor.may_start):
            raise Broken("I4: a dead cookie starts a second session")
        self.born[sent] = by_login or self.born.get(sent, False)

    def check(self) -> None:
        """I1, I2 and I6, by what the store holds."""
        for id in self.behind.ids():
            left = self.behind.left(id)
            if not 0 < left <= 1100.001 + abs(self.skew):
                raise Broken(f"I6: a key with {left} seconds left")
            fields = self.behind.fields(id)
            if id in self.ended:
                if set(fields) - {"@o"} != {"@x"}:
                    raise Broken("I1: data under an ended session")
                if left > self.ended[id] + WINDOW - self.now + 0.001:
                    raise Broken("I5: a tombstone was prolonged")
        for id, key, raw in self.kept:
            if id not in self.ended and self.behind.fields(id).get(key) != raw:
                raise Broken(f"I2: an acknowledged write of {key} is lost")

    def finish(self) -> None:
        """When every answer is delivered or lost: the browser is served, at once unless one was
        lost, and after the window in any case."""
        self.check()
        if self.lost:
            self.tick(WINDOW)
        later = Actor(self, 99, lambda actor, session: session.set(actor.key, 1))
        self.actors.append(later)
        while not later.greenlet.dead:
            later.greenlet.switch()
        if later.refused:
            raise Broken("I5: refused for longer than the window")


class Run(list[Event]):
    """The events of a run. Some that follow one another could as well come the other way round:

    ``idle``: places of answers without a cookie, which change nothing wherever they arrive;
    ``begun``: of first steps. They lead up to the request's first operation and depend only on
    the cookies that the browser has, so the operations of others may come before or after.
    """

    def __init__(self) -> None:
        super().__init__()
        self.idle: set[int] = set()
        self.begun: set[int] = set()

    def did(self, world: "World", event: Event, idle: bool) -> None:
        what, which = event
        if idle:
            self.idle.add(len(self))
        elif what == "step" and event not in self:
            actor = world.actors[int(which)]
            if actor.response is None and actor.begins_by_the_jar:
                self.begun.add(len(self))
        self.append(event)

    def just_begun(self) -> list[float]:
        """The requests that have begun since anything else has happened."""
        first = len(self)
        while first - 1 in self.begun:
            first -= 1
        return [which for _, which in self[first:]]

    def _in_order(self, one: int, two: int) -> bool:
        """Whether these have to come as they did."""
        (what, which), (other, whose) = self[one], self[two]
        if "tick" in (what, other) or which == whose:
            return True
        steps = what == other == "step"
        return not ({one, two} & self.idle or (steps and {one, two} & self.begun))

    def _before(self) -> list[int]:
        """For each event those that it has to come after, as bits."""
        return [
            sum(1 << one for one in range(two) if self._in_order(one, two))
            for two in range(len(self))
        ]

    @property
    def kind(self) -> tuple[Event, ...]:
        """The same for all runs that differ only in the order of such events."""
        before, left, found = self._before(), set(range(len(self))), []
        while left:
            free = [at for at in left if not any(before[at] >> other & 1 for other in left)]
            found.append(min(free, key=self.__getitem__))
            left.remove(found[-1])
        return tuple([self[at] for at in found])

    @property
    def orders(self) -> int:
        """How many runs of its kind there are; at least so many, where time passes in them."""
        before, ways = self._before(), {0: 1}
        for _ in self:
            longer: Counter[int] = Counter()
            for done, count in ways.items():
                for at, needed in enumerate(before):
                    if not done >> at & 1 and needed & done == needed:
                        longer[done | 1 << at] += count
            ways = longer
        (count,) = ways.values()
        return count


def explore(
    make: Callable[[], World],
    *,
    lossy: bool = False,
    ticks: Sequence[float] = (),
    whole: bool = False,
) -> Iterator[Run]:
    """Every run of a world, each from the start; raises Broken where an invariant fails.

    ``lossy``: every answer may also be lost. ``ticks``: time passes so often, at any moment.

    Of the runs that differ only in the order of events that are independent (see ``Run``) it
    makes one, unless the ``whole`` is asked for: an answer without a cookie arrives at once, and
    a request begins as late as may be.
    """
    todo: list[list[Event]] = [[]]
    while todo:
        path = todo.pop()
        world = make()
        done = Run()
        try:
            while True:
                world.seen_before = len(done) < len(path) - 1
                if len(done) < len(path):
                    event = path[len(done)]
                else:
                    possible = events = _possible(world, done, lossy, ticks)
                    if not whole:
                        events = _different(world, done, events)
                    if not events:
                        break
                    event = events[0]
                    todo += [[*done, other] for other in events[1:]]
                idle = _changes_nothing(world, event)
                world.do(event)
                done.did(world, event, idle)
            if possible:
                continue
            world.finish()
        except Broken as broken:
            broken.trace = done
            raise
        yield done


def sample(
    make: Callable[[], World], runs: int, rng: Random, *, ticks: Sequence[float] = ()
) -> Iterator[list[Event]]:
    """So many runs of those that are too many to explore, with one lost answer at most."""
    for _ in range(runs):
        world = make()
        done: list[Event] = []
        try:
            while True:
                lossy = not any(what == "lose" for what, _ in done)
                events = _possible(world, done, lossy, ticks)
                if not events:
                    break
                done.append(rng.choice(events))
                world.do(done[-1])
            world.finish()
        except Broken as broken:
            broken.trace = done
            raise
        yield done


def _possible(
    world: World, done: Sequence[Event], lossy: bool, ticks: Sequence[float]
) -> list[Event]:
    events = world.events()
    if lossy:
        events += [("lose", which) for what, which in events if what == "deliver"]
    passed = sum(what == "tick" for what, _ in done)
    if events and passed < len(ticks) and world.quiet:
        events.append(("tick", ticks[passed]))
    return events


def _different(world: World, done: Run, events: list[Event]) -> list[Event]:
    """Those of the events that have to be tried here; the others were tried in another place."""
    for what, which in events:
        if _changes_nothing(world, (what, which)):
            return [event for event in events if event in (("deliver", which), ("lose", which))]
    begun = done.just_begun()
    if not begun:
        return events
    return [
        (what, which)
        for what, which in events
        if what != "step"
        or (which == begun[-1] and len(begun) == 1)
        or (which > begun[-1] and ("step", which) not in done)
    ]


def _changes_nothing(world: World, event: Event) -> bool:
    what, which = event
    return what in ("deliver", "lose") and world.settled(world.actors[int(which)])


def orders(runs: Iterator[Run]) -> int:
    """How many orders of events the runs stand for; each raises Broken if an invariant fails."""
    return sum(run.orders for run in runs)


def play(world: World, *events: Event) -> World:
    """One run, given by its events; what is left to do is done in order."""
    for event in events:
        world.do(event)
    return world


def found(runs: Iterator[list[Event]]) -> str | None:
    """The invariant that breaks first, or None when all runs are sound."""
    try:
        for _ in runs:
            pass
    except Broken as broken:
        return str(broken)[:2]
    return None
