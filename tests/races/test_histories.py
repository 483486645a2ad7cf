"""Random histories of whole requests: nobody ever meets anybody else's values, what is
acknowledged is done, and only documented errors come out.

``ALTSESSION_HISTORIES=10000`` carries out so many for each kind of store, from the seed
``ALTSESSION_SEED`` (0) on.
"""

import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from histories import History, World, execute, find, shrunk
from histories_machine import VARIANTS
from msgspec.structs import replace
from servers import Server

from pyramid_altsession.protocol.calls import Calls
from pyramid_altsession.protocol.changes import PendingChanges
from pyramid_altsession.protocol.state import SessionState
from pyramid_altsession.protocol.token import Token, new_verifier
from pyramid_altsession.protocol.verbs import Increment
from pyramid_altsession.stores.apply import GuardedWrite
from pyramid_altsession.web.cookie import SessionCookie
from pyramid_altsession.web.requests import RequestSessions

FIRST = int(os.environ.get("ALTSESSION_SEED", "0"))
ORDINARY = {"memory": 500, "memory, sealed": 150, "valkey": 80, "valkey, sealed": 60}
LONG = os.environ.get("ALTSESSION_HISTORIES")

pytestmark = [
    pytest.mark.volume,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]


@pytest.fixture(params=ORDINARY)
def world(request: pytest.FixtureRequest) -> Iterator[tuple[World, int]]:
    """A kind of store, and how many histories it has to go through."""
    kind, _, sealed = request.param.partition(", ")
    server: Server | None = None if kind == "memory" else request.getfixturevalue("server")
    world = World(server, sealed=bool(sealed))
    yield world, ORDINARY[request.param] if LONG is None else int(LONG)
    world.close()


def test_histories(world: tuple[World, int]) -> None:
    """Every promise is kept in every history. One that is not comes with the shortest history
    that shows it."""
    stores, count = world
    for seed, history, violation in find(stores, range(FIRST, FIRST + count)):
        shortest = shrunk(stores, history, violation.kind)
        shown = execute(stores, shortest)
        pytest.fail(f"seed {seed}: {violation}\n\n{shortest}\n\n{shown}", pytrace=False)


# -- the machine itself


def shows(history: History) -> str | None:
    """The kind of what a history in memory shows."""
    violation = execute(World(), history)
    return None if violation is None else violation.kind


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_history_of_one_visitor(variant: str) -> None:
    """Visits, a sign-in, a value in each way and an end, with nothing in between, show nothing."""
    calls = (
        ("session set", "a"),
        ("set", "b"),
        ("increment",),
        ("modify",),
        ("login", "ann"),
        ("session append",),
        ("flash",),
        ("batch", (("all",), ("pop", "a"), ("setdefault", "b"))),
        ("sub", "environ", True, (("get", "b"),)),
    )
    visits = [request(*calls), ("pass", 7)]
    end = request(("userid",), ("invalidate",))
    assert shows(History(variant, (*visits, *visits, end, *visits))) is None


def request(*calls: tuple[object, ...], cookies: str = "own") -> tuple[object, ...]:
    """One attempt of the first browser."""
    return "request", "one", cookies, (), (calls,)


FOUND = {
    "login lost, then another user's": History(
        "plain",
        (request(("increment",), ("lost", "reply", 0, ("login", "ann")), ("login", "bob")),),
    ),
    "renewal lost, then a login": History(
        "plain",
        (request(("increment",), ("lost", "reply", 0, ("renew",)), ("login", "ann")),),
    ),
    "attempt lost, then another user's": History(
        "retry",
        (
            request(("increment",)),
            (
                *("request", "one", "own", ()),
                (
                    (("session user", "ann"), ("lost", "reply", 0, ("end",))),
                    (("session user", "bob"),),
                ),
            ),
        ),
    ),
    "changes, an end elsewhere, a login": History(
        "plain",
        (
            request(("login", "ann"), ("set", "b"), ("session append",)),
            request(("session replace",), ("meanwhile", ("end user", "ann")), ("login", "bob")),
        ),
    ),
    "changes, a renewal elsewhere, a login": History(
        "plain",
        (
            request(("login", "ann"), ("session append",)),
            request(("session replace",), ("meanwhile", request(("renew",))), ("login", "bob")),
        ),
    ),
    "changes, time to idle over, a login": History(
        "plain",
        (
            request(("login", "ann"), ("session append",)),
            request(("session replace",), ("meanwhile", ("pass", 1400)), ("login", "bob")),
        ),
    ),
    "one token under two signatures, alive": History(
        "secrets", (request(("set", "a")), request(("get", "a"), cookies="signed twice"))
    ),
    "one token under two signatures, dead": History(
        "secrets",
        (
            request(("set", "a")),
            ("end session", "one"),
            request(("touch",), cookies="signed twice"),
        ),
    ),
    "one token under two signatures, in a subrequest": History(
        "secrets",
        (
            request(("set", "b")),
            request(
                ("login", "ann"), ("sub", "same", True, (("set", "a"),)), cookies="signed twice"
            ),
        ),
    ),
    "a subrequest without a cookie": History(
        "plain", (request(("login", "ann"), ("sub", "none", True, (("get", "a"),))),)
    ),
    "another user's session, and too many of one's own": History(
        "denied",
        (
            ("request", "two", "own", (), ((("login", "ann"),),)),
            request(("login", "bob"), ("session set", "a"), ("login", "ann")),
        ),
    ),
    "too many, twice": History(
        "denied",
        (
            ("request", "two", "own", (), ((("login", "ann"),),)),
            request(("login", "bob"), ("login", "ann"), ("login", "ann"), ("set", "a")),
        ),
    ),
    "all in a batch beside a write and changes": History(
        "plain",
        (
            request(("new csrf",)),
            request(
                *(("session user", "eve"), ("batch", (("all",), ("pop", "b")))),
                ("session items",),
            ),
        ),
    ),
}
"""Histories that have shown something once, shrunk."""


