"""Sign-ins of one user at once, where ``on_max_sessions = deny`` allows only so many: every order
of their operations on the store, beside sessions that end without a logout."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from accounts import Books
from msgspec import structs

from pyramid_altsession import TooManySessions
from pyramid_altsession.codecs import JSONCodec
from pyramid_altsession.config.sources import read_settings
from pyramid_altsession.config.table import SessionSettings
from pyramid_altsession.protocol import administration, calls
from pyramid_altsession.protocol.administration import Survey
from pyramid_altsession.protocol.calls import Calls
from pyramid_altsession.protocol.commands import Commands
from pyramid_altsession.protocol.dialogue import Dialogue
from pyramid_altsession.protocol.fields import State, Timing
from pyramid_altsession.protocol.lifecycle import Login
from pyramid_altsession.protocol.messages import Operation
from pyramid_altsession.protocol.state import SessionState
from pyramid_altsession.protocol.steps import Steps, run
from pyramid_altsession.stores import open_store
from pyramid_altsession.stores.apply import GuardedWrite
from pyramid_altsession.stores.memory import MemoryStore

USER = "ann"
OLD, YOUNG = 70_000, 20_000
"""Milliseconds since a login: its entry may be forgotten when its session ended, or not yet."""
Event = tuple[str, int]
"""``("step", n)``: sign-in n does its next operation; ``("end", n)``: session n ends."""


class SignIn:
    """A sign-in of a new visitor, of which one operation is carried out at a time."""

    def __init__(self, limit: int) -> None:
        settings = SessionSettings(max_sessions_per_user=limit, on_max_sessions="deny")
        self.state = SessionState([], Timing.of(settings))
        dialogue = Dialogue(self.state)
        steps = Calls(dialogue, Commands(JSONCodec(), 1000), settings)
        self.steps: Steps[None] = steps.login(USER, None, None)
        self.asked: Any = None
        self.over = self.refused = self.met_limit = False

    def step(self, execute: Callable[[Operation], Any]) -> None:
        try:
            if self.asked is None:
                self.asked = next(self.steps)
            self.asked = self.steps.send(execute(self.asked))
        except StopIteration:
            self.over = True
        except TooManySessions:
            self.over = self.refused = True


class World:
    """A user of whom the index lists sessions that live, and such that ended."""

    def __init__(
        self, books: Books, limit: int, ended: int, live: int, sign_ins: int = 2, age: int = OLD
    ) -> None:
        self.books, self.limit = books, limit
        for number in range(ended):
            books.put_entry(USER, f"ended-{number}", round(time.time() * 1000) - age)
        others = [SignIn(0) for _ in range(live)]
        for other in others:
            run(books.store.execute, other.steps)
        self.ids = [str(other.state.id) for other in others]
        self.sign_ins = [SignIn(limit) for _ in range(sign_ins)]
        self.note()

    def note(self) -> None:
        """Who is under way while the user has as many sessions as allowed."""
        live = len(self.books.signed_in())
        assert live <= self.limit, "one too many"
        for each in self.sign_ins:
            each.met_limit |= live == self.limit and not each.over

    def events(self) -> list[Event]:
        return [("step", n) for n, each in enumerate(self.sign_ins) if not each.over]

    def do(self, event: Event) -> None:
        what, number = event
        if what == "end":
            self.books.end_in(self.ids[number], 0)
        else:
            one = self.sign_ins[number]
            one.step(self.books.store.execute)
            assert not one.refused or one.met_limit, "refused, and there was room all the time"
        self.note()


class Expiring(World):
    """The same, where each of the sessions that live may end by itself at any moment."""

    def do(self, event: Event) -> None:
        super().do(event)
        self.done = [*getattr(self, "done", []), event]

    def events(self) -> list[Event]:
        done = getattr(self, "done", [])
        ends: list[Event] = [("end", number) for number in range(len(self.ids))]
        return super().events() + [event for event in ends if event not in done]


def every_order(make: Callable[[], World]) -> list[list[Event]]:
    """Play every order of a world's events."""
    waiting: list[list[Event]] = [[]]
    played = []
    while waiting:
        world, done = make(), waiting.pop()
        for event in done:
            world.do(event)
        while events := world.events():
            waiting += [[*done, other] for other in events[1:]]
            done = [*done, events[0]]
            world.do(events[0])
        played.append(done)
    return played


def in_memory(*numbers: int, world: type[World] = World) -> Callable[[], World]:
    return lambda: world(Books(MemoryStore()), *numbers)


@pytest.mark.parametrize("age", [OLD, YOUNG], ids=["old", "young"])
@pytest.mark.parametrize(("limit", "ended", "live"), [(1, 1, 0), (2, 2, 1), (2, 1, 1), (1, 0, 1)])
def test_two_sign_ins(limit: int, ended: int, live: int, age: int) -> None:
    """However two sign-ins meet, no more are let in than are allowed, and nobody is refused while
    there is room: entries of ended sessions, which either of them may forget, do not count."""
    assert len(every_order(in_memory(limit, ended, live, 2, age))) >= 20


@pytest.mark.slow
def test_session_that_ends_meanwhile() -> None:
    """The same where a session ends by itself at any moment."""
    assert len(every_order(in_memory(1, 0, 1, world=Expiring))) >= 20


@pytest.mark.slow
@pytest.mark.parametrize("age", [OLD, YOUNG], ids=["old", "young"])
@pytest.mark.parametrize("kind", ["valkey", "cluster"])
def test_two_sign_ins_on_a_server(kind: str, age: int, request: pytest.FixtureRequest) -> None:
    """The scripts count as the memory store does: some of the same orders."""
    found = request.getfixturevalue(f"{kind}_server")
    orders = every_order(in_memory(1, 1, 0, 2, age))
    store = open_store(read_settings({"redis.url": found.url}))
    for order in orders[:: len(orders) // 20]:
        found.empty()
        world = World(Books(store, found.client), 1, 1, 0, 2, age)
        for event in order:
            world.do(event)
        assert world.events() == []
    store.close()


def test_mutant_number_of_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only the number of ended entries is taken along, whatever the index lists by then, one
    too many is let in."""
    admit = GuardedWrite.admit

    def generous(change: GuardedWrite, login: Login) -> State:
        return admit(change, structs.replace(login, limit=login.limit + len(login.ended), ended=()))

    monkeypatch.setattr(GuardedWrite, "admit", generous)
    with pytest.raises(AssertionError, match="one too many"):
        every_order(in_memory(1, 1, 0))


def test_mutant_young_entries_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where entries of ended sessions that are too young to be forgotten count, somebody is refused
    although there is room."""
    survey = administration.survey

    def forgetful(user: str) -> Steps[Survey]:
        return (yield from survey(user))._replace(ended=())

    monkeypatch.setattr(calls, "survey", forgetful)
    monkeypatch.setattr(calls, "TRIES", 3)
    with pytest.raises(AssertionError, match="room all the time"):
        every_order(in_memory(1, 1, 0, 1, YOUNG))
