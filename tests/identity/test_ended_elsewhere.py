"""Sessions that are ended from elsewhere: what becomes of the browser that goes on sending the
dead cookie, and of sessions that a user's index has lost."""

from collections.abc import Callable
from typing import Any

import pytest
from accounts import Books, api_on, id_of, signed_in
from apps import Browser, Watched, site
from inside import lease_in, store_in
from pyramid.request import Request
from redis.exceptions import NoScriptError
from servers import Server, valkey

from pyramid_altsession import AltSession, SessionAPI, SessionGone, StoreFull, TooManySessions
from pyramid_altsession.config.sources import read_settings
from pyramid_altsession.interfaces import Store
from pyramid_altsession.protocol.administration import MANY, SAMPLE
from pyramid_altsession.protocol.fields import State, Timing
from pyramid_altsession.protocol.lifecycle import Invalidate
from pyramid_altsession.protocol.messages import REVOKED, End, Listing, Operation, Prune, Write
from pyramid_altsession.protocol.token import Claim, Token
from pyramid_altsession.protocol.verbs import Set
from pyramid_altsession.stores import open_store
from pyramid_altsession.stores.memory import MemoryStore

DAY = 86400
TIMING = Timing(tti=60_000, interval=6_000, lifetime=0, window=10_000)


@pytest.fixture
def api(watched: Watched) -> SessionAPI:
    return api_on(watched)


@pytest.fixture
def phone(api: SessionAPI) -> Browser:
    """A signed-in browser whose session is ended from elsewhere."""
    browser = signed_in(api)
    assert api.invalidate_user("ann") == 1
    return browser


def login(session: AltSession) -> None:
    session.login("ann")


# -- the browser that was not told


def test_reads_find_nothing(phone: Browser) -> None:
    """A request that reads is one without a session, and leaves the cookie alone."""
    assert phone.visit().mget(["cart", "k"]) == {"cart": None, "k": None}
    assert phone.answer().headers.getall("Set-Cookie") == []


def test_first_write_starts_a_session(phone: Browser, api: SessionAPI) -> None:
    """The first write with the dead cookie starts a new, anonymous session."""
    dead = id_of(phone)
    phone.does(lambda s: s.set("k", 1))
    session = phone.visit()
    assert (session.all(), session.userid(), id_of(phone) == dead) == ({"k": 1}, None, False)


def test_second_write_is_refused(phone: Browser) -> None:
    """It starts one session: another request with the dead cookie is refused, and so is a third."""
    late = [Browser(phone.api, phone.jar) for _ in range(2)]
    phone.does(lambda s: s.set("k", 1))
    for browser in late:
        with pytest.raises(SessionGone):
            browser.visit().set("k", 2)
        assert browser.answer().headers.getall("Set-Cookie") == []
    assert phone.visit().get("k") == 1


def test_login_starts_a_session(phone: Browser) -> None:
    """A login with the dead cookie signs in, and late writes with it are refused."""
    late = Browser(phone.api, phone.jar)
    phone.does(login)
    with pytest.raises(SessionGone):
        late.visit().set("k", 1)
    assert phone.visit().userid() == "ann"


def test_login_after_the_birth(phone: Browser) -> None:
    """A login that comes with the dead cookie after a session was born of it signs in all the
    same."""
    late = Browser(phone.api, phone.jar)
    phone.does(lambda s: s.set("k", 1))
    late.does(login)
    assert late.visit().userid() == "ann"


def test_what_stores_nothing_starts_nothing(phone: Browser, watched: Watched) -> None:
    """remove, pop, touch and renew find nothing and leave the new session to who stores."""
    session = phone.visit()
    assert (session.remove("k"), session.pop("k", 0), session.touch()) == (0, 0, False)
    phone.answer()
    phone.does(lambda s: s.set("k", 1))
    assert phone.visit().get("k") == 1


def test_logout_with_the_dead_cookie(phone: Browser) -> None:
    """A sign-out finds no session, drops no cookie and starts nothing."""
    assert phone.visit().logout() is False
    assert phone.answer().headers.getall("Set-Cookie") == []
    phone.does(lambda s: s.set("k", 1))
    assert phone.visit().get("k") == 1