@pytest.mark.parametrize("name", FOUND)
def test_found_history(name: str) -> None:
    """What a history once showed does not come back."""
    assert shows(FOUND[name]) is None


MUTANTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], set[str]]] = {}
"""A fault put back, and the kinds of violation that may show it."""


def mutant(*kinds: str) -> Callable[[Callable[[pytest.MonkeyPatch], None]], None]:
    def register(patch: Callable[[pytest.MonkeyPatch], None]) -> None:
        MUTANTS[patch.__name__] = patch, set(kinds)

    return register


@mutant("wrong user", "not done")
def verifier_of_several_calls(patch: pytest.MonkeyPatch) -> None:
    """A lost reply makes another call count as done."""

    def kept(state: Any) -> str:
        state.kept = getattr(state, "kept", None) or new_verifier()
        return state.kept

    login, adopt = Calls.step_of_login, SessionState._adopt

    def with_kept(self: Any, *arguments: Any) -> Any:
        return replace(login(self, *arguments), verifier=kept(self._state))

    def adopted(self: Any, *arguments: Any) -> None:
        self.kept = None
        adopt(self, *arguments)

    patch.setattr(Calls, "step_of_login", with_kept)
    patch.setattr(SessionState, "_adopt", adopted)


@mutant("foreign value stored", "value of another session stored")
def changes_outlive_their_session(patch: pytest.MonkeyPatch) -> None:
    """What was not written for one session is written into the next one."""
    patch.setattr(PendingChanges, "forget", lambda self: None)


@mutant("endless", "untyped")
def one_token_twice(patch: pytest.MonkeyPatch) -> None:
    """A token under two signatures counts as two."""
    begin = SessionState.__init__

    def candidates(self: SessionCookie, environ: dict[str, str]) -> tuple[Token, ...]:
        values = re.findall(r"sid=([^;]*)", environ.get("HTTP_COOKIE", ""))
        return tuple([token for value in values if (token := self.parse(value))])

    def with_all(self: Any, tokens: Any, *arguments: Any, **named: Any) -> None:
        begin(self, tokens, *arguments, **named)
        self._tokens = tokens

    patch.setattr(SessionState, "__init__", with_all)
    patch.setattr(SessionCookie, "candidates", candidates)


@mutant("foreign value stored", "not done", "wrong user")
def login_keeps_anybodys_session(patch: pytest.MonkeyPatch) -> None:
    """Another user's session is taken over by a login."""
    admit = GuardedWrite.admit

    def admitted(self: Any, verb: Any) -> Any:
        self.user = None
        return admit(self, verb)

    patch.setattr(GuardedWrite, "admit", admitted)


@mutant("not in the index")
def login_without_an_entry(patch: pytest.MonkeyPatch) -> None:
    """A signed-in session that its user cannot find."""
    admit = GuardedWrite.admit

    def admitted(self: Any, verb: Any) -> Any:
        state = admit(self, verb)
        self.index().pop(self.id, None)
        return state

    patch.setattr(GuardedWrite, "admit", admitted)


@mutant("undead")
def end_that_forgets_nothing(patch: pytest.MonkeyPatch) -> None:
    """A session that outlives its end."""
    patch.setattr(GuardedWrite, "finish", lambda self, *arguments: None)


@mutant("miscounted", "made up")
def increment_repeated(patch: pytest.MonkeyPatch) -> None:
    """A count whose reply was lost is counted again."""
    patch.setattr(Increment, "repeatable", True)


@mutant("value of another attempt")
def changes_of_a_discarded_attempt(patch: pytest.MonkeyPatch) -> None:
    """What an attempt that failed, and is tried again, has changed is there in the next one."""
    begin = SessionState.begin_attempt

    def begun(self: SessionState, *arguments: Any) -> None:
        changes = self.changes
        begin(self, *arguments)
        self.changes = changes

    patch.setattr(SessionState, "begin_attempt", begun)
    patch.setattr(PendingChanges, "forget", lambda self: None)


@mutant("a stranger's session")
def no_cookie_is_somebodys(patch: pytest.MonkeyPatch) -> None:
    """A subrequest without a cookie is taken for a part of a request without one."""

    class Known(list[Any]):
        def __bool__(self) -> bool:
            return True

    claims = getattr(RequestSessions, "_claims", None)
    patch.setattr(
        RequestSessions,
        "_claims",
        lambda self, environ: Known(claims(self, environ)),
        raising=False,
    )


@mutant("planted CSRF token")
def login_leaves_the_csrf_token(patch: pytest.MonkeyPatch) -> None:
    """Who planted the session knows the token of the user who signs in on it."""
    login = GuardedWrite.login

    def with_token(self: Any, verb: Any) -> None:
        token = self.draft.get("_csrft_")
        login(self, verb)
        self.put("_csrft_", token)

    patch.setattr(GuardedWrite, "login", with_token)


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The histories of the ordinary run find each fault, where it is put back."""
    patch, kinds = MUTANTS[name]
    patch(monkeypatch)
    found = (violation.kind for _, _, violation in find(World(), range(ORDINARY["memory"])))
    assert any(kind in kinds for kind in found)


def test_endless_call_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that asks the store for ever is a violation, and ends."""
    monkeypatch.setattr("histories_store.MOST_OPERATIONS", 0)
    assert shows(History("plain", (request(("modify",)), request(("modify",))))) == "endless"
