"""Periodic renewal, the first time to idle, and who ends up with which cookie in every order of
requests around a login."""

import contextlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import pytest
from accounts import Books, api_on, id_of, signed_in
from apps import Browser, Site, Watched, site
from inside import GuardedWrite, state_in
from pyramid.request import Request
from scheduler import (
    WINDOW,
    Actor,
    Body,
    Broken,
    Event,
    Stepped,
    World,
    explore,
    found,
    orders,
    sample,
)
from servers import Server
from workers import in_threads

from pyramid_altsession import AltSession, SessionAPI, SessionGone, StoreUnavailable
from pyramid_altsession.config.sources import read_settings
from pyramid_altsession.events import SessionInvalidated, SessionRenewed, TokenRejected
from pyramid_altsession.interfaces import Store
from pyramid_altsession.protocol.fields import USER, State, Timing
from pyramid_altsession.protocol.lifecycle import Login, Renew, Rotate
from pyramid_altsession.protocol.messages import Operation, Read, Reply, Write
from pyramid_altsession.protocol.token import new_verifier
from pyramid_altsession.session import Driver
from pyramid_altsession.stores import apply as applying
from pyramid_altsession.stores import memory
from pyramid_altsession.web.cookie import SessionCookie

AFTER, GRACE = 600, 10
WHOLE = GRACE + WINDOW


@pytest.fixture
def told() -> list[Any]:
    return []


@pytest.fixture
def api(watched: Watched, told: list[Any]) -> SessionAPI:
    return api_on(watched, told.append, renew_after=AFTER, renew_grace=GRACE, tti=5000)


@pytest.fixture
def due(api: SessionAPI, books: Books, told: list[Any]) -> Browser:
    """A signed-in browser whose next request renews."""
    browser = signed_in(api)
    books.pass_time(id_of(browser), AFTER + 1)
    told.clear()
    return browser


def read(session: AltSession) -> Any:
    return session.get("cart")


def renewed(browser: Browser) -> Browser:
    """Let the browser's request renew; another one that still holds the old cookie."""
    old = Browser(browser.api, browser.jar)
    browser.does(read)
    assert browser.jar != old.jar
    return old


def cookies(browser: Browser, act: Callable[[AltSession], Any] = read) -> list[str]:
    act(browser.visit())
    return browser.answer().headers.getall("Set-Cookie")


# -- when


def test_renewal_when_due(due: Browser, told: list[Any]) -> None:
    """A request of a signed-in session renews once its verifier is renew_after old; the next one
    does not."""
    sent = [len(cookies(due)), len(cookies(due))]
    assert (sent, due.visit().userid()) == ([1, 0], "ann")
    assert [(type(e), e.userid, e.reason) for e in told] == [(SessionRenewed, "ann", "periodic")]


def test_no_renewal_before(api: SessionAPI, books: Books) -> None:
    """Not a moment earlier."""
    browser = signed_in(api)
    books.pass_time(id_of(browser), AFTER - 2)
    assert cookies(browser) == []


def test_next_renewal(due: Browser, books: Books) -> None:
    """The next one is due renew_after later."""
    renewed(due)
    books.pass_time(id_of(due), AFTER - 2)
    early = len(cookies(due))
    books.pass_time(id_of(due), 3)
    assert (early, len(cookies(due))) == (0, 1)


def test_anonymous_sessions_are_not_renewed(api: SessionAPI, books: Books) -> None:
    """A session without a login keeps its cookie."""
    browser = Browser(api)
    browser.does(lambda s: s.set("cart", 1))
    books.pass_time(id_of(browser), AFTER * 2)
    assert cookies(browser) == []


def test_off_by_default(store: Store, books: Books) -> None:
    """renew_after = 0: never."""
    browser = signed_in(api_on(store))
    books.pass_time(id_of(browser), 1000)
    assert cookies(browser) == []


def test_renewal_is_the_last_thing(due: Browser, watched: Watched) -> None:
    """It is sent when the answer leaves, after everything the view did; and it is one operation."""
    session = due.visit()
    read(session)
    session.set("k", 1)
    assert not any(isinstance(o, Write) and _rotates(o) for o in watched.operations)
    with watched.costs(1):
        due.answer()
    assert _rotates(watched.operations[-1])


def _rotates(operation: Operation) -> bool:
    return isinstance(operation, Write) and isinstance(operation.life, Rotate)


@pytest.mark.parametrize(
    "act",
    [
        lambda s: s.login("ann"),
        lambda s: s.renew(),
        lambda s: s.logout(),
        lambda s: s.login("bob"),
    ],
    ids=["login", "renew", "logout", "other"],
)
def test_not_on_top_of_another_cookie(
    due: Browser, watched: Watched, act: Callable[[AltSession], Any]
) -> None:
    """A request that changes the cookie by itself does not renew as well."""
    assert len(cookies(due, lambda s: (read(s), act(s)))) == 1
    assert not any(_rotates(operation) for operation in watched.operations)


