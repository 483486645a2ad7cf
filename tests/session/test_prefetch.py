"""``prefetch``: the read goes out now, its answer is taken when it is needed, or never."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from apps import Browser, Watched, site
from inside import idle_in, lease_in, places_in, state_in
from pyramid.request import Request
from servers import Server
from workers import LIMIT, api_at, in_fork, pool_of, storm, token_of

from pyramid_altsession import (
    AltSession,
    CorruptValue,
    InvalidKey,
    SessionAPI,
    SessionGone,
    SessionKey,
    StoreUnavailable,
)
from pyramid_altsession.config.sources import read_settings
from pyramid_altsession.protocol.messages import Read
from pyramid_altsession.protocol.steps import Prefetch


@pytest.fixture
def api(watched: Watched) -> SessionAPI:
    return SessionAPI(read_settings({"session": {"secure": False}}), store=watched)


@pytest.fixture
def browser(api: SessionAPI) -> Browser:
    """A browser whose session holds cart, name and user."""
    browser = Browser(api)
    browser.does(lambda s: s.mset({"cart": [1], "name": "Ann", "user": "a"}))
    return browser


def test_prefetch_is_one_read(browser: Browser, watched: Watched) -> None:
    """The keys come in one round trip, which the calls that take them do not repeat."""
    session = browser.visit()
    with watched.costs(1):
        session.prefetch("cart", "name", "nope")
        found = session.get("cart"), session.mget(["name", "nope"])
    assert found == ([1], {"name": "Ann", "nope": None})


def test_prefetch_goes_out_at_once(server: Server) -> None:
    """The server has answered before anybody asks for the keys."""
    api = api_at(server.url)
    session = api.open(token_of(api.create({"cart": 1})))
    before = reads(server)
    session.prefetch("cart")
    (operation, sending) = state_in(session).sent or (None, None)
    assert operation is not None
    sent = sending._sent  # type: ignore[union-attr]
    while not sent.arrived:
        pass
    assert reads(server) - before == 1
    assert session.get("cart") == 1
    assert reads(server) - before == 1
    api.close()


def reads(server: Server) -> int:
    return int(server.client.info("commandstats").get("cmdstat_hmget", {}).get("calls", 0))


def test_known_keys_are_not_asked_again(browser: Browser, watched: Watched) -> None:
    """What the request has read or written already costs nothing."""
    session = browser.visit()
    session.get("cart")
    session.set("name", "Bob")
    with watched.costs(0):
        session.prefetch("cart", "name")
        session.prefetch()


def test_other_keys_come_by_themselves(browser: Browser, watched: Watched) -> None:
    """A key that was not asked for is read after the prefetch is taken."""
    session = browser.visit()
    session.prefetch("cart")
    with watched.costs(1):
        assert session.get("name") == "Ann"
    with watched.costs(0):
        assert session.get("cart") == [1]


def test_a_second_prefetch(browser: Browser, watched: Watched) -> None:
    """It asks for what the first one did not, and both are taken."""
    session = browser.visit()
    with watched.costs(2):
        session.prefetch("cart")
        session.prefetch("cart", "name")
        assert (session.get("name"), session.get("cart")) == ("Ann", [1])


def test_without_a_cookie(api: SessionAPI, watched: Watched) -> None:
    """A stranger's prefetch costs nothing, and the keys are absent."""
    session = Browser(api).visit()
    with watched.costs(0):
        session.prefetch("cart")
        assert session.get("cart", 7) == 7


def test_with_a_dead_cookie(browser: Browser, watched: Watched) -> None:
    """An expired session is found dead when the answer is taken; a write makes a new one."""
    Browser(browser.api, browser.jar).does(lambda s: s.invalidate())
    session = browser.visit()
    session.prefetch("cart")
    assert session.get("cart", "none") == "none"


