"""Random histories of whole requests, and what has to hold in all of them.

A history is a variant of the settings and a list of steps, plain tuples that print as a trace:

    ("request", browser, cookies, flags, attempts)   attempts: a tuple of calls for each attempt
    ("end user", user) · ("end session", browser) · ("forget", browser) · ("pass", seconds)
    ("copy", browser, browser)                       the second has the first one's cookie

A call is a tuple too, ``("login", "ann")`` or ``("set", "a")``, and some hold others:

    ("lost", what, which, call)     what: "request", "reply" or "repeat"; of the operation no. which
    ("crossed", step, call)         the step comes before the call's second operation
    ("meanwhile", step)             the step comes between two calls
    ("sub", cookie, tweens, calls)  a subrequest: "same" cookie, "none", or the same "environ"

Every value that a request stores is a text of its own, which tells whose it is: ``ann#17``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from histories_machine import (
    AUTH_USERID,
    BROWSERS,
    TEXTS,
    VARIANTS,
    Application,
    Call,
    Machine,
    Step,
)
from histories_store import USERS, Clock, InMemory, Inside, OnServer, Violation
from inside import store_in
from sealed import opened
from servers import Server

from pyramid_altsession.stores.memory import MemoryStore


@dataclass(frozen=True)
class History:
    variant: str
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        return "\n".join(
            [f"History({self.variant!r}, (", *[f"    {s!r}," for s in self.steps], "))"]
        )


class World:
    """The applications of one kind of store, one for each variant."""

    def __init__(self, server: Server | None = None, *, sealed: bool = False) -> None:
        self.server = server
        self.sealed = sealed
        self._applications: dict[str, tuple[Application, Any]] = {}

    def empty(self, variant: str) -> tuple[Application, Any, Inside]:
        """An application, its empty store, and that one's inside."""
        if variant not in self._applications:
            url = "memory://" if self.server is None else self.server.url
            made = Application(variant, url=url, sealed=self.sealed)
            store: Any = store_in(made.api)
            self._applications[variant] = made, store_in(store) if self.sealed else store
        application, store = self._applications[variant]
        unsealed = opened if self.sealed else lambda id, name, raw: raw
        if self.server is not None:
            self.server.client.flushall()
            return application, store, OnServer(self.server.client, unsealed)
        clock = Clock()
        store = MemoryStore(clock)
        return application, store, InMemory(store, clock, unsealed)

    def close(self) -> None:
        for _, store in self._applications.values():
            store.close()


# -- making them


def random_history(random: Random) -> History:
    variant = random.choice(sorted(VARIANTS))
    return History(variant, tuple([random_step(random) for _ in range(random.randint(2, 7))]))


def random_step(random: Random) -> Step:
    return random_event(random) if random.random() < 0.25 else random_request(random)


COOKIES = (
    *("old first", "old last", "old alone", "signed twice", "signed twice, last", "signed anew"),
    *("another's first", "broken first", "none"),
)


def random_request(random: Random, depth: int = 0) -> Step:
    browser = BROWSERS[0] if random.random() < 0.4 else random.choice(BROWSERS)
    cookies = random.choice(COOKIES) if random.random() < 0.25 else "own"
    flags = tuple([flag for flag in ("answer lost", "uncaught") if random.random() < 0.15])
    attempts = [random_calls(random, depth)]
    if random.random() < 0.3:
        attempts.append(random_calls(random, depth))
    return "request", browser, cookies, flags, tuple(attempts)


def random_calls(random: Random, depth: int = 0) -> tuple[Call, ...]:
    return tuple([random_call(random, depth) for _ in range(random.randint(1, 5))])


def random_event(random: Random) -> Step:
    match random.randrange(6):
        case 0:
            return "end user", random.choice(USERS)
        case 1:
            return "end session", random.choice(BROWSERS)
        case 2:
            return "forget", random.choice(BROWSERS)
        case 3:
            return ("copy", *random.sample(BROWSERS, 2))
        case _:
            return "pass", random.choice([1, 6, 11, 30, 130, 1400])


def random_call(random: Random, depth: int) -> Call:
    chance = random.random()
    if depth < 2 and chance < 0.10:
        return "meanwhile", random_elsewhere(random, depth)
    if depth < 2 and chance < 0.13:
        return "crossed", random_elsewhere(random, depth), plain_call(random)
    if depth < 2 and chance < 0.17:
        calls = tuple([random_call(random, depth + 2) for _ in range(random.randint(1, 3))])
        return "sub", random.choice(["same", "environ", "none"]), random.random() < 0.5, calls
    if chance < 0.30:
        call = random.choice([("end",), about_life(random), plain_call(random)])
        what = random.choice(["request", "reply", "reply", "repeat"])
        return "lost", what, random.choice([0, 0, 0, 1]), call
    return plain_call(random)