def test_not_after_the_session_is_gone(due: Browser) -> None:
    """A request whose session ended meanwhile sets no cookie."""
    session = due.visit()
    read(session)
    Browser(due.api, due.jar).does(lambda s: s.logout())
    assert due.answer().headers.getall("Set-Cookie") == []


def test_not_over_a_newer_login(due: Browser) -> None:
    """A login meanwhile is not undone: the renewal finds another verifier."""
    session = due.visit()
    read(session)
    other = Browser(due.api, due.jar)
    other.does(lambda s: s.login("ann"))
    assert due.answer().headers.getall("Set-Cookie") == []
    assert other.visit().userid() == "ann"


def test_renewal_that_fails(due: Browser, watched: Watched) -> None:
    """A server that goes away then does not spoil the answer; a later request renews."""

    def before(operation: Operation) -> None:
        if _rotates(operation):
            raise StoreUnavailable("away")

    watched.before = before
    first = len(cookies(due))
    watched.before = lambda operation: None
    assert (first, len(cookies(due)), due.visit().userid()) == (0, 1, "ann")


def test_renewal_repeated_after_a_lost_reply(due: Browser, watched: Watched) -> None:
    """A renewal whose first reply was lost finds its own doing."""
    execute = watched.store.execute

    def twice(operation: Operation) -> None:
        if _rotates(operation):
            execute(operation)

    watched.before = twice
    assert (len(cookies(due)), due.visit().userid()) == (1, "ann")


# -- the predecessor


def test_predecessor_until_the_first_use(due: Browser, books: Books) -> None:
    """The old cookie stays good, for reads and writes, as long as the new one was not used: an
    answer that is lost signs nobody out."""
    old = renewed(due)
    books.pass_time(id_of(old), AFTER - 10)
    old.does(lambda s: s.set("late", 1))
    assert (old.visit().userid(), due.visit().get("late")) == ("ann", 1)


def test_predecessor_renews_again(due: Browser, books: Books) -> None:
    """Whoever lost the answer gets another cookie after another renew_after, and it is good; the
    one that was lost is dead."""
    old = renewed(due)
    books.pass_time(id_of(old), AFTER + 1)
    sent = len(cookies(old))
    assert (sent, old.visit().userid(), due.visit().userid()) == (1, "ann", None)


def test_predecessor_in_its_grace(due: Browser, books: Books) -> None:
    """After the new cookie's first use the old one is good for renew_grace."""
    old = renewed(due)
    due.does(read)
    books.pass_time(id_of(old), GRACE - 1)
    old.does(lambda s: s.set("late", 1))
    assert old.visit().userid() == "ann"


def test_predecessor_in_its_grace_is_not_renewed(due: Browser, books: Books) -> None:
    """Once the new cookie was used its answer has arrived: the old one gets no other, however
    late that was, or it would end the one in use."""
    old = renewed(due)
    books.pass_time(id_of(old), AFTER - 5)
    due.does(read)
    books.pass_time(id_of(old), 6)
    assert (cookies(old), due.visit().userid()) == ([], "ann")


def test_predecessor_in_its_window(due: Browser, books: Books) -> None:
    """Then for the window: reads find nothing, writes are refused, no cookie is touched."""
    old = renewed(due)
    due.does(read)
    books.pass_time(id_of(old), GRACE + 1)
    assert (old.visit().get("cart"), cookies(old)) == (None, [])
    with pytest.raises(SessionGone):
        old.visit().set("k", 1)


def test_logout_with_a_renewed_cookie(due: Browser, books: Books) -> None:
    """A logout with a cookie that a periodic renewal has replaced, and that is past its grace,
    says that it did not happen, and touches no cookie."""
    old = renewed(due)
    due.does(read)
    books.pass_time(id_of(old), GRACE + 1)
    with pytest.raises(SessionGone):
        old.visit().logout()
    assert old.answer().headers.getall("Set-Cookie") == []
    assert due.visit().userid() == "ann"


def test_predecessor_after_its_grace_without_a_window(
    watched: Watched, books: Books, told: list[Any]
) -> None:
    """With gone_window = 0 it is refused and told at once when renew_grace is over."""
    api = api_on(
        watched, told.append, renew_after=AFTER, renew_grace=GRACE, tti=5000, gone_window=0
    )
    browser = signed_in(api)
    books.pass_time(id_of(browser), AFTER + 1)
    old = renewed(browser)
    browser.does(read)
    told.clear()
    books.pass_time(id_of(old), GRACE - 1)
    good = old.does(read)
    books.pass_time(id_of(old), 2)
    assert (good, old.does(read), browser.visit().userid()) == ([1, 2], None, "ann")
    assert [(type(event), event.id) for event in told] == [(TokenRejected, id_of(browser))]