def test_two_writes_of_the_request_that_starts_it(phone: Browser) -> None:
    """One request's read, writes and reads all see the one new session."""
    session = phone.visit()
    assert session.get("k") is None
    session.set("k", 1)
    assert (session.increment("k"), session.new) == (2, True)
    phone.answer()
    assert phone.visit().get("k") == 2


def test_costs(phone: Browser, watched: Watched) -> None:
    """The birth costs what a write with an expired cookie does: two round trips."""
    with watched.costs(2):
        phone.does(lambda s: s.set("k", 1))


def test_birth_that_failed_is_tried_again(phone: Browser, watched: Watched) -> None:
    """A request whose new session could not be made may try again: it has the right to it."""

    def fail(operation: Operation) -> None:
        if isinstance(operation, Write) and operation.create:
            watched.before = lambda operation: None
            raise StoreFull("full")

    session = phone.visit()
    watched.before = fail
    with pytest.raises(StoreFull):
        session.set("k", 1)
    session.set("k", 2)
    phone.answer()
    assert phone.visit().get("k") == 2


def test_request_that_saw_the_session_alive(api: SessionAPI) -> None:
    """A request that saw the session alive is told that it is gone, and starts none."""
    browser = signed_in(api)
    session = browser.visit()
    session.get("cart")
    api.invalidate_user("ann")
    for _ in range(2):
        with pytest.raises(SessionGone):
            session.set("k", 1)
    assert browser.answer().headers.getall("Set-Cookie") == []
    browser.does(lambda s: s.set("k", 1))
    assert browser.visit().get("k") == 1


def test_without_a_window(watched: Watched) -> None:
    """With gone_window 0 there is no tombstone: the dead cookie is an expired one."""
    browser = signed_in(api := api_on(watched, gone_window=0))
    api.invalidate_user("ann")
    browser.does(lambda s: s.set("k", 1))
    assert browser.visit().get("k") == 1


def ended_by_id(api: SessionAPI, browser: Browser, books: Books) -> None:
    api.invalidate_id(id_of(browser))


def ended_by_limit(api: SessionAPI, browser: Browser, books: Books) -> None:
    signed_in(api_on(store_in(api), max_sessions_per_user=1))


def ended_by_worker(api: SessionAPI, browser: Browser, books: Books) -> None:
    api.open(str(browser.jar)).invalidate()


def ended_by_reuse(api: SessionAPI, browser: Browser, books: Books) -> None:
    """An old cookie that comes back long after a periodic renewal."""
    reusing = api_on(store_in(api), on_reuse="invalidate", renew_after=60, renew_grace=1)
    old, id = browser.jar, id_of(browser)
    books.pass_time(id, 61)
    holder = Browser(reusing, browser.jar)
    holder.does(lambda s: s.get("cart"))
    holder.does(lambda s: s.get("cart"))
    books.pass_time(id, 30)
    Browser(reusing, old).does(lambda s: s.get("cart"))
    browser.jar = holder.jar


@pytest.mark.parametrize("end", [ended_by_id, ended_by_limit, ended_by_worker, ended_by_reuse])
def test_every_end_from_elsewhere(
    api: SessionAPI, books: Books, end: Callable[[SessionAPI, Browser, Books], None]
) -> None:
    """However a session was ended without a word to its browser, the browser is served at its
    next request."""
    browser = signed_in(api)
    before = browser.jar
    end(api, browser, books)
    assert browser.jar == before or end is ended_by_reuse
    dead = Browser(api, browser.jar)
    assert dead.visit().userid() is None
    dead.does(lambda s: s.set("k", 1))
    assert dead.visit().get("k") == 1
    with pytest.raises(SessionGone):
        Browser(api, browser.jar).visit().set("k", 2)


def test_reused_cookie_starts_one_session(watched: Watched, books: Books) -> None:
    """The request whose reused cookie ends the session may start the one that follows: then its
    holder's dead cookie starts no second one."""
    api = api_on(watched, on_reuse="invalidate", renew_after=60, renew_grace=1)
    old = signed_in(api)
    holder, id = Browser(api, old.jar), id_of(old)
    books.pass_time(id, 61)
    holder.does(lambda s: s.get("cart"))
    holder.does(lambda s: s.get("cart"))
    books.pass_time(id, 30)
    old.does(lambda s: s.set("k", 1))
    with pytest.raises(SessionGone):
        holder.visit().set("k", 2)
    assert old.visit().get("k") == 1