@pytest.mark.parametrize("key", ["", "@v", 7, None])
def test_bad_keys(browser: Browser, watched: Watched, key: Any) -> None:
    """InvalidKey before anything is sent."""
    session = browser.visit()
    with watched.costs(0), pytest.raises(InvalidKey):
        session.prefetch("cart", key)


def test_session_keys(browser: Browser) -> None:
    """A SessionKey can be asked for as well."""
    cart = SessionKey("cart", list[int])
    session = browser.visit()
    session.prefetch(cart)
    assert session.get(cart) == [1]


def test_corrupt_value(server: Server) -> None:
    """A value that cannot be decoded is an error where it is used, and for its key alone."""
    browser = Browser(api_at(server.url))
    browser.does(lambda s: s.mset({"cart": [1], "name": "Ann"}))
    server.client.hset(f"sess:{str(browser.jar).partition('.')[0]}", "cart", "{")
    session = browser.visit()
    session.prefetch("cart", "name")
    with pytest.raises(CorruptValue):
        session.get("cart")
    assert session.get("name") == "Ann"
    browser.api.close()


# -- what comes before the answer is taken


WRITES: dict[str, tuple[Callable[[AltSession], Any], Any]] = {
    "set": (lambda s: s.set("cart", [2]), [2]),
    "mset": (lambda s: s.mset({"cart": [2], "name": "x"}), [2]),
    "remove": (lambda s: s.remove("cart"), None),
    "pop": (lambda s: s.pop("cart"), None),
    "modify": (lambda s: s.modify("cart", lambda cart: [*cart, 2]), [1, 2]),
    "batch": (lambda s: in_batch(s), [2]),
    "login": (lambda s: s.login("ann"), [1]),
    "renew": (lambda s: s.renew(), [1]),
    "invalidate": (lambda s: s.invalidate(), None),
    "logout": (lambda s: s.logout(), None),
}


def in_batch(session: AltSession) -> None:
    with session.batch() as batch:
        batch.set("cart", [2])


@pytest.mark.parametrize("name", WRITES)
def test_a_prefetch_never_overwrites_what_comes_after_it(browser: Browser, name: str) -> None:
    """A write, a login or an end after a prefetch is what the request sees from then on."""
    write, expected = WRITES[name]
    session = browser.visit()
    session.prefetch("cart", "name")
    write(session)
    assert session.get("cart") == expected
    assert state_in(session).sent is None


def test_a_login_of_another_user_after_a_prefetch(browser: Browser) -> None:
    """Nothing that was asked for before is seen by the new user."""
    browser.does(lambda s: s.login("ann"))
    session = browser.visit()
    session.prefetch("cart", "name")
    session.login("bob")
    assert session.mget(["cart", "name"]) == {"cart": None, "name": None}


def test_login_after_a_prefetch_that_finds_the_session_gone(browser: Browser) -> None:
    """The one thing that a gone session does not stand in the way of."""
    session = browser.visit()
    session.get("user")
    session.prefetch("cart")
    Browser(browser.api, browser.jar).does(lambda s: s.invalidate())
    session.prefetch("name")  # the first one is taken: it was alive then
    session.login("bob")
    assert (session.get("cart"), session.userid()) == (None, "bob")


def test_gone_when_the_answer_is_taken(browser: Browser) -> None:
    """Seen alive, then ended by another request: SessionGone at the call that takes it."""
    session = browser.visit()
    session.get("user")
    Browser(browser.api, browser.jar).does(lambda s: s.invalidate())
    session.prefetch("cart")
    with pytest.raises(SessionGone):
        session.get("cart")
    session.prefetch("cart")  # no error here, and nothing sent
    assert state_in(session).sent is None


@pytest.mark.parametrize(
    "use",
    [
        lambda s: s.ttl(),
        lambda s: s.exists(),
        lambda s: s.all(),
        lambda s: s.keys(),
        lambda s: s.created(),
        lambda s: s.login_age(),
        lambda s: s.userid(),
    ],
)
def test_every_read_takes_it_first(browser: Browser, use: Callable[[AltSession], Any]) -> None:
    """No other read leaves an answer behind."""
    session = browser.visit()
    session.prefetch("cart")
    use(session)
    assert state_in(session).sent is None
    assert session.get("cart") == [1]