def test_predecessor_after_its_window(due: Browser, books: Books, told: list[Any]) -> None:
    """After it, the old cookie is one of no session, and that is told; the session is well."""
    old = renewed(due)
    due.does(read)
    books.pass_time(id_of(old), WHOLE + 1)
    told.clear()
    assert old.does(read) is None
    assert [(type(e), e.id) for e in told] == [(TokenRejected, id_of(due))]
    assert due.visit().userid() == "ann"


def test_older_predecessor_in_its_window(due: Browser, books: Books) -> None:
    """A renewal at the new cookie's first use ends the grace of the one before; a late write
    with that one is refused for the window, and starts no session over the good one."""
    old = renewed(due)
    books.pass_time(id_of(old), AFTER + 1)
    renewed(due)
    due.does(read)
    with pytest.raises(SessionGone):
        old.visit().set("k", 1)
    books.pass_time(id_of(old), WINDOW + 1)
    old.does(lambda s: s.set("k", 1))
    assert id_of(old) != id_of(due)


@pytest.mark.parametrize("by", ["old", "new"])
@pytest.mark.parametrize(
    "act", [lambda s: s.renew(), lambda s: s.login("ann")], ids=["renew", "login"]
)
def test_predecessor_ends(due: Browser, by: str, act: Callable[[AltSession], Any]) -> None:
    """login and renew end all honouring of predecessors, whichever cookie they came with: every
    older one reads nothing, and is refused."""
    old = renewed(due)
    stale = [Browser(due.api, str(each.jar)) for each in (old, due)]
    newest = Browser(due.api, {"old": old, "new": due}[by].jar)
    newest.does(act)
    for each in stale:
        assert each.visit().get("cart") is None
        with pytest.raises(SessionGone):
            each.visit().set("k", 1)
    assert newest.visit().userid() == "ann"


def test_logout_in_the_grace(due: Browser, books: Books) -> None:
    """A logout with a predecessor ends the session."""
    old = renewed(due)
    assert old.does(lambda s: s.logout()) is True
    assert set(books.fields(id_of(due))) == {"@x"}


def test_confirmed_by_a_write(due: Browser, books: Books) -> None:
    """A write is a first use as well."""
    old = renewed(due)
    due.does(lambda s: s.set("k", 1))
    books.pass_time(id_of(old), GRACE + 1)
    assert old.visit().get("cart") is None


def test_first_use_costs_one_touch(due: Browser, watched: Watched) -> None:
    """The first read with the new cookie sends one touch, later ones none."""
    renewed(due)
    before = watched.touches
    due.does(read)
    due.does(read)
    assert watched.touches - before == 1


def test_predecessor_confirms_nothing(due: Browser, books: Books) -> None:
    """Use of the old cookie does not begin its own grace."""
    old = renewed(due)
    old.does(read)
    old.does(lambda s: s.set("k", 1))
    books.pass_time(id_of(old), AFTER - 5)
    assert old.visit().userid() == "ann"


@pytest.mark.parametrize("hours", [1, 24])
def test_clock_set_back(due: Browser, books: Books, hours: int) -> None:
    """A server's clock set back ends a grace under way and refuses nobody for those hours; the
    new cookie is good."""
    old = renewed(due)
    due.does(read)
    books.pass_time(id_of(due), -3600 * hours)
    assert (old.visit().get("cart"), due.visit().userid()) == (None, "ann")
    old.does(lambda s: s.set("k", 1))
    assert id_of(old) != id_of(due)


def test_clock_set_back_before_the_first_use(due: Browser, books: Books) -> None:
    """What was not used yet keeps its predecessor, whatever the clock."""
    old = renewed(due)
    books.pass_time(id_of(due), -3600)
    assert (old.visit().userid(), due.visit().userid()) == ("ann", "ann")


# -- on_reuse


@pytest.fixture
def strict(watched: Watched, told: list[Any], books: Books) -> Browser:
    """The same where a reused cookie ends its session."""
    api = api_on(
        watched, told.append, renew_after=AFTER, renew_grace=GRACE, tti=5000, on_reuse="invalidate"
    )
    browser = signed_in(api)
    books.pass_time(id_of(browser), AFTER + 1)
    return browser


REUSES: dict[str, Callable[[Browser], Any]] = {
    "read": lambda old: old.does(read),
    "write": lambda old: old.does(lambda s: s.set("k", 1)),
    "logout": lambda old: old.does(lambda s: s.logout()),
}


