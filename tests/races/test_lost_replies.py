"""Calls whose reply is lost, and what comes after them in the same request; what of one session may
reach another; cookies that come several times."""

from collections.abc import Callable
from typing import Any

import pytest
from accounts import Books, api_on, id_of, signed_in
from apps import Browser, Repeating, Watched, site
from pyramid.request import Request

from pyramid_altsession import AltSession, SessionAPI, SessionGone, StoreUnavailable
from pyramid_altsession.config.sources import read_settings
from pyramid_altsession.events import SessionRenewed, TokenRejected
from pyramid_altsession.interfaces import Store
from pyramid_altsession.protocol.fields import State
from pyramid_altsession.protocol.lifecycle import Renew
from pyramid_altsession.protocol.messages import Operation, Read, Reply, Write
from pyramid_altsession.protocol.state import SessionState
from pyramid_altsession.protocol.token import Token, new_verifier
from pyramid_altsession.protocol.verbs import Set
from pyramid_altsession.stores.memory import MemoryStore
from pyramid_altsession.web.cookie import SessionCookie
from pyramid_altsession.web.request_session import SyncSession
from pyramid_altsession.web.tween import NAME

DAY = 86400
ONE, TWO = "one-secret-of-thirty-two-letters", "two-secret-of-thirty-two-letters"


@pytest.fixture
def api(watched: Watched) -> SessionAPI:
    return api_on(watched)


@pytest.fixture
def visitor(api: SessionAPI) -> Browser:
    """A browser with a session that nobody is signed in on."""
    browser = Browser(api)
    browser.does(lambda s: s.mset({"cart": [1, 2], "_csrft_": "planted"}))
    return browser


@pytest.fixture
def lose(watched: Watched) -> Callable[[], None]:
    """Lose the reply of the next write, which is carried out."""

    def after(operation: Operation) -> None:
        if isinstance(operation, Write):
            watched.after = lambda operation: None
            raise StoreUnavailable("the reply is lost")

    def arm() -> None:
        watched.after = after

    return arm


def login(session: AltSession) -> None:
    session.login("ann")


def lost(call: Callable[[], object], lose: Callable[[], None]) -> None:
    lose()
    with pytest.raises(StoreUnavailable):
        call()


# -- a lost reply belongs to its own call


def test_login_after_a_lost_login(visitor: Browser, lose: Callable[[], None]) -> None:
    """A login of bob after one of ann whose reply was lost signs bob in, and ann's session is
    over."""
    session = visitor.visit()
    lost(lambda: session.login("ann"), lose)
    session.login("bob")
    assert session.userid() == "bob"
    visitor.answer()
    later = visitor.visit()
    assert (later.userid(), later.get("cart")) == ("bob", None)
    assert visitor.api.sessions_of("ann") == []


def test_same_login_again(visitor: Browser, lose: Callable[[], None]) -> None:
    """The same login again keeps the data, and the browser has a cookie that is good."""
    session = visitor.visit()
    lost(lambda: session.login("ann"), lose)
    session.login("ann")
    visitor.answer()
    later = visitor.visit()
    assert later.mget(["cart", "_csrft_"]) == {"cart": [1, 2], "_csrft_": None}
    assert (later.userid(), len(visitor.api.sessions_of("ann"))) == ("ann", 1)


def test_login_after_a_lost_renewal(visitor: Browser, lose: Callable[[], None]) -> None:
    """renew() whose reply was lost, then a login: the user is signed in, with the data."""
    session = visitor.visit()
    lost(session.renew, lose)
    session.login("ann")
    visitor.answer()
    assert (visitor.visit().userid(), visitor.visit().get("cart")) == ("ann", [1, 2])


@pytest.mark.parametrize("seen", [False, True])
@pytest.mark.parametrize("executed", [False, True])
def test_going_on_after_a_lost_renewal(
    visitor: Browser, watched: Watched, lose: Callable[[], None], seen: bool, executed: bool
) -> None:
    """Whether the renewal was carried out or not: reads and writes of the same request go on, and
    the browser ends up with a cookie that is good."""
    session = visitor.visit()
    if seen:
        session.get("cart")
    if executed:
        lost(session.renew, lose)
    else:
        watched.before, before = raising, watched.before
        with pytest.raises(StoreUnavailable):
            session.renew()
        watched.before = before
    assert session.increment("n") == 1
    assert session.mget(["cart", "n"]) == {"cart": [1, 2], "n": 1}
    visitor.answer()
    assert visitor.visit().get("n") == 1