def test_request_session_takes_it_too(server: Server) -> None:
    """What request.session has changed already stays changed when the answer comes."""

    def view(request: Request) -> Any:
        request.session["cart"] = [2]
        request.session["list"].append(1)
        request.altsession.prefetch("cart", "list", "name")
        return [request.session["name"], request.session["cart"], request.altsession.get("list")]

    app = site(
        server.url,
        {"view": view, "put": lambda r: r.altsession.mset({"cart": [1], "name": "A", "list": []})},
        settings={"altsession.sync.enabled": True},
    )
    app.get("/put")
    assert app.get("/view").json == ["A", [2], [1]]
    assert app.api.open(str(app.token)).mget(["cart", "list"]) == {"cart": [2], "list": [1]}


# -- trouble


@pytest.fixture
def own(server: Server) -> Iterator[tuple[SessionAPI, str]]:
    """An application's utility with few connections, and the token of a session."""
    api = api_at(server.url, redis__max_connections=LIMIT, redis__timeout=0.3)
    yield api, token_of(api.create({"cart": 1, "name": "Ann"}))
    api.close()


def test_a_server_that_does_not_answer(own: tuple[SessionAPI, str], server: Server) -> None:
    """prefetch says nothing; the read that takes it is StoreUnavailable within the time-out; the
    connection is not used again."""
    api, token = own
    session = api.open(token)
    session.exists()
    server.pause()
    try:
        session.prefetch("cart")
        with pytest.raises(StoreUnavailable):
            session.get("cart")
    finally:
        server.resume()
    assert [connection.is_connected for connection in idle_in(pool_of(api))] == [False]
    assert session.get("cart") == 1


def test_a_write_does_without_it(own: tuple[SessionAPI, str], server: Server) -> None:
    """A prefetch that fails does not fail the write that comes after it."""
    api, token = own
    session = api.open(token)
    session.exists()
    session.prefetch("cart")
    operation, sending = state_in(session).sent

    class Lost:
        def result(self, operation: Read) -> Any:
            sending.cancel()
            raise StoreUnavailable("no answer")

        def cancel(self) -> None: ...

    state_in(session).sent = Prefetch(operation, Lost())
    session.set("cart", 2)
    assert session.get("cart") == 2


def test_a_connection_that_broke_meanwhile(own: tuple[SessionAPI, str], server: Server) -> None:
    """The read is carried out once more."""
    api, token = own
    session = api.open(token)
    session.prefetch("cart")
    server.client.client_kill_filter(_type="normal", skipme=True)
    assert session.get("cart") == 1


def test_an_error_of_the_server(own: tuple[SessionAPI, str], server: Server) -> None:
    """Another type at the session's key is CorruptValue where the answer is taken."""
    api, token = own
    session = api.open(token)
    server.client.set(f"sess:{token.partition('.')[0]}", "text", px=10_000)
    session.prefetch("cart")
    with pytest.raises(CorruptValue):
        session.get("cart")


def test_nobody_there(server: Server) -> None:
    """Without a server prefetch says nothing, and the read does."""
    api = api_at("redis://127.0.0.1:1")
    session = api.open("A" * 22 + "." + "B" * 43)
    session.prefetch("cart")
    with pytest.raises(StoreUnavailable):
        session.get("cart")
    api.close()


def test_dropped_answers_free_their_connections(own: tuple[SessionAPI, str]) -> None:
    """Many more prefetches than connections, none of them taken: dropped ones serve on where
    their answer has come, forgotten ones give their place back."""
    api, token = own
    for _ in range(20 * LIMIT):
        session = api.open(token)
        session.prefetch("cart")
        state_in(session).abandon()
    for _ in range(20 * LIMIT):
        api.open(token).prefetch("cart")
    pool = pool_of(api)
    assert api.open(token).get("name") == "Ann"
    assert len([known for known in places_in(pool).values() if known() is not None]) <= LIMIT