@pytest.mark.parametrize("reuse", REUSES.values(), ids=REUSES)
def test_reuse_ends_the_session(
    strict: Browser, books: Books, told: list[Any], reuse: Callable[[Browser], Any]
) -> None:
    """A predecessor that comes back after grace and window was stolen, or its successor was: the
    session ends, and that is told."""
    old = renewed(strict)
    strict.does(read)
    books.pass_time(id_of(old), WHOLE + 1)
    id = id_of(strict)
    told.clear()
    reuse(old)
    assert (set(books.fields(id)), strict.visit().userid()) == ({"@x", "@o"}, None)
    assert [(type(e), e.reason) for e in told if e.id == id] == [
        (TokenRejected, "reused"),
        (SessionInvalidated, "reuse"),
    ]


@pytest.mark.parametrize("act", [read, lambda s: s.set("k", 1)], ids=["read", "write"])
def test_reuse_of_an_opened_token(
    strict: Browser, books: Books, act: Callable[[AltSession], Any]
) -> None:
    """The same for a token that a worker opens: SessionGone, and the session ends."""
    old = renewed(strict)
    strict.does(read)
    books.pass_time(id_of(old), WHOLE + 1)
    with pytest.raises(SessionGone):
        act(strict.api.open(str(old.jar)))
    assert set(books.fields(id_of(strict))) == {"@x", "@o"}


HARMLESS: dict[str, Callable[[Browser, Browser, Books], Browser]] = {
    "guessed": lambda new, old, books: Browser(new.api, f"{id_of(new)}.{'A' * 43}"),
    "in the grace": lambda new, old, books: (books.pass_time(id_of(new), GRACE - 1), old)[1],
    "in the window": lambda new, old, books: (books.pass_time(id_of(new), WHOLE - 1), old)[1],
    "clock set back": lambda new, old, books: (books.pass_time(id_of(new), -3600), old)[1],
    "explicitly renewed": lambda new, old, books: _explicit(new, books),
}


def _explicit(new: Browser, books: Books) -> Browser:
    stale = Browser(new.api, new.jar)
    new.does(lambda s: s.renew())
    books.pass_time(id_of(new), WHOLE + 1)
    return stale


@pytest.mark.parametrize("how", HARMLESS.values(), ids=HARMLESS)
@pytest.mark.parametrize("act", [read, lambda s: s.set("k", 1)], ids=["read", "write"])
def test_no_other_cookie_ends_the_session(
    strict: Browser,
    books: Books,
    how: Callable[[Browser, Browser, Books], Browser],
    act: Callable[[AltSession], Any],
) -> None:
    """A guess, an explicitly renewed cookie and a predecessor before its time harm nobody."""
    old = renewed(strict)
    strict.does(read)
    other = how(strict, old, books)
    with contextlib.suppress(SessionGone):
        other.does(act)
    assert strict.visit().userid() == "ann"


def test_slow_request_is_no_reuse(strict: Browser, books: Books) -> None:
    """A request that was on its way all the time is refused, and does not end the session: its
    own age is added to the window."""
    old = renewed(strict)
    strict.does(read)
    session = old.visit()
    state_in(session).began -= 100
    books.pass_time(id_of(old), WHOLE + 50)
    assert session.get("cart") is None
    with pytest.raises(SessionGone):
        session.set("k", 1)
    assert strict.visit().userid() == "ann"


# -- many requests at once


@pytest.mark.volume
@pytest.mark.parametrize(("retried", "rounds"), [(False, 200), (True, 40)])
def test_parallel_requests(server: Server, retried: bool, rounds: int) -> None:
    """20 requests at once with a cookie that is due, 200 rounds: none is refused, exactly one
    answer carries the new cookie, and the browser's is good at the end."""
    app = site(
        server.url,
        {"get": lambda r: r.altsession.get("cart"), "login": sign_in},
        settings={
            "altsession.session.renew_after": AFTER,
            "altsession.session.tti": 5000,
            "altsession.session.lifetime": 0,  # the rounds take more than a day
        },
        retried=retried,
    )
    app.get("/login")
    books = Books(app.watched.store, server.client)
    jar, seen = str(app.token), set()
    for _ in range(rounds):
        books.pass_time(jar.partition(".")[0], AFTER + 1)
        answers = in_threads(20, lambda number, jar=jar: ask(app, jar))
        new = [cookie for _, found in answers for cookie in found]
        seen.add((len(new), *{status for status, _ in answers}))
        jar = new[0]
    assert (seen, ask(app, jar)) == ({(1, 200)}, (200, []))


def sign_in(request: Request) -> None:
    request.altsession.set("cart", 1)
    request.altsession.login("ann")


