"""Signing in and out, on every store: what is kept, what dies, what it costs."""

import json
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from accounts import Books, api_on, id_of, signed_in
from apps import Browser, Repeating, Watched
from inside import lease_in, store_in
from pyramid.request import Request
from pyramid.response import Response
from servers import Server, redis_binary, valkey
from workers import in_threads

from pyramid_altsession import (
    AltSession,
    SessionAPI,
    SessionGone,
    StoreFull,
    TooManySessions,
    ValueTooLarge,
)
from pyramid_altsession.config.sources import read_settings
from pyramid_altsession.events import (
    SessionCreated,
    SessionInvalidated,
    SessionRenewed,
    TokenRejected,
)
from pyramid_altsession.interfaces import Store
from pyramid_altsession.protocol.lifecycle import Login
from pyramid_altsession.protocol.messages import Operation, Write
from pyramid_altsession.stores import open_store
from pyramid_altsession.stores.redis.pool import ConnectionPool

DAY = 86400


@pytest.fixture
def api(watched: Watched) -> SessionAPI:
    return api_on(watched)


@pytest.fixture
def visitor(api: SessionAPI) -> Browser:
    """A browser with a cart and a CSRF token, not signed in."""
    browser = Browser(api)
    browser.does(lambda s: s.mset({"cart": [1, 2], "_csrft_": "planted"}))
    return browser


def login(session: AltSession) -> None:
    session.login("ann")


# -- what a login changes


def test_login_changes_the_cookie(visitor: Browser) -> None:
    """A login keeps the id and gives the browser another verifier."""
    before = str(visitor.jar)
    visitor.does(login)
    after = str(visitor.jar)
    assert (before.split(".")[0] == after.split(".")[0], before == after) == (True, False)


def test_login_keeps_the_data(visitor: Browser) -> None:
    """The cart of the anonymous session is there after the login, in this request and later."""
    session = visitor.visit()
    session.login("ann")
    now = session.get("cart")
    visitor.answer()
    assert (now, visitor.visit().get("cart")) == ([1, 2], [1, 2])


def test_login_removes_the_csrf_token(visitor: Browser) -> None:
    """Who planted the session knows its CSRF token: a login removes it, in this request's memory
    as well."""
    session = visitor.visit()
    session.get("_csrft_")
    session.login("ann")
    now = session.get("_csrft_")
    visitor.answer()
    assert (now, visitor.visit().all()) == (None, {"cart": [1, 2]})


def test_old_cookie_after_a_login(visitor: Browser) -> None:
    """The old cookie reads nothing, and a write with it is refused and sets no cookie."""
    old = Browser(visitor.api, visitor.jar)
    visitor.does(login)
    assert old.visit().get("cart") is None
    with pytest.raises(SessionGone):
        old.visit().set("k", 1)
    assert old.answer().headers.getall("Set-Cookie") == []


def test_open_with_the_old_token_after_a_login(visitor: Browser, api: SessionAPI) -> None:
    """open(old token) is SessionGone, read and write."""
    opened = api.open(str(visitor.jar))
    visitor.does(login)
    for act in (lambda: opened.get("cart"), lambda: api.open(str(opened.id)).set("k", 1)):
        with pytest.raises(SessionGone):
            act()


def test_login_costs_one_operation(visitor: Browser, watched: Watched) -> None:
    """A login on a live session is one operation."""
    with watched.costs(1):
        visitor.does(login)