def test_tombstone_of_an_own_logout(api: SessionAPI, books: Books) -> None:
    """A logout of the browser's own owes it nothing: a late write is refused."""
    browser = signed_in(api)
    late = Browser(api, browser.jar)
    browser.does(lambda s: s.logout())
    with pytest.raises(SessionGone):
        late.visit().set("k", 1)
    assert set(books.fields(id_of(late))) == {"@x"}


def test_form_with_a_token(server: Server) -> None:
    """A sign-in page that stores its CSRF token, and the form that is posted from it, work at once
    for a visitor who was signed out from elsewhere. One who was told gets a page that says when to
    come back, and in plain words why."""

    def page(request: Request) -> str:
        return str(request.session.get_csrf_token())

    def post(request: Request) -> str | None:
        assert request.POST["token"] == request.session.get_csrf_token()
        request.altsession.login("ann")
        return str(request.altsession.userid())

    def out(request: Request) -> bool:
        return bool(request.altsession.logout())

    browser = site(
        server.url,
        {"page": page, "post": post, "out": out},
        settings={"altsession.sync.enabled": "true"},
    )
    browser.post("/post", {"token": browser.get("/page").json})
    browser.api.invalidate_user("ann")
    assert browser.post("/post", {"token": browser.get("/page").json}).json == "ann"
    late = browser.other()
    browser.get("/out")
    refused = late.get("/page", status=409)
    assert refused.headers["Retry-After"] == "1"
    assert "Please reload the page" in refused.text
    browser.api.close()


def test_full_server() -> None:
    """On a full server the login of a browser that was signed out from elsewhere works."""
    full = valkey()
    store = open_store(read_settings({"redis": {"url": full.url}}))
    api = api_on(store)
    browser = signed_in(api)
    api.invalidate_user("ann")
    full.client.config_set("maxmemory-policy", "noeviction")
    full.client.config_set("maxmemory", 1)
    with pytest.raises(StoreFull):
        Browser(api, browser.jar).visit().set("k", 1)
    browser.does(login)
    late = Browser(api, browser.jar)
    assert (browser.visit().userid(), api.invalidate_user("ann")) == ("ann", 1)
    assert late.visit().userid() is None
    store.close()
    full.stop()


# -- what the stores do


def test_tombstone_that_owes(store: Store) -> None:
    """OWED for who asks without a mark, then for the first mark and for it again; ENDED for every
    other."""
    token = Token.new()
    store.execute(Write(token.claim, (Set("a", b"1"),), TIMING, create=True))
    life = Invalidate(b"n", told=False)
    end = Write(Claim(token.id, b""), (), TIMING, anybody=True, life=life)
    assert store.execute(end).state is State.LIVE

    def asked(mark: bytes) -> State:
        return store.execute(Write(token.claim, (Set("a", b"2"),), TIMING, mark=mark)).state

    one, other = b"1" * 16, b"2" * 16
    marks = (b"", one, one, other, b"")
    expected = [State.OWED, State.OWED, State.OWED, State.ENDED, State.ENDED]
    assert [asked(mark) for mark in marks] == expected


def test_end_many(store: Store) -> None:
    """Each id's session of that user is ended; others' are not. A repeated one says the same."""
    api = api_on(store)
    mine, others = [signed_in(api) for _ in range(3)], signed_in(api, "bob")
    ids = tuple([id_of(browser) for browser in (*mine, others)])
    end = End("ann", (*ids, "x" * 22), b"n" * 16, TIMING)
    for _ in range(2):
        assert store.execute(end).values == [True, True, True, False, False]
    assert (api.sessions_of("ann"), others.visit().userid()) == ([], "bob")


def test_end_many_after_a_flush_of_the_scripts(any_server: Server) -> None:
    """The packet brings the script along, so a server that has forgotten it needs no other."""
    store = open_store(read_settings({"redis": {"url": any_server.url}}))
    browser = signed_in(api_on(store))
    any_server.client.script_flush()
    end = End("ann", (id_of(browser), "x" * 22), b"n" * 16, TIMING)
    assert store.execute(end).values == [True, False]
    store.close()