def ask(app: Site, jar: str) -> tuple[int, list[str]]:
    """Status and new tokens of one request."""
    request = Request.blank("https://localhost/get", headers={"Cookie": f"sid={jar}"})
    response = request.get_response(app.app.app if hasattr(app.app, "app") else app.app)
    assert response.json == 1
    headers = response.headers.getall("Set-Cookie")
    return response.status_int, [h.partition(";")[0].partition("=")[2] for h in headers]


# -- the first time to idle


@pytest.fixture
def shy(watched: Watched) -> SessionAPI:
    return api_on(watched, first_tti=60, tti=1200)


def test_first_tti(shy: SessionAPI, books: Books) -> None:
    """An anonymous session lives for first_tti until its cookie comes back, and then for the
    tti."""
    browser = Browser(shy)
    browser.does(lambda s: s.set("k", 1))
    first = books.left(id_of(browser))
    browser.does(lambda s: s.get("k"))
    assert (first, books.left(id_of(browser))) == (
        pytest.approx(60, abs=2),
        pytest.approx(1320, abs=2),
    )


@pytest.mark.parametrize(
    "act",
    [lambda s: s.set("k", 2), lambda s: s.touch(), lambda s: s.get("n"), lambda s: s.renew()],
    ids=["set", "touch", "get", "renew"],
)
def test_first_tti_in_the_same_request(
    shy: SessionAPI, books: Books, act: Callable[[AltSession], Any]
) -> None:
    """Nothing else that the creating request does makes it longer."""
    browser = Browser(shy)
    browser.does(lambda s: (s.set("k", 1), act(s)))
    assert books.left(id_of(browser)) == pytest.approx(60, abs=2)


@pytest.mark.parametrize("before", [lambda s: None, lambda s: s.set("k", 1)], ids=["new", "known"])
def test_first_tti_ends_with_a_login(
    shy: SessionAPI, books: Books, before: Callable[[AltSession], Any]
) -> None:
    """A login does: it is no bot's; and so does not shorten what follows."""
    browser = Browser(shy)
    browser.does(lambda s: (before(s), s.login("ann"), s.set("m", 1)))
    assert books.left(id_of(browser)) == pytest.approx(1320, abs=2)


def test_first_tti_of_workers(shy: SessionAPI, books: Books) -> None:
    """Sessions that workers make live for the tti."""
    made = shy.create({"k": 1})
    made.set("k", 2)
    assert books.left(str(made.id)) == pytest.approx(1320, abs=2)


# -- every order of requests around a login (scheduler.py has the invariants)


class Signing(Actor):
    """A request of the browser's. One that signs in may always set a cookie."""

    signs_in = False

    def _check_cookie(self) -> None:
        if not self.signs_in:
            super()._check_cookie()


class Thief(Signing):
    """A request of somebody who knows a token: sent with the newest that he knows. His answers
    do not reach the browser."""

    world: "Logins"
    begins_by_the_jar = False

    def _run(self) -> None:
        world, act = self.world, self.body
        browsers, world.jar = world.jar, world.known[-1]

        def body(actor: Actor, session: AltSession) -> None:
            world.jar = browsers  # the request is made, with the other cookie
            act(actor, session)

        self.body = body
        super()._run()

    def _check_cookie(self) -> None:
        if self.cookie is not None:
            self.world.known.append(self.cookie)


SETTINGS = read_settings(
    {"session": {"gone_window": WINDOW, "tti": 1000, "renew_after": AFTER, "secure": False}}
)