def raising(operation: Operation) -> None:
    raise StoreUnavailable("nothing was sent")


def test_cookie_of_a_remembered_login(visitor: Browser, lose: Callable[[], None]) -> None:
    """A login that a later read finds carried out is told to the browser with its own age, and to
    subscribers."""
    session = visitor.visit()
    lost(lambda: session.login("ann", remember=30 * DAY), lose)
    assert session.userid() == "ann"
    (cookie,) = visitor.answer().headers.getall("Set-Cookie")
    assert "Max-Age=259" in cookie
    assert visitor.visit().userid() == "ann"


def test_subscribers_hear_of_it(watched: Watched, lose: Callable[[], None]) -> None:
    """They are told of the renewal when it is known."""
    told: list[Any] = []
    browser = signed_in(api_on(watched, told.append))
    session = browser.visit()
    told.clear()
    lost(session.renew, lose)
    assert told == []
    session.get("cart")
    (event,) = told
    assert (type(event), event.reason) == (SessionRenewed, "lost reply")


def test_session_that_is_gone_after_a_lost_renewal(
    visitor: Browser, api: SessionAPI, lose: Callable[[], None]
) -> None:
    """Ended from elsewhere meanwhile, it is gone."""
    session = visitor.visit()
    session.get("cart")
    lost(session.renew, lose)
    api.invalidate_id(id_of(visitor))
    with pytest.raises(SessionGone):
        session.set("k", 1)


def test_logout_after_a_lost_logout(visitor: Browser, lose: Callable[[], None]) -> None:
    """The second logout of the request finds what the first one did: the cookie is dropped."""
    session = visitor.visit()
    session.get("cart")
    lost(session.logout, lose)
    assert session.logout() is True
    visitor.answer()
    assert visitor.jar is None


def test_retried_request(server: Any) -> None:
    """pyramid_retry: the second attempt's writes are carried out, and not those of the first, whose
    reply was lost, taken for them."""
    attempts: list[str] = []

    def view(request: Request) -> Any:
        user, n = [("ann", 1), ("bob", 2)][len(attempts)]
        attempts.append(user)
        request.session["auth.userid"] = user
        request.session["n"] = n
        return {}

    def configure(config: Any) -> None:
        config.include("pyramid_retry")
        config.add_tween("test_lost_replies.losing_tween", over=NAME)

    browser = site(
        server.url,
        {
            "first": lambda r: r.altsession.set("x", 1),
            "sign": view,
            "all": lambda r: r.altsession.all(),
        },
        settings={"altsession.sync.enabled": "true"},
        configure=configure,
    )
    browser.get("/first")

    def after(operation: Operation) -> None:
        if isinstance(operation, Write) and attempts == ["ann"]:
            browser.watched.after = lambda operation: None
            raise StoreUnavailable("the reply is lost")

    browser.watched.after = after
    browser.get("/sign")
    assert attempts == ["ann", "bob"]
    assert browser.get("/all").json == {"auth.userid": "bob", "n": 2, "x": 1}
    browser.api.close()


def losing_tween(handler: Any, registry: Any) -> Any:
    """Ask for another attempt where the store is away."""
    from pyramid_retry import RetryableException

    def tween(request: Request) -> Any:
        response = handler(request)
        if response.status_int == 503:
            raise RetryableException
        return response

    return tween


def test_repeated_birth_that_signs_in(store: Store, books: Books) -> None:
    """A dead cookie, and a write-back that signs in: its script, sent again as its reply was lost,
    finds the session that it made, and there is no other."""

    browser = Browser(api_on(store))
    browser.does(login)
    browser.api.invalidate_user("ann")
    browser.api = api_on(Repeating(store))
    session = browser.visit()
    before = books.ids()
    sign_in = session.driver.state.write(Set("auth.userid", b'"bob"'), life=Renew(new_verifier()))
    session.driver.execute(sign_in)
    browser.answer()
    assert len(books.ids()) == len(before) + 1
    assert browser.visit().get("auth.userid") == "bob"


# -- nothing of one session reaches another


def carry_over(session: AltSession) -> SyncSession:
    """request.session, with a change of ann's that is not written yet."""
    layer = SyncSession(session, None, ())
    layer["orders"] = [*layer.get("orders", []), "ann's"]
    layer["cart"].append("ann's")
    layer.flash("ann's")
    return layer


ENDS: dict[str, Callable[[Browser], object]] = {
    "ended": lambda browser: browser.api.invalidate_id(id_of(browser)),
    "renewed elsewhere": lambda browser: Browser(browser.api, browser.jar).does(
        lambda s: s.renew()
    ),
    "signed out elsewhere": lambda browser: Browser(browser.api, browser.jar).does(
        lambda s: s.logout()
    ),
    "none": lambda browser: None,
}