@pytest.mark.parametrize("known", [False, True])
def test_login_costs_one_round_trip(
    any_server: Server, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """On Redis 7.0 and Valkey 9.1 a login on a live session is one exchange of packets."""
    store = open_store(read_settings({"redis": {"url": any_server.url}}))
    browser = signed_in(api_on(store)) if known else Browser(api_on(store))
    browser.does(lambda s: s.set("cart", 1))
    Browser(browser.api).does(login)  # loads the script
    trips = []
    exchange = ConnectionPool.exchange

    def counted(pool: ConnectionPool, packet: bytes, replies: int, *end: float) -> list[Any]:
        trips.append(replies)
        return exchange(pool, packet, replies, *end)

    monkeypatch.setattr(ConnectionPool, "exchange", counted)
    browser.does(login)
    store.close()
    assert trips == [1]


def test_login_begins_a_new_lifetime(visitor: Browser, books: Books) -> None:
    """The absolute end is counted from the login."""
    id = id_of(visitor)
    books.put(id, "@d", b"%d" % (int(books.fields(id)["@d"]) - 3600_000))
    before = int(books.fields(id)["@d"])
    visitor.does(login)
    after = int(books.fields(id)["@d"])
    assert after - before == pytest.approx(3600_000, abs=5000)


def test_nothing_else_begins_a_new_lifetime(api: SessionAPI, books: Books) -> None:
    """set, renew and touch leave the absolute end alone."""
    browser = signed_in(api)
    before = books.fields(id_of(browser))["@d"]
    for act in (lambda s: s.set("k", 1), lambda s: s.renew(), lambda s: s.touch()):
        browser.does(act)
    assert books.fields(id_of(browser))["@d"] == before


def test_login_without_a_lifetime(store: Store, books: Books) -> None:
    """session.lifetime = 0: a signed-in session still ends, after 400 days."""
    browser = signed_in(api_on(store, lifetime=0))
    held = books.fields(id_of(browser))
    assert int(held["@d"]) - int(held["@l"]) == 400 * DAY * 1000


# -- remember


def max_age(response: Response) -> str | None:
    (header,) = response.headers.getall("Set-Cookie")
    found = re.search(r"Max-Age=(\d+)", header)
    return found and found[1]


def test_remember(visitor: Browser, books: Books) -> None:
    """remember gives this session and its cookie that long, used or not."""
    visitor.visit().login("ann", remember=30 * DAY)
    age = max_age(visitor.answer())
    held = books.fields(id_of(visitor))
    assert (age, held["@i"]) == (str(30 * DAY), b"%d" % (30 * DAY * 1000))
    assert int(held["@d"]) - int(held["@l"]) == 30 * DAY * 1000
    assert books.left(id_of(visitor)) == pytest.approx(30 * DAY, abs=5)


def test_remember_on_a_new_session(api: SessionAPI, books: Books) -> None:
    """The same where the login makes the session."""
    browser = Browser(api)
    browser.visit().login("ann", remember=30 * DAY)
    assert max_age(browser.answer()) == str(30 * DAY)
    assert books.left(id_of(browser)) == pytest.approx(30 * DAY, abs=5)


def test_remember_on_a_later_renewal(api: SessionAPI, books: Books) -> None:
    """The cookie of a later renew lasts as long as the session still does."""
    browser = signed_in(api, remember=30 * DAY)
    id = id_of(browser)
    books.put(id, "@d", b"%d" % (int(books.fields(id)["@d"]) - 10 * DAY * 1000))
    browser.visit().renew()
    age = max_age(browser.answer())
    assert age is not None
    assert int(age) == pytest.approx(20 * DAY, abs=5)


def test_login_ends_remembering(api: SessionAPI, books: Books) -> None:
    """A later login without remember has the settings' times again."""
    browser = signed_in(api, remember=30 * DAY)
    browser.visit().login("ann")
    age = max_age(browser.answer())
    assert (age, "@i" in books.fields(id_of(browser))) == (None, False)
    assert books.left(id_of(browser)) == pytest.approx(1320, abs=5)


def test_no_max_age_without_remember(visitor: Browser) -> None:
    """Without remember the cookie is what the settings say."""
    visitor.visit().login("ann")
    assert max_age(visitor.answer()) is None


# -- where there is no live session


def dead(browser: Browser, books: Books) -> None:
    books.end_in(id_of(browser), 0)
    if books.client is not None:
        books.client.delete(f"sess:{id_of(browser)}")


def ended(browser: Browser, books: Books) -> None:
    Browser(browser.api, browser.jar).does(lambda s: s.invalidate())


def replaced(browser: Browser, books: Books) -> None:
    Browser(browser.api, browser.jar).does(lambda s: s.renew())


def malformed(browser: Browser, books: Books) -> None:
    browser.jar = "nonsense"


def none_at_all(browser: Browser, books: Books) -> None:
    browser.jar = None


@pytest.mark.parametrize("end", [dead, ended, replaced, malformed, none_at_all])
def test_login_without_a_live_session(
    visitor: Browser, books: Books, end: Callable[[Browser, Books], None]
) -> None:
    """Whatever became of the cookie's session, a login starts a new one, with nothing in it."""
    old = id_of(visitor)
    end(visitor, books)
    session = visitor.visit()
    session.login("ann")
    seen = (session.all(), session.userid(), session.new)
    visitor.answer()
    assert (seen, id_of(visitor) == old) == (({}, "ann", True), False)
    assert visitor.visit().userid() == "ann"


@pytest.mark.parametrize("end", [dead, ended, replaced])
@pytest.mark.parametrize("found", ["by a read", "by a touch", "by the login"])
def test_login_on_a_gone_session(
    visitor: Browser, books: Books, end: Callable[[Browser, Books], None], found: str
) -> None:
    """A session seen alive that is gone does not stand in a login's way; nothing that this
    request remembers of it shows in the new one."""
    session = visitor.visit()
    if found == "by a touch":
        books.end_in(id_of(visitor), 500)
        watched = store_in(visitor.api)
        assert isinstance(watched, Watched)

        def before(operation: Operation) -> None:
            if isinstance(operation, Write) and operation.optional:
                watched.before = lambda operation: None
                end(visitor, books)

        watched.before = before
        session.get("cart")
    else:
        session.get("cart")
        end(visitor, books)
    if found == "by a read":
        with pytest.raises(SessionGone):
            session.get("other")
    session.login("ann")
    seen = session.get("cart"), session.all(), session.userid()
    visitor.answer()
    assert (seen, visitor.visit().userid()) == ((None, {}, "ann"), "ann")


def test_login_after_an_explicit_renewal_elsewhere(visitor: Browser, books: Books) -> None:
    """A request that renewed and was overtaken signs in anew."""
    session = visitor.visit()
    session.renew()
    books.lose = None  # type: ignore[attr-defined]
    dead(visitor, books)
    session.login("ann")
    visitor.answer()
    assert visitor.visit().userid() == "ann"


def test_login_on_an_open_session_that_is_gone(visitor: Browser, api: SessionAPI) -> None:
    """open() objects never create, not even by a login; neither when seen alive before."""
    seen, unseen = api.open(str(visitor.jar)), api.open(str(visitor.jar))
    seen.get("cart")
    visitor.does(lambda s: s.invalidate())
    for opened in (seen, unseen, seen, api.open("nonsense")):
        with pytest.raises(SessionGone):
            opened.login("ann")


def test_login_on_an_open_session(api: SessionAPI) -> None:
    """A worker may sign a session in; its token changes."""
    made = api.create({"k": 1})
    before = made.token
    made.login("ann")
    assert (made.token == before, api.open(str(made.token)).userid()) == (False, "ann")


def test_login_takes_the_next_candidate(visitor: Browser) -> None:
    """With two cookies of the name, a login takes the one whose session lives."""
    other = Browser(visitor.api)
    other.does(lambda s: s.set("k", 1))
    stale = str(other.jar)
    other.does(lambda s: s.invalidate())
    both = Browser(visitor.api, f"{stale}; sid={visitor.jar}")
    both.does(login)
    assert (id_of(both), both.visit().get("cart")) == (id_of(visitor), [1, 2])


# -- other users


def test_login_on_another_users_session(api: SessionAPI, books: Books) -> None:
    """That session is ended and nothing of it is kept; the new one has another id."""
    browser = signed_in(api, "ann")
    old, token = id_of(browser), str(browser.jar)
    session = browser.visit()
    session.get("cart")
    session.login("bob")
    seen = session.get("cart"), session.userid(), session.all()
    browser.answer()
    assert seen == (None, "bob", {})
    assert (id_of(browser) == old, set(books.fields(old))) == (False, {"@x"})
    assert (api.sessions_of("ann"), api.open(token).exists()) == ([], False)


def test_two_users_in_one_request(api: SessionAPI) -> None:
    """Signing in one user and then another in the same request ends the first's session."""
    browser = Browser(api)
    session = browser.visit()
    session.login("ann")
    session.set("secret", 1)
    session.login("bob")
    browser.answer()
    assert browser.visit().userid() == "bob"
    assert (api.sessions_of("ann"), browser.visit().all()) == ([], {})


def test_other_user_with_another_candidate(api: SessionAPI) -> None:
    """A second cookie is no way around the new session: its data is not taken over."""
    first, second = signed_in(api, "ann"), Browser(api)
    second.does(lambda s: s.set("planted", 1))
    both = Browser(api, f"{first.jar}; sid={second.jar}")
    both.does(lambda s: s.login("bob"))
    assert both.visit().all() == {}


def test_same_user_again(api: SessionAPI) -> None:
    """The same user's login keeps the data under a new verifier."""
    browser = signed_in(api)
    before = browser.jar
    browser.does(login)
    assert (browser.jar == before, browser.visit().all()) == (False, {"cart": [1, 2]})


def test_form_that_is_sent_twice(visitor: Browser, api: SessionAPI) -> None:
    """The second sign-in, with the cookie that the first has just replaced, starts a session of
    its own, without the cart; either cookie is good."""
    second = Browser(api, visitor.jar)
    first_request, second_request = visitor.visit(), second.visit()
    for session in (first_request, second_request):
        session.login("ann")
    visitor.answer()
    second.answer()
    assert (visitor.visit().all(), second.visit().all()) == ({"cart": [1, 2]}, {})
    assert {known.id for known in api.sessions_of("ann")} == {id_of(visitor), id_of(second)}


# -- bad arguments


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("",), TypeError),
        ((7,), TypeError),
        ((None,), TypeError),
        (("a" * 513,), ValueTooLarge),
    ],
)
def test_bad_userid(
    visitor: Browser, watched: Watched, arguments: Any, error: type[Exception]
) -> None:
    """A user id is a non-empty str of at most 512 bytes; else nothing is sent."""
    with watched.costs(0), pytest.raises(error):
        visitor.visit().login(*arguments)