class Logins(World):
    """A browser that signs in as ann, and periodic renewal. ``thieves``: requests of one who
    knows the cookie that the browser has at the beginning; he planted it, or stole it.

    I3  no token of his is good for the session that the browser's login has made

    ``stays``: nobody signs out, nor in, so the browser has to be signed in at the end (I5).
    """

    def __init__(
        self,
        bodies: Sequence[Body],
        thieves: Sequence[Body] = (),
        *,
        user: str | None = None,
        due: bool = False,
        renewed: bool = False,
        stays: bool = False,
    ) -> None:
        super().__init__(())
        self.books = Books(self.store)
        self.api = SessionAPI(SETTINGS, store=Stepped(self, self.store))
        if user is not None:
            opened = self.api.open(str(self.jar))
            opened.login(user)
            self.jar = opened.token
        if due:
            self.now += AFTER + 1
        self.known = [str(self.jar)]
        self.thieves, self.due, self.stays = bool(thieves), due, stays
        self.administered = False
        if renewed:
            before = SessionCookie(SETTINGS.session).parse(self.known[0])
            assert before is not None
            rotate = Rotate(new_verifier(), AFTER * 1000)
            self.store.execute(Write(before.claim, (), Timing.of(SETTINGS.session), life=rotate))
            self.jar = f"{before.id}.{rotate.verifier}"
        self.new_id: str | None = None
        self.actors = [
            *[Signing(self, number, body) for number, body in enumerate(bodies)],
            *[Thief(self, len(bodies) + n, body) for n, body in enumerate(thieves)],
        ]

    def events(self) -> list[Event]:
        # An answer is on its way when its callbacks, which may renew, are through.
        return [
            (what, which)
            for what, which in super().events()
            if what == "step" or self.actors[int(which)].greenlet.dead
        ]

    def do(self, event: Event) -> None:
        what, which = event
        if what == "deliver" and isinstance(self.actors[int(which)], Thief):
            self.actors[int(which)].response = None
        else:
            super().do(event)

    def settled(self, actor: Actor) -> bool:
        return isinstance(actor, Thief) or super().settled(actor)

    def watch(self, actor: Actor, operation: Operation, reply: Reply) -> None:
        life = operation.life if isinstance(operation, Write) else None
        if isinstance(life, Login):
            assert isinstance(operation, Write)
            actor.ended_own = actor.signs_in = True  # type: ignore[attr-defined]
            if reply.state is State.OTHER_USER:
                self.ended[operation.claim.id] = self.now
        self.administered |= isinstance(operation, Write) and operation.anybody
        super().watch(actor, operation, reply)
        if isinstance(life, Login) and reply.state is State.LIVE:
            assert isinstance(operation, Write)
            if not operation.create:
                self.deaths[operation.claim] = (self.now, actor, Renew)
            if not isinstance(actor, Thief):
                self.new_id = operation.claim.id

    def finish(self) -> None:
        # For the window alone: what a thief does with the session may keep the browser out, and
        # so may a renewal's answer that arrives after that of a login which was carried out later,
        # and administration.
        if self.stays:
            self.signed_in()
        self.lost = self.lost or self.thieves or self.due or self.administered
        super().finish()
        if self.stays:
            self.signed_in()

    def signed_in(self) -> None:
        seen: list[str | None] = []
        actor = Signing(self, 98, lambda actor, session: seen.append(session.userid()))
        while not actor.greenlet.dead:
            actor.greenlet.switch()
        if seen != ["ann"]:
            raise Broken("I5: signed out, and nobody did")

    def check(self) -> None:
        super().check()
        for token in self.known if self.new_id else ():
            found = SessionCookie(SETTINGS.session).parse(token)
            assert found is not None
            if found.id != self.new_id:
                continue
            timing = Timing.of(SETTINGS.session)
            reply = self.store.execute(Read((found.claim,), (USER,), timing, touch=False))
            if reply.state is State.LIVE and reply.values == [b"ann"]:
                raise Broken("I3: signed in under a token that somebody else knows")
        for id, user in self.books.signed_in().items():
            if id not in self.books.index(user):
                raise Broken("I7: a signed-in session that the index misses")


CALLS: dict[str, Body] = {
    "login": lambda actor, s: s.login("ann"),
    "login of another": lambda actor, s: s.login("mallory"),
    "set": lambda actor, s: s.set(actor.key, 1),
    "get": lambda actor, s: s.get("a"),
    "get and set": lambda actor, s: (s.get("a"), s.set(actor.key, 1)),
    "renew": lambda actor, s: s.renew(),
    "invalidate": lambda actor, s: s.invalidate(),
    "touch": lambda actor, s: s.touch(),
    "list": lambda actor, s: actor.world.api.sessions_of("ann"),
    "end all": lambda actor, s: actor.world.api.invalidate_user("ann"),
}
BEGINNINGS: dict[str, dict[str, Any]] = {
    "anonymous": {},
    "ann": {"user": "ann"},
    "ann, renewal due": {"user": "ann", "due": True},
    "ann, renewed": {"user": "ann", "due": True, "renewed": True},
    "mallory, renewal due": {"user": "mallory", "due": True},
}


@pytest.mark.volume
@pytest.mark.parametrize("beginning", BEGINNINGS.values(), ids=BEGINNINGS)
@pytest.mark.parametrize("name", CALLS)
def test_login_and_another_request(name: str, beginning: dict[str, Any]) -> None:
    """A login and one more request of the same browser, in every order, with the answers in any
    order and any of them lost: the invariants hold. No answer but a login's own puts a worse
    cookie over the newest login's within the window, and nobody is refused for longer."""
    runs = explore(lambda: Logins([CALLS["login"], CALLS[name]], **beginning), lossy=True)
    assert orders(runs) >= 30


@pytest.mark.volume
@pytest.mark.parametrize("name", ["set", "get", "get and set", "invalidate", "renew"])
def test_renewal_and_another_request(name: str) -> None:
    """The same for a periodic renewal that is due in both requests."""
    bodies = [CALLS["get"], CALLS[name]]
    runs = explore(lambda: Logins(bodies, user="ann", due=True), lossy=True)
    assert orders(runs) >= 30