@pytest.mark.parametrize("how", [*ENDS, "expired"])
@pytest.mark.parametrize("told", [False, True])
def test_unwritten_changes_stay_behind(api: SessionAPI, books: Books, how: str, told: bool) -> None:
    """What ann's request.session holds and has not written does not reach the session that a login
    of bob's begins, however ann's came to its end."""
    browser = signed_in(api)
    session = browser.visit()
    layer = carry_over(session)
    if how == "expired":
        books.end_in(id_of(browser), 0)
    else:
        ENDS[how](browser)
    if told and how != "none":
        with pytest.raises(SessionGone):
            session.get("another")
    session.login("bob")
    layer.write_back()
    browser.answer()
    assert browser.visit().all() == {}
    assert browser.visit().userid() == "bob"


def test_changes_of_an_anonymous_session_go_along(visitor: Browser) -> None:
    """A login on a live anonymous session takes along what is not written yet."""
    session = visitor.visit()
    layer = SyncSession(session, None, ())
    layer["cart"].append(3)
    session.login("ann")
    layer.write_back()
    visitor.answer()
    assert visitor.visit().all() == {"cart": [1, 2, 3]}


def test_failed_logout_keeps_what_is_not_written(visitor: Browser, watched: Watched) -> None:
    """A logout that fails has ended nothing: the changes are written at the end."""
    session = visitor.visit()
    layer = SyncSession(session, None, ())
    layer["cart"].append(3)
    watched.before, before = raising, watched.before
    with pytest.raises(StoreUnavailable):
        session.logout()
    watched.before = before
    layer.write_back()
    assert visitor.visit().get("cart") == [1, 2, 3]


def test_pending_cookie_of_a_session_that_ended(api: SessionAPI) -> None:
    """The cookie of a session that was made in this request and has ended since is not sent."""
    browser = Browser(api)
    session = browser.visit()
    session.set("k", 1)
    api.invalidate_id(str(session.id))
    with pytest.raises(SessionGone):
        session.get("other", fresh=True)
    assert browser.answer().headers.getall("Set-Cookie") == []


def test_login_that_fails_after_anothers_session(visitor: Browser, watched: Watched) -> None:
    """A login on another user's session whose new session cannot be made is an outage, and a second
    try succeeds."""
    visitor.does(login)

    def fail(operation: Operation) -> None:
        if isinstance(operation, Write) and operation.create:
            raise StoreUnavailable("away")

    session = visitor.visit()
    watched.before, before = fail, watched.before
    with pytest.raises(StoreUnavailable):
        session.login("bob")
    watched.before = before
    session.login("bob")
    visitor.answer()
    assert visitor.visit().userid() == "bob"


def test_first_login_that_fails_on_anothers_new_session(api: SessionAPI, watched: Watched) -> None:
    """The same in a request without a cookie that signed ann in before."""

    def fail(operation: Operation) -> None:
        if isinstance(operation, Write) and operation.create:
            raise StoreUnavailable("away")

    browser = Browser(api)
    session = browser.visit()
    session.login("ann")
    watched.before, before = fail, watched.before
    with pytest.raises(StoreUnavailable):
        session.login("bob")
    watched.before = before
    session.set("k", 1)
    browser.answer()
    assert (browser.visit().all(), browser.visit().userid()) == ({"k": 1}, None)


# -- renewals that are due


WRITES: dict[str, Callable[[AltSession], object]] = {
    "increment": lambda s: s.increment("n"),
    "set": lambda s: s.set("k", 1),
    "touch": lambda s: s.touch(),
    "batch": lambda s: in_batch(s),
}


def in_batch(session: AltSession) -> None:
    with session.batch() as batch:
        batch.get("cart")
        batch.set("k", 1)


@pytest.mark.parametrize("name", WRITES)
def test_first_call_is_a_write(watched: Watched, books: Books, name: str) -> None:
    """A request whose first call is a write renews a verifier that is due, once."""
    api = api_on(watched, renew_after=600, tti=5000)
    browser = signed_in(api)
    before = browser.jar
    browser.does(WRITES[name])
    assert browser.jar == before
    books.pass_time(id_of(browser), 601)
    browser.does(WRITES[name])
    renewed = browser.jar
    browser.does(WRITES[name])
    assert (renewed == before, browser.jar == renewed) == (False, True)