@pytest.mark.parametrize(
    ("remember", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (0.5, ValueError),
        (401 * DAY, ValueError),
        (float("nan"), ValueError),
        (True, TypeError),
        ("3600", TypeError),
    ],
)
def test_bad_remember(visitor: Browser, remember: Any, error: type[Exception]) -> None:
    """remember is a number of seconds from 1 to 400 days; True, as a form's check box might
    give, is none."""
    with pytest.raises(error, match="remember"):
        visitor.visit().login("ann", remember=remember)


def test_bad_info(visitor: Browser) -> None:
    """info is JSON of at most 512 bytes."""
    with pytest.raises(ValueTooLarge, match="info"):
        visitor.visit().login("ann", info={"agent": "x" * 501})
    with pytest.raises(TypeError, match="info"):
        visitor.visit().login("ann", info={"agent": object()})


def test_longest_userid_and_info(visitor: Browser, api: SessionAPI, books: Books) -> None:
    """512 bytes of user id and of info fit; info is kept in parts of 64 bytes."""
    info = {"agent": "x" * 500}
    assert len(json.dumps(info, separators=(",", ":"))) == 512
    user = "ä" * 256
    visitor.does(lambda s: s.login(user, info=info))
    parts = [raw for name, raw in books.fields(id_of(visitor)).items() if name[:2] == "@n"]
    assert ([len(part) for part in parts], api.sessions_of(user)[0].info) == ([64] * 8, info)