@pytest.mark.volume
@pytest.mark.parametrize("beginning", ["ann, renewal due", "ann, renewed"])
@pytest.mark.parametrize("pair", [("get", "set"), ("get", "get"), ("get and set", "touch")])
def test_lost_renewals(pair: tuple[str, str], beginning: str) -> None:
    """Two requests with a cookie that is due, of whose answers any may be lost: the browser is
    signed in all the time, whichever cookie it was left with."""
    bodies = [CALLS[name] for name in pair]
    runs = explore(lambda: Logins(bodies, **BEGINNINGS[beginning], stays=True), lossy=True)
    assert orders(runs) >= 50


def thinking(name: str) -> Body:
    """A request that thinks before its call."""

    def body(actor: Actor, session: AltSession) -> None:
        actor.think()
        CALLS[name](actor, session)

    return body


def reading(actor: Actor, session: AltSession) -> None:
    """A request that reads, and computes long."""
    session.get("a")
    actor.think()


SLOW: dict[str, Body] = {
    "set": thinking("set"),
    "invalidate": thinking("invalidate"),
    "get": thinking("get"),
    "read first": reading,
}


@pytest.mark.volume
@pytest.mark.parametrize("with_", ["login", "get", "invalidate"])
@pytest.mark.parametrize("name", SLOW)
def test_slow_request_and_another(name: str, with_: str) -> None:
    """A slow request, where a renewal is due, with a login, a renewal or a logout meanwhile; time
    passes, less than the window and more, and any answer may be lost."""
    bodies = [CALLS[with_], SLOW[name]]
    ticks = [WINDOW - 1, WINDOW * 3]
    runs = explore(lambda: Logins(bodies, **BEGINNINGS["ann, renewal due"]), ticks=ticks)
    assert orders(runs) >= 100


ALL_FOUR = ["login", "get", "invalidate", "set"]


@pytest.mark.volume
@pytest.mark.parametrize("left_out", ALL_FOUR)
def test_login_renewal_logout_write(left_out: str) -> None:
    """Three of a login, a periodic renewal, a logout and a write, in every order of their steps
    and answers."""
    bodies = [CALLS[name] for name in ALL_FOUR if name != left_out]
    runs = explore(lambda: Logins(bodies, **BEGINNINGS["ann, renewal due"]))
    assert orders(runs) >= 2000


@pytest.mark.volume
@pytest.mark.parametrize("beginning", BEGINNINGS.values(), ids=BEGINNINGS)
def test_all_four(beginning: dict[str, Any]) -> None:
    """All four at once, the write a slow one, with one answer lost at most: some of all orders."""
    bodies = [*[CALLS[name] for name in ALL_FOUR[:3]], SLOW["set"]]
    runs = sample(lambda: Logins(bodies, **beginning), 300, Random(4), ticks=[WINDOW / 2])
    assert len(list(runs)) == 300


@pytest.mark.volume
@pytest.mark.parametrize("pair", [("set", "renew"), ("get", "set"), ("set", "invalidate")])
def test_login_and_two_requests(pair: tuple[str, str]) -> None:
    """A login and two more requests, with the answers in any order."""
    bodies = [CALLS["login"], *[CALLS[name] for name in pair]]
    assert orders(explore(lambda: Logins(bodies))) >= 500


@pytest.mark.volume
@pytest.mark.parametrize("ticks", [[], [WINDOW + 1]], ids=["at once", "late"])
@pytest.mark.parametrize("beginning", BEGINNINGS.values(), ids=BEGINNINGS)
@pytest.mark.parametrize("name", ["login of another", "set", "get", "renew"])
def test_planted_session(name: str, beginning: dict[str, Any], ticks: list[float]) -> None:
    """Whoever knows the session's token before the login, and operates the session before,
    during and after it, does not get into the session that the login has made."""
    runs = explore(
        lambda: Logins([CALLS["login"]], [CALLS[name]], **beginning), lossy=True, ticks=ticks
    )
    assert orders(runs) >= 15


@pytest.mark.volume
@pytest.mark.parametrize("beginning", [{}, {"user": "ann", "due": True, "renewed": True}])
@pytest.mark.parametrize(
    "pair", [("renew", "get"), ("login of another", "get"), ("set", "get"), ("invalidate", "get")]
)
def test_planted_session_used_twice(pair: tuple[str, str], beginning: dict[str, Any]) -> None:
    """The same for two requests of his, each with the newest cookie that he has."""
    thieves = [CALLS[name] for name in pair]
    runs = explore(lambda: Logins([CALLS["login"]], thieves, **beginning))
    assert orders(runs) >= 100