def test_a_late_answer_is_dropped_with_its_connection(
    own: tuple[SessionAPI, str], server: Server
) -> None:
    """Where the answer has not come at the end of the request, nobody ever reads it."""
    api, token = own
    session = api.open(token)
    session.exists()
    server.pause()
    try:
        session.prefetch("cart")
        state_in(session).abandon()
    finally:
        server.resume()
    assert [connection.is_connected for connection in idle_in(pool_of(api))] == [False]
    assert api.open(token).get("name") == "Ann"


def test_a_broken_answer_is_dropped(own: tuple[SessionAPI, str], server: Server) -> None:
    """A connection that the server closed meanwhile is no trouble at the end of the request."""
    api, token = own
    session = api.open(token)
    session.prefetch("cart")
    server.client.client_kill_filter(_type="normal", skipme=True)
    state_in(session).abandon()
    assert api.open(token).get("name") == "Ann"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system knows no fork")
def test_a_child_reads_nothing_of_its_parents(own: tuple[SessionAPI, str]) -> None:
    """A prefetch that was sent before a fork: the child asks anew, the parent takes its own."""
    api, token = own
    session = api.open(token)
    session.prefetch("cart")
    assert in_fork(lambda: session.get("cart") == 1) == 0
    assert session.get("cart") == 1


def test_a_prefetch_that_goes_on_in_a_child(
    own: tuple[SessionAPI, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The socket is the parent's: the child leaves it alone, and asks anew."""
    api, token = own
    session = api.open(token)
    session.prefetch("cart")
    monkeypatch.setattr(os, "getpid", lambda: 1)  # as in the child
    assert session.get("cart") == 1
    assert len(idle_in(pool_of(api))) == 1


def failing(request: Request) -> Any:
    request.altsession.prefetch("cart")
    raise ZeroDivisionError


def test_failing_views_keep_no_connection(server: Server) -> None:
    """An unhandled exception drops what the view asked for; nothing waits for the collector."""
    app = site(
        server.url,
        {"failing": failing, "put": lambda r: r.altsession.set("cart", 1)},
        settings={"altsession.redis.max_connections": 2, "altsession.redis.timeout": 0.5},
    )
    app.get("/put")
    for _ in range(10):
        with pytest.raises(ZeroDivisionError):
            app.get("/failing")
    pool: Any = app.watched.store
    assert len(idle_in(lease_in(pool))) == 1


def test_a_discarded_attempt_leaves_nothing(server: Server) -> None:
    """pyramid_retry's next attempt begins without the answer that the last one did not take."""
    seen = []

    def view(request: Request) -> Any:
        seen.append(state_in(request.altsession).sent)
        return request.altsession.get("cart")

    app = site(
        server.url,
        {"view": view, "put": lambda r: r.altsession.set("cart", 1)},
        retried=True,
        configure=lambda config: config.add_subscriber(ask, "pyramid.events.NewRequest"),
    )
    app.get("/put")
    assert app.get("/view").json == 1
    assert [each is None for each in seen] == [False]


def ask(event: Any) -> None:
    event.request.altsession.prefetch("cart")


@pytest.mark.volume
def test_prefetches_in_a_storm(server: Server) -> None:
    """100,000 prefetches, taken, dropped or forgotten, under signal handlers that raise: every
    value is the right one, and as many connections are to be had as before."""
    calls = 50_000
    for seen, left in storm("prefetches", calls, server.url, server.tcp_url):
        assert seen["right"] + seen["interrupted"] == calls, seen
        assert min(seen["right"], seen["interrupted"]) > calls / 20, "this was no storm"
        assert left == [LIMIT, LIMIT]