def test_later_info_replaces_all_of_the_former(visitor: Browser, api: SessionAPI) -> None:
    """A shorter info leaves nothing of a longer one, and none leaves none."""
    shown = []
    for info in ({"agent": "x" * 200}, {"ip": "::1"}, None):
        visitor.does(lambda s, info=info: s.login("ann", info=info))
        shown.append(api.sessions_of("ann")[0].info)
    assert shown == [{"agent": "x" * 200}, {"ip": "::1"}, {}]


# -- full servers


@pytest.fixture(params=["valkey", "redis7"])
def full(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of each kind that the test may fill."""
    binary = redis_binary()
    options = ("--maxmemory-policy", "noeviction")
    request.getfixturevalue(f"{request.param}_server")  # skips, or fails in CI, without one
    server = valkey(*options) if request.param == "valkey" else Server(str(binary), *options)
    yield server
    server.stop()


def test_login_on_a_full_server(full: Server) -> None:
    """Signing in works on a full server, with a session and without, and so does signing out;
    a set does not."""
    store = open_store(read_settings({"redis": {"url": full.url}}))
    api = api_on(store)
    browser, known = Browser(api), signed_in(api)
    browser.does(lambda s: s.set("cart", 1))
    full.client.config_set("maxmemory", 1)
    with pytest.raises(StoreFull):
        browser.does(lambda s: s.set("more", 1))
    for each in (browser, known, Browser(api)):
        each.does(login)
        assert each.visit().userid() == "ann"
    assert len(api.sessions_of("ann")) == 3
    assert browser.does(lambda s: s.logout()) is True
    assert len(api.sessions_of("ann")) == 2
    assert Books(store, full.client).endless() == []
    store.close()


# -- lost replies


@pytest.mark.parametrize("known", [True, False])
def test_repeated_login_finds_its_own(store: Store, known: bool) -> None:
    """A login whose first reply was lost is repeated and is done: the browser has the cookie
    that the session answers to, with a session and without."""
    browser = Browser(api_on(store))
    if known:
        browser.does(lambda s: s.set("cart", 1))
    browser.api = api_on(Repeating(store))
    browser.does(lambda s: s.login("ann", remember=DAY, info={"ip": "::1"}))
    assert (browser.visit().userid(), len(browser.api.sessions_of("ann"))) == ("ann", 1)


def test_repeated_logout(store: Store) -> None:
    """So is a logout: the cookie is dropped."""
    browser = signed_in(api_on(store))
    browser.api = api_on(Repeating(store))
    browser.does(lambda s: s.logout())
    assert (browser.jar, browser.api.sessions_of("ann")) == (None, [])


# -- the answer is gone


def test_login_after_the_answer(visitor: Browser, watched: Watched) -> None:
    """A login after the response callbacks is a RuntimeError and sends nothing: its cookie would
    be lost."""
    session = visitor.visit()
    session.get("cart")
    visitor.answer()
    with watched.costs(0), pytest.raises(RuntimeError, match="cookie"):
        session.login("ann")


def test_first_login_after_the_answer(api: SessionAPI) -> None:
    """The same without a session."""
    browser = Browser(api)
    session = browser.visit()
    browser.answer()
    with pytest.raises(RuntimeError, match="cookie"):
        session.login("ann")


# -- signing out


def test_logout(api: SessionAPI) -> None:
    """logout ends the session and drops the cookie."""
    browser = signed_in(api)
    token = str(browser.jar)
    assert browser.does(lambda s: s.logout()) is True
    assert browser.jar is None
    with pytest.raises(SessionGone):
        api.open(token).get("cart")


def test_logout_without_a_session(api: SessionAPI) -> None:
    """logout without a session is no error and leaves the cookie alone."""
    browser = Browser(api)
    assert browser.does(lambda s: s.logout()) is False


def test_logout_says_that_it_did_not_happen(api: SessionAPI) -> None:
    """A logout with a cookie that another request's login has just replaced is refused; the
    session lives."""
    browser = signed_in(api)
    slow = Browser(api, browser.jar)
    browser.does(login)
    with pytest.raises(SessionGone):
        slow.visit().logout()
    assert slow.answer().headers.getall("Set-Cookie") == []
    assert browser.visit().userid() == "ann"


# -- who is signed in


@pytest.mark.parametrize(
    ("read", "cost"),
    [
        (lambda s: s.get("cart"), 0),
        (lambda s: s.all(), 0),
        (lambda s: s.exists(), 0),
        (lambda s: s.ttl(), 0),
        (lambda s: s.userid(), 0),
        (lambda s: s.set("k", 1), 0),
        (lambda s: None, 1),
    ],
)
def test_userid_costs_nothing_after_a_read(
    api: SessionAPI, watched: Watched, read: Callable[[AltSession], Any], cost: int
) -> None:
    """userid after any call of the request is known; else it costs one round trip, once."""
    session = signed_in(api).visit()
    read(session)
    with watched.costs(cost):
        found = session.userid(), session.userid()
    assert found == ("ann", "ann")


def test_userid_without_login(visitor: Browser, api: SessionAPI, watched: Watched) -> None:
    """None without a login, without a session, and in the request that made one; the last two
    cost nothing."""
    assert visitor.visit().userid() is None
    stranger = Browser(api).visit()
    with watched.costs(0):
        before = stranger.userid()
    stranger.set("k", 1)
    with watched.costs(0):
        assert (before, stranger.userid()) == (None, None)


def test_userid_after_login_and_logout(visitor: Browser, watched: Watched) -> None:
    """The request that signs in or out knows without asking."""
    session = visitor.visit()
    session.login("ann")
    with watched.costs(0):
        inside = session.userid()
    session.logout()
    with watched.costs(0):
        assert (inside, session.userid()) == ("ann", None)


def test_login_age(visitor: Browser, books: Books, watched: Watched) -> None:
    """login_age is the time since the login by the server's clock; one round trip, once, and none
    after another read; None without a login or a session."""
    anonymous = visitor.visit().login_age(), Browser(visitor.api).visit().login_age()
    visitor.does(login)
    id = id_of(visitor)
    books.put(id, "@l", b"%d" % (int(books.fields(id)["@l"]) - 100_000))
    session = visitor.visit()
    with watched.costs(1):
        ages = [session.login_age(), session.login_age()]
    session = visitor.visit()
    session.get("cart")
    with watched.costs(0):
        ages.append(session.login_age())
    assert (anonymous, ages) == ((None, None), pytest.approx([100] * 3, abs=5))


def test_login_age_after_a_login(visitor: Browser, watched: Watched) -> None:
    """The request that signs in knows it without asking."""
    session = visitor.visit()
    session.login("ann")
    with watched.costs(0):
        assert session.login_age() == pytest.approx(0, abs=1)


# -- events


def test_events(store: Store) -> None:
    """Each event tells kind, user and reason; of another user's login also the end of the
    former's session."""
    told: list[Any] = []
    api = api_on(store, told.append)
    browser = Browser(api)
    stale = None
    for act in (
        lambda s: s.set("cart", 1),
        lambda s: s.login("ann"),
        lambda s: s.renew(),
        lambda s: (s.userid(), s.login("bob")),
        lambda s: (s.userid(), s.logout()),
        lambda s: s.login("cy"),
    ):
        stale = browser.jar or stale
        browser.does(act)
    assert [(type(event), event.userid, event.reason) for event in told] == [
        (SessionCreated, None, "call"),
        (SessionRenewed, "ann", "login"),
        (SessionRenewed, "ann", "renew"),
        (SessionInvalidated, "ann", "login of another user"),
        (SessionCreated, None, "call"),
        (SessionRenewed, "bob", "login"),
        (SessionInvalidated, "bob", "call"),
        (SessionCreated, None, "call"),
        (SessionRenewed, "cy", "login"),
    ]
    assert all(isinstance(event.request, Request) for event in told)


def test_rejected_token_event(store: Store) -> None:
    """A guessed verifier is told once per request, with its reason, and harms nobody."""
    told: list[Any] = []
    browser = signed_in(api_on(store, told.append, on_reuse="invalidate"))
    told.clear()
    guess = Browser(browser.api, f"{id_of(browser)}.{'A' * 43}").visit()
    guess.get("cart")
    guess.get("name")
    assert [(type(e), e.id, e.reason) for e in told] == [
        (TokenRejected, id_of(browser), "rejected")
    ]
    assert browser.visit().userid() == "ann"


def test_logged_events(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """altsession.log_events logs id, user and reason of each, and never a token."""
    settings = read_settings({"log_events": True})
    browser = Browser(SessionAPI(settings, store=store))
    jars: list[str | None] = []
    with caplog.at_level(logging.INFO, "pyramid_altsession"):
        for act in (
            lambda s: s.set("k", 1),
            login,
            lambda s: s.renew(),
            lambda s: s.logout(),
        ):
            browser.does(act)
            jars.append(browser.jar)
    verifiers = [jar.partition(".")[2] for jar in jars if jar]
    messages = [r.getMessage() for r in caplog.records if r.levelno == logging.INFO]
    assert [message.partition(" ")[2][23:] for message in messages] == [
        "created: user None, call",
        "renewed: user 'ann', login",
        "renewed: user 'ann', renew",
        "invalidated: user 'ann', call",
    ]
    assert [v for v in verifiers if v in caplog.text] == []


# -- how many


def test_deny(store: Store) -> None:
    """on_max_sessions = deny: one sign-in more is TooManySessions (403) and makes nothing; a
    login into one of the allowed sessions is none more."""
    api = api_on(store, max_sessions_per_user=2, on_max_sessions="deny")
    first, second, third = signed_in(api), signed_in(api), Browser(api)
    session = third.visit()
    with pytest.raises(TooManySessions, match="2 sessions") as caught:
        session.login("ann")
    response = third.answer()
    assert (caught.value.code, response.headers.getall("Set-Cookie")) == (403, [])
    second.does(login)
    assert {known.id for known in api.sessions_of("ann")} == {id_of(first), id_of(second)}
    assert session.userid() is None


def test_deny_under_racing_logins(any_server: Server) -> None:
    """Of 16 sign-ins at once exactly as many succeed as are allowed: check and entry are one
    step."""
    store = open_store(read_settings({"redis": {"url": any_server.url}}))
    api = api_on(store, max_sessions_per_user=5, on_max_sessions="deny")

    def sign_in(number: int) -> bool:
        try:
            Browser(api).does(login)
        except TooManySessions:
            return False
        return True

    for _ in range(10):
        any_server.client.flushall()
        assert (sum(in_threads(16, sign_in)), len(api.sessions_of("ann"))) == (5, 5)
    store.close()


@pytest.mark.parametrize("end", [dead, ended])
def test_deny_does_not_count_the_dead(
    store: Store, books: Books, end: Callable[[Browser, Books], None]
) -> None:
    """Ended sessions do not count, however young their entries are."""
    api = api_on(store, max_sessions_per_user=1, on_max_sessions="deny")
    first = signed_in(api)
    end(first, books)
    second = signed_in(api)
    assert [known.id for known in api.sessions_of("ann")] == [id_of(second)]
    with pytest.raises(TooManySessions):
        Browser(api).does(login)


def test_end_oldest(store: Store) -> None:
    """on_max_sessions = end_oldest, the default: the oldest login makes room, and is told."""
    told: list[Any] = []
    api = api_on(store, told.append, max_sessions_per_user=2)
    books = []
    for number in range(3):
        browser = signed_in(api)
        books.append(id_of(browser))
        _older(store, id_of(browser), 100 - number)
    ends = [(e.id, e.userid, e.reason) for e in told if isinstance(e, SessionInvalidated)]
    assert ends == [(books[0], "ann", "max_sessions_per_user")]
    assert [known.id for known in api.sessions_of("ann")] == [books[2], books[1]]


def _older(store: Store, id: str, seconds: int) -> None:
    """Let a login be so much longer ago, in the index."""
    from accounts import index_key

    if hasattr(store, "indexes"):
        store.indexes["ann"][id] -= seconds * 1000
    else:
        lease_in(store).exchange(_packed("ZINCRBY", index_key("ann"), str(-seconds * 1000), id), 1)


def _packed(*words: str) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(
        b"$%d\r\n%b\r\n" % (len(word.encode()), word.encode()) for word in words
    )


def test_end_oldest_never_ends_the_one_just_made(store: Store) -> None:
    """Also when the server's clock was set back since the other logins."""
    api = api_on(store, max_sessions_per_user=1)
    first = signed_in(api)
    _older(store, id_of(first), -3600)
    second = signed_in(api)
    assert [known.id for known in api.sessions_of("ann")] == [id_of(second)]


def test_end_oldest_with_room(store: Store) -> None:
    """Nobody is ended while there is room."""
    api = api_on(store, max_sessions_per_user=3)
    signed_in(api)
    signed_in(api)
    assert len(api.sessions_of("ann")) == 2


# -- values


def test_a_login_hides_its_verifier() -> None:
    """The repr of a Login holds no verifier."""
    assert "secret" not in repr(Login("secret", "ann", None, 1))


def test_request_events_carry_the_request(store: Store) -> None:
    """An event carries the request whose session it is about, as long as somebody holds it."""
    told: list[Any] = []
    api = api_on(store, told.append)
    request = Request.blank("/")
    api.session(request).login("ann")
    assert {event.request for event in told} == {request}
    told.clear()
    api.session(Request.blank("/")).login("ann")
    assert {event.request for event in told} == {None}