def test_write_of_an_anonymous_session(watched: Watched, books: Books) -> None:
    """An anonymous session is not renewed."""
    browser = Browser(api_on(watched, renew_after=600, tti=5000))
    browser.does(lambda s: s.set("k", 1))
    before = browser.jar
    books.pass_time(id_of(browser), 601)
    browser.does(lambda s: s.set("k", 2))
    assert browser.jar == before


# -- cookies that come several times


def test_older_cookie_of_the_same_session_first(watched: Watched, books: Books) -> None:
    """With an older cookie of the same session in front, as after a change of the domain, a write
    reaches the session: it is not ended as reused, and nothing is reported."""
    told: list[Any] = []
    api = api_on(
        watched, told.append, on_reuse="invalidate", renew_after=60, renew_grace=1, gone_window=1
    )
    browser = signed_in(api)
    old, id = browser.jar, id_of(browser)
    books.pass_time(id, 61)
    browser.does(lambda s: s.get("cart"))
    browser.does(lambda s: s.get("cart"))
    books.pass_time(id, 30)
    told.clear()
    both = Browser(api, f"{old}; sid={browser.jar}")
    with watched.costs(2):
        both.visit().set("k", 1)
    assert (told, browser.visit().get("k")) == ([], 1)


def test_stale_cookie_first(watched: Watched) -> None:
    """A stale cookie in front of the live one is not reported either."""
    told: list[Any] = []
    api = api_on(watched, told.append, gone_window=0)
    browser = signed_in(api)
    old = browser.jar
    browser.does(lambda s: s.renew())
    told.clear()
    both = Browser(api, f"{old}; sid={browser.jar}")
    both.visit().login("ann")
    assert [type(event) for event in told] == [SessionRenewed]
    Browser(api, old).visit().set("k", 1)
    assert TokenRejected in [type(event) for event in told]


@pytest.fixture(params=["live", "dead"])
def twice(request: pytest.FixtureRequest, store: Store) -> Browser:
    """A browser that sends one token under two signatures."""
    api = api_on(store, secret=[ONE, TWO])
    token = Token.new()
    session = read_settings({"session": {"secret": [TWO]}}).session
    other = SessionCookie(session)
    if request.param == "live":
        browser = Browser(api)
        browser.does(lambda s: s.set("k", 0))
        id, verifier, _ = str(browser.jar).split(".")
        token = Token(id, verifier)
    own = SessionCookie(api.settings.session)
    return Browser(api, f"{own.value(token)}; sid={other.value(token)}")


def test_one_token_under_two_signatures(twice: Browser) -> None:
    """It is one candidate: reads and writes end, with a session and without."""
    session = twice.visit()
    session.set("k", 1)
    assert session.get("k", fresh=True) == 1
    assert twice.visit().get("other") is None


def test_answers_that_contradict_each_other() -> None:
    """A server that says no to each new name is an outage, not an endless loop."""

    class Contrary(MemoryStore):
        def execute(self, operation: Operation) -> Reply:
            return Reply(State.DEAD, [State.DEAD] if isinstance(operation, Read) else ())

    with pytest.raises(StoreUnavailable, match="contradict"):
        Browser(api_on(Contrary())).visit().set("k", 1)


# -- guards taken out


def same_verifier(monkeypatch: pytest.MonkeyPatch) -> None:
    """One verifier for all calls of a request, as an idempotency key that belongs to none."""
    verifier = Token.new().verifier
    monkeypatch.setattr("pyramid_altsession.protocol.calls.new_verifier", lambda: verifier)
    monkeypatch.setattr("pyramid_altsession.protocol.state.SessionState.choice", lambda state: None)


def test_mutant_same_verifier(
    monkeypatch: pytest.MonkeyPatch, visitor: Browser, lose: Callable[[], None]
) -> None:
    """With it the login of bob hands out ann's session."""
    same_verifier(monkeypatch)
    session = visitor.visit()
    lost(lambda: session.login("ann"), lose)
    session.login("bob")
    visitor.answer()
    assert visitor.visit().userid() == "ann"


def test_mutant_nothing_left_behind(monkeypatch: pytest.MonkeyPatch, api: SessionAPI) -> None:
    """Without the clearing up, ann's order reaches bob."""
    monkeypatch.setattr(SessionState, "_leave", lambda state: None)
    browser = signed_in(api)
    session = browser.visit()
    layer = carry_over(session)
    ENDS["ended"](browser)
    session.login("bob")
    layer.write_back()
    browser.answer()
    assert browser.visit().get("orders") == ["ann's"]