def random_elsewhere(random: Random, depth: int) -> Step:
    chance = random.random()
    if chance < 0.3:
        return "end session", BROWSERS[0]
    return random_event(random) if chance < 0.6 else random_request(random, depth + 2)


LIFE = ("touch", "renew", "renew", "invalidate", "session invalidate")
KEYED = (
    *("get", "get fresh", "exists", "set", "set ttl", "remove", "pop", "setdefault", "prefetch"),
    *("compare_and_set", "session get", "session set", "session set", "session del"),
)
BARE = (
    *("mget", "all", "all fresh", "keys", "ttl", "created", "userid", "userid", "login_age"),
    *("mset", "increment", "increment", "modify", "session append", "session append"),
    *("session replace", "session replace", "session hold", "session change held"),
    *("session keys", "session items", "flash", "flash once", "pop flash", "peek flash"),
    *("csrf", "new csrf"),
)


def plain_call(random: Random) -> Call:
    chance = random.random()
    if chance < 0.25:
        return about_life(random)
    if chance < 0.30:
        return "batch", batched(random)
    if chance < 0.60:
        return random.choice(KEYED), random.choice([*TEXTS * 4, AUTH_USERID])
    return (random.choice(BARE),)


def about_life(random: Random) -> Call:
    """A sign-in, a renewal or an end."""
    chance = random.random()
    if chance < 0.60:
        return "login", random.choice(USERS)
    if chance < 0.65:
        return "login", random.choice(USERS), 5000.0
    if chance < 0.75:
        return "session user", random.choice(USERS)
    return (random.choice(LIFE),)


def batched(random: Random) -> tuple[Call, ...]:
    names = random.sample(["get", "set", "pop", "setdefault", "remove", "increment", "all"], 3)
    return tuple(
        [
            (name,) if name in ("increment", "all") else (name, random.choice(TEXTS))
            for name in names
        ]
    )


# -- running them


def execute(world: World, history: History) -> Violation | None:
    """Run a history in an empty store; what it shows."""
    application, store, inside = world.empty(history.variant)
    machine = Machine(application, application.store(store), inside)
    try:
        machine.run(history.steps)
    except Violation as violation:
        return violation
    return None


def find(world: World, seeds: Sequence[int]) -> Iterator[tuple[int, History, Violation]]:
    """The histories of these seeds that show something."""
    for seed in seeds:
        history = random_history(Random(seed))
        violation = execute(world, history)
        if violation is not None:
            yield seed, history, violation


def shrunk(world: World, history: History, kind: str) -> History:
    """A history that shows the same kind and nothing of which can be left out."""
    smaller = True
    while smaller:
        smaller = False
        for steps in smaller_lists(history.steps):
            candidate = History(history.variant, steps)
            found = execute(world, candidate)
            if found is not None and found.kind == kind:
                history, smaller = candidate, True
                break
    return history


def smaller_lists(items: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """A list without one of its items, or with a smaller one."""
    for at, item in enumerate(items):
        yield items[:at] + items[at + 1 :]
        for smaller in smaller_items(item):
            yield (*items[:at], smaller, *items[at + 1 :])


def smaller_items(item: Any) -> Iterator[Any]:
    """A step or a call with something less in it."""
    match item:
        case ("request", browser, cookies, flags, attempts):
            if cookies != "own":
                yield "request", browser, "own", flags, attempts
            for fewer in smaller_lists(tuple(flags)):
                yield "request", browser, cookies, fewer, attempts
            if len(attempts) > 1:
                for attempt in attempts:
                    yield "request", browser, cookies, flags, (attempt,)
            for at, calls in enumerate(attempts):
                for fewer in smaller_lists(calls):
                    changed = (*attempts[:at], fewer, *attempts[at + 1 :])
                    yield "request", browser, cookies, flags, changed
        case ("lost", what, which, call):
            yield call
            if which:
                yield "lost", what, 0, call
        case ("meanwhile", step):
            for smaller in smaller_items(step):
                yield "meanwhile", smaller
        case ("crossed", step, call):
            yield call
            yield "meanwhile", step
            for smaller in smaller_items(step):
                yield "crossed", smaller, call
        case ("sub", cookie, tweens, calls):
            for fewer in smaller_lists(calls):
                yield "sub", cookie, tweens, fewer
        case ("batch", calls) if len(calls) > 1:
            for fewer in smaller_lists(calls):
                yield "batch", fewer