# -- mutants: one guard of the login out each


def keeps_predecessor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A login that leaves the predecessor of a periodic renewal honoured."""

    def mutant(change: Any, proof: bytes) -> None:
        change.bury(change.draft["@v"], change.now)
        change.draft["@v"] = proof

    monkeypatch.setattr(GuardedWrite, "replace", mutant)


def keeps_verifier(monkeypatch: pytest.MonkeyPatch) -> None:
    """A login that leaves the verifier as it is."""
    monkeypatch.setattr(GuardedWrite, "replace", lambda change, proof: None)


def no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """A login without an entry."""
    monkeypatch.setattr(GuardedWrite, "admit", lambda change, verb: State.LIVE)
    monkeypatch.setattr(GuardedWrite, "index", lambda change: {})


def replaced_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes with a cookie that a login has just replaced start a session."""
    judge = memory.judge

    def mutant(*arguments: Any) -> State:
        state = judge(*arguments)
        return State.DEAD if state is State.REPLACED else state

    for module in (memory, applying):
        monkeypatch.setattr(module, "judge", mutant)


def forgets_predecessor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A periodic renewal after which the old verifier is dead at once."""

    def mutant(change: Any, proof: bytes) -> None:
        change.bury(change.draft["@v"], change.now)
        change.draft["@v"] = proof

    monkeypatch.setattr(GuardedWrite, "rotate", mutant)


def grace_from_the_renewal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grace that begins with the renewal, and not with the first use of what it gave."""
    rotate = GuardedWrite.rotate

    def mutant(change: Any, proof: bytes) -> None:
        rotate(change, proof)
        previous = change.draft["@p"]
        change.draft["@p"] = previous[:32] + previous[37:] * 2

    monkeypatch.setattr(GuardedWrite, "rotate", mutant)


def renews_on_the_way_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A renewal as soon as it is known to be due, and not when the answer leaves."""
    execute = Driver.execute

    def mutant(driver: Driver, operation: Operation | None) -> Any:
        results = execute(driver, operation)
        if driver.state.renewal_due and isinstance(operation, Read):
            execute(driver, driver.state.renewal())
        return results

    monkeypatch.setattr(Driver, "execute", mutant)


def renews_whatever_the_verifier(monkeypatch: pytest.MonkeyPatch) -> None:
    """A renewal that does not ask whether its verifier is still the session's."""
    guard = GuardedWrite.guard

    def mutant(change: Any) -> State:
        state = guard(change)
        renews = isinstance(change.life, Rotate)
        return State.LIVE if renews and state is State.REPLACED else state

    monkeypatch.setattr(GuardedWrite, "guard", mutant)


def renews_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A renewal for every request that saw that one was due."""
    monkeypatch.setattr(GuardedWrite, "take", _renewing(GuardedWrite.take))


def _renewing(take: Callable[..., Any]) -> Callable[..., Any]:
    def mutant(change: Any, life: Any) -> Any:
        if isinstance(life, Rotate):
            change.rotate(life.proof)
            return 1
        return take(change, life)

    return mutant


Mutant = Callable[[pytest.MonkeyPatch], None]
MUTANTS: dict[Mutant, tuple[Callable[[], World], str]] = {
    keeps_predecessor: (
        lambda: Logins([CALLS["login"]], [CALLS["get"]], user="ann", due=True, renewed=True),
        "I3",
    ),
    keeps_verifier: (lambda: Logins([CALLS["login"]], [CALLS["set"]]), "I3"),
    no_index: (lambda: Logins([CALLS["login"]]), "I7"),
    forgets_predecessor: (lambda: renewing("get", "set"), "I5"),
    grace_from_the_renewal: (lambda: renewing("get", "set"), "I5"),
    renews_again_at_once: (lambda: renewing("get", "get"), "I5"),
    renews_on_the_way_in: (lambda: Logins([CALLS["login"], reading], user="ann", due=True), "I4"),
    renews_whatever_the_verifier: (
        lambda: Logins([CALLS["login"], CALLS["get"]], user="ann", due=True),
        "I1",
    ),
    replaced_is_dead: (lambda: Logins([CALLS["login"], CALLS["set"]]), "I4"),
}


def renewing(*names: str) -> World:
    """Requests with a cookie that is due, of a browser that stays signed in."""
    return Logins([CALLS[name] for name in names], user="ann", due=True, stays=True)


@pytest.mark.volume
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_mutants_are_found(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one guard taken out the explorer finds a run that breaks its invariant; with it the
    same runs are sound."""
    make, invariant = MUTANTS[mutant]
    assert found(explore(make, lossy=True)) is None
    mutant(monkeypatch)
    assert found(explore(make, lossy=True)) == invariant