def test_end_many_while_the_scripts_are_flushed(
    any_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that forgets the script in the middle of the packet is asked once more, and what was
    ended before counts."""
    store = open_store(read_settings({"redis": {"url": any_server.url}}))
    api = api_on(store)
    ids = tuple([id_of(signed_in(api)) for _ in range(2)])
    exchange, flushed = lease_in(store).exchange, []

    def forgetful(*arguments: Any) -> list[Any]:
        answers: list[Any] = exchange(*arguments)
        if not flushed:
            flushed.append(True)
            answers[-1] = NoScriptError("NOSCRIPT No matching script")
        return answers

    monkeypatch.setattr(lease_in(store), "exchange", forgetful)
    assert store.execute(End("ann", ids, b"n" * 16, TIMING)).values == [True, True]
    assert api.sessions_of("ann") == []
    store.close()


def test_crowded_login_ends_nothing(api: SessionAPI, watched: Watched) -> None:
    """A login that is refused since the user has enough sessions leaves another user's session, on
    which it was tried, as it was."""
    limited = api_on(watched, max_sessions_per_user=1, on_max_sessions="deny")
    signed_in(limited, "bob")
    browser = signed_in(limited)
    with pytest.raises(TooManySessions, match="has 1 sessions"):
        browser.visit().login("bob")
    assert browser.visit().mget(["cart"]) == {"cart": [1, 2]}
    assert browser.visit().userid() == "ann"


# -- an index that lost its entries


def test_eviction_hides_no_session(api: SessionAPI, books: Books) -> None:
    """A session whose index was evicted when its user was logged out everywhere is ended at its
    next touch, and says so at the next call."""
    browser = signed_in(api)
    books.pass_time(id_of(browser), 200)
    books.lose_index("ann")
    assert api.invalidate_user("ann") == 0
    session = browser.visit()
    session.get("cart")
    with pytest.raises(SessionGone):
        session.get("other")
    assert browser.visit().userid() is None
    browser.does(lambda s: s.set("k", 1))  # nobody has told it
    assert browser.visit().get("k") == 1


def test_eviction_hides_no_remembered_session(api: SessionAPI, books: Books) -> None:
    """A remembered session meets the index once in touch_interval too, though no touch prolongs
    it."""
    browser = signed_in(api, remember=30 * DAY)
    books.pass_time(id_of(browser), 200)
    books.lose_index("ann")
    api.invalidate_user("ann")
    browser.does(lambda s: s.get("cart"))
    assert browser.visit().userid() is None


def test_write_meets_the_index(api: SessionAPI, books: Books) -> None:
    """So does a write in a request that knows the user."""
    browser = signed_in(api)
    books.pass_time(id_of(browser), 1)
    books.lose_index("ann")
    api.invalidate_user("ann")
    session = browser.visit()
    assert session.userid() == "ann"
    with pytest.raises(SessionGone):
        session.set("k", 1)
    assert browser.visit().userid() is None


@pytest.mark.parametrize("remember", [None, 30 * DAY])
def test_lost_entry_is_put_back(api: SessionAPI, books: Books, remember: float | None) -> None:
    """Without a revocation the entry comes back, with the time of the login."""
    browser = signed_in(api, remember=remember)
    books.pass_time(id_of(browser), 200)
    expected = int(books.fields(id_of(browser))["@l"])
    books.lose_index("ann")
    browser.does(lambda s: s.get("cart"))
    assert books.index("ann") == {id_of(browser): expected}
    assert api.invalidate_user("ann") == 1


def test_remembered_session_meets_it_once(api: SessionAPI, watched: Watched, books: Books) -> None:
    """A remembered session that is only read is touched once in touch_interval."""
    browser = signed_in(api, remember=30 * DAY)
    books.pass_time(id_of(browser), 200)
    before = watched.touches
    for _ in range(10):
        browser.does(lambda s: s.get("cart"))
    assert watched.touches - before == 1


def test_session_that_is_kept(api: SessionAPI, books: Books) -> None:
    """keep stays, with an index that was evicted too."""
    browser, other = signed_in(api), signed_in(api)
    for id in (id_of(browser), id_of(other)):
        books.pass_time(id, 200)
    books.lose_index("ann")
    api.invalidate_user("ann", keep=id_of(browser))
    for each in (browser, other):
        each.does(lambda s: s.get("cart"))
    assert [b.visit().userid() for b in (browser, other)] == ["ann", None]


def test_login_after_a_revocation(api: SessionAPI, books: Books) -> None:
    """A session of a later login stays, however often the index is lost."""
    browser = signed_in(api)
    api.invalidate_user("ann")
    browser.does(login)
    id = id_of(browser)
    revoked = books.members("ann")[REVOKED]
    books.pass_time(id, 200)
    books.lose_index("ann")
    books.put_entry("ann", REVOKED, revoked - 300_000)
    browser.does(lambda s: s.get("cart"))
    assert (browser.visit().userid(), list(books.index("ann"))) == ("ann", [id])


def test_revocation_is_no_session(api: SessionAPI, watched: Watched, books: Books) -> None:
    """The note in the index is neither listed, nor counted by a limit, nor drawn in a sample."""
    limited = api_on(watched, max_sessions_per_user=1, on_max_sessions="deny")
    limited.invalidate_user("ann")
    assert limited.sessions_of("ann") == []
    browser = signed_in(limited)
    assert [known.id for known in limited.sessions_of("ann")] == [id_of(browser)]
    assert [id for id, _ in watched.store.execute(Listing("ann", 64)).values] == [id_of(browser)]
    assert watched.store.execute(Listing("ann", 1)).values != [REVOKED]


def test_revocation_outlasts_every_session(server: Server) -> None:
    """The note stands for as long as a session may last, and a later login does not shorten it."""
    api = api_on(open_store(read_settings({"redis": {"url": server.url}})))
    books = Books(store_in(api), server.client)
    api.invalidate_user("ann")
    signed_in(api)
    assert books.index_left("ann") > 399 * DAY
    api.close()


# -- an index that does not grow


def test_index_is_bounded(api: SessionAPI, books: Books) -> None:
    """Logins whose sessions end by themselves leave no more entries behind than a login looks
    at."""
    alive = signed_in(api)
    for number in range(200):
        browser = Browser(api)
        browser.does(login)
        id = id_of(browser)
        if books.client is None:
            books.end_in(id, 0)
        else:
            books.client.delete(f"sess:{id}")
        if id in books.index("ann"):
            books.put_entry("ann", id, books.index("ann")[id] - 100_000 - number)
    assert len(books.index("ann")) <= 20
    assert [known.id for known in api.sessions_of("ann")] == [id_of(alive)]


def test_usual_login_does_not_look(api: SessionAPI, watched: Watched) -> None:
    """A login costs one round trip; each sixteenth entry, three more at most."""
    for number in range(1, 33):
        with watched.costs(1 if number % 16 else 3):
            Browser(api).does(login)


def test_look_that_fails(api: SessionAPI, watched: Watched) -> None:
    """The user is signed in when the look at the index fails."""
    for _ in range(15):
        Browser(api).does(login)

    def fail(operation: Operation) -> None:
        if isinstance(operation, Listing):
            raise StoreFull("full")

    watched.before = fail
    browser = Browser(api)
    browser.does(login)
    assert browser.visit().userid() == "ann"


def test_many_are_ended_in_few_packets(watched: Watched) -> None:
    """Logging out everywhere takes one round trip, and one for 500 sessions."""
    api = api_on(watched)
    for _ in range(MANY + 1):
        session = api.create()
        session.login("ann")
    before = len(watched.operations)
    assert api.invalidate_user("ann") == MANY + 1
    assert len(watched.operations) - before == 3


def test_sample_is_bounded(watched: Watched) -> None:
    """However many entries there are, a look draws a bounded number, each of them once."""
    memory = MemoryStore()
    memory.indexes["ann"] = {f"{number:022d}": 1 for number in range(1000)}
    drawn = memory.execute(Listing("ann", SAMPLE)).values
    assert (len(drawn), len(set(drawn))) == (SAMPLE, SAMPLE)
    assert memory.execute(Prune("ann", tuple(drawn))).values == SAMPLE
