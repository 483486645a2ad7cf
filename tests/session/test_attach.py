"""A session used by its id, through renewals, by code that has no cookie of it."""

from collections.abc import Callable
from typing import Any

import pytest
from apps import Behind

from pyramid_altsession import AltSession, InvalidKey, SessionAPI, SessionGone
from pyramid_altsession.api import OpenSession
from pyramid_altsession.config.sources import read_settings
from pyramid_altsession.interfaces import Store

TTI = 1000.0
"""Seconds, and a touch is due after 100."""


def api_on(store: Store, **session: object) -> SessionAPI:
    return SessionAPI(read_settings({"session": {"tti": TTI, **session}}), store=store)


@pytest.fixture
def api(store: Store) -> SessionAPI:
    return api_on(store)


def shopper(api: SessionAPI, user: str | None = "ann") -> OpenSession:
    """A session with its cookie, as a browser has it."""
    made = api.create({"cart": ["tea"], "n": 1})
    if user is not None:
        made.login(user)
    return made


def id_of(session: AltSession) -> str:
    assert session.id is not None
    return session.id


CALLS: dict[str, Callable[[AltSession], Any]] = {
    "get": lambda s: s.get("cart", fresh=True),
    "all": lambda s: s.all(fresh=True),
    "exists": lambda s: s.exists("cart", fresh=True),
    "ttl": lambda s: s.ttl(),
    "set": lambda s: s.set("cart", []),
    "modify": lambda s: s.modify("cart", lambda cart: [*cart, "cup"], []),
    "increment": lambda s: s.increment("n"),
    "compare_and_set": lambda s: s.compare_and_set("n", 1, 2),
    "pop": lambda s: s.pop("cart"),
    "touch": lambda s: s.touch(),
    "invalidate": lambda s: s.invalidate(),
}


def test_reads_and_writes(api: SessionAPI) -> None:
    """It is the same session, for both sides."""
    browser = shopper(api)
    worker = api.attach(id_of(browser), "ann")
    assert worker.all() == {"cart": ["tea"], "n": 1}
    assert (worker.userid(), worker.id) == ("ann", browser.id)
    assert worker.increment("n") == 2
    assert worker.modify("cart", lambda cart: [*cart, "cup"], []) == ["tea", "cup"]
    assert worker.compare_and_set("n", 2, 5)
    with worker.batch() as batch:
        batch.set("report", "done")
        kept = batch.get("n")
    assert kept.result() == 5
    assert browser.mget(["cart", "n", "report"], fresh=True) == {
        "cart": ["tea", "cup"],
        "n": 5,
        "report": "done",
    }


def test_of_nobody(api: SessionAPI) -> None:
    """None is for the session of a visitor who is not signed in."""
    worker = api.attach(id_of(shopper(api, None)), None)
    assert worker.increment("n") == 2
    assert worker.get("cart") == ["tea"]


def test_it_follows_renewals(api: SessionAPI) -> None:
    """The cookie is renewed, the user signs in again, and the holder goes on."""
    browser = shopper(api)
    worker = api.attach(id_of(browser), "ann")
    worker.set("n", 2)
    browser.renew()
    browser.login("ann")
    browser.renew()
    assert worker.get("n", fresh=True) == 2
    worker.set("n", 3)
    assert browser.get("n", fresh=True) == 3


@pytest.mark.parametrize("on_reuse", ["ignore", "invalidate"])
def test_a_renewed_cookie_is_the_browsers_to_use_first(
    store: Store, behind: Behind, on_reuse: str
) -> None:
    """What the holder does neither counts as the first use of a new cookie, which would begin the
    old one's grace, nor as a reuse of the old one."""
    api = api_on(store, renew_after=10, renew_grace=5, on_reuse=on_reuse)
    browser = shopper(api)
    id = id_of(browser)
    predecessor = b"p" * 32 + b"\0" * 5 + (1).to_bytes(5, "big")  # never used, made long ago
    behind.put(id, "@p", predecessor)
    worker = api.attach(id, "ann")
    worker.set("n", 2)
    assert worker.get("n", fresh=True) == 2
    assert behind.fields(id)["@p"] == predecessor


def test_reads_prolong_nothing(api: SessionAPI, behind: Behind) -> None:
    """A socket that shows a page keeps no session alive; a write does."""
    browser = shopper(api)
    id = id_of(browser)
    worker = api.attach(id, "ann")
    behind.pass_time(id, 900)
    worker.all()
    worker.exists()
    assert behind.left(id) < TTI / 2
    worker.set("n", 2)
    assert behind.left(id) > TTI / 2


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("seen", [True, False], ids=["seen", "unseen"])
def test_gone_when_it_ended(api: SessionAPI, call: str, seen: bool) -> None:
    """After a logout every call is SessionGone, and nothing of the session comes back."""
    browser = shopper(api)
    id = id_of(browser)
    worker = api.attach(id, "ann")
    if seen:
        worker.get("n")
    browser.logout()
    with pytest.raises(SessionGone):
        CALLS[call](worker)
    assert api.values_of(id) is None


@pytest.mark.parametrize("call", CALLS)
def test_gone_when_the_visitor_signed_in(api: SessionAPI, call: str) -> None:
    """Whoever attached to an anonymous session has no part in what it is after a login."""
    browser = shopper(api, None)
    id = id_of(browser)
    worker = api.attach(id, None)
    worker.get("n")
    browser.login("ann")
    with pytest.raises(SessionGone):
        CALLS[call](worker)
    assert browser.mget(["cart", "n"], fresh=True) == {"cart": ["tea"], "n": 1}


@pytest.mark.parametrize("user", ["bob", None])
@pytest.mark.parametrize("call", CALLS)
def test_gone_for_another_user(api: SessionAPI, call: str, user: str | None) -> None:
    """The session has to be the user's that is named."""
    browser = shopper(api)
    worker = api.attach(id_of(browser), user)
    with pytest.raises(SessionGone):
        CALLS[call](worker)
    assert browser.mget(["cart", "n"], fresh=True) == {"cart": ["tea"], "n": 1}


def test_ended_by_its_holder(api: SessionAPI) -> None:
    """``invalidate`` ends it for everybody, in the user's list too."""
    browser = shopper(api)
    assert api.attach(id_of(browser), "ann").invalidate()
    assert api.sessions_of("ann") == []
    with pytest.raises(SessionGone):
        browser.get("n", fresh=True)


def test_no_cookie(api: SessionAPI) -> None:
    """What replaces the cookie belongs to whoever can send it."""
    browser = shopper(api)
    worker = api.attach(id_of(browser), "ann")
    for call in (worker.renew, lambda: worker.login("ann")):
        with pytest.raises(RuntimeError, match="no cookie"):
            call()
    assert not hasattr(worker, "token")
    assert browser.get("n", fresh=True) == 1


def test_nothing_is_rejected(store: Store) -> None:
    """No event tells of a wrong cookie: none came."""
    told: list[object] = []
    api = SessionAPI(read_settings({}), store=store, notify=told.append)
    browser = shopper(api)
    told.clear()
    with pytest.raises(SessionGone):
        api.attach(id_of(browser), "bob").get("n")
    with pytest.raises(SessionGone):
        api.attach(id_of(browser), "bob").set("n", 2)
    assert told == []


def test_the_next_session_stays_its_browsers(api: SessionAPI, behind: Behind) -> None:
    """A session ended from elsewhere owes its browser a new one: a holder does not take it."""
    browser = shopper(api)
    id = id_of(browser)
    api.invalidate_id(id)
    with pytest.raises(SessionGone):
        api.attach(id, "ann").set("n", 2)
    assert behind.fields(id)["@o"] == b""


@pytest.mark.parametrize("id", ["", "user:x", "x" * 22, "x" * 43])
def test_no_session_has_the_id(api: SessionAPI, id: str) -> None:
    """Any call is SessionGone."""
    with pytest.raises(SessionGone):
        api.attach(id, "ann").get("n")
    with pytest.raises(SessionGone):
        api.attach(id, "ann").set("n", 1)


@pytest.mark.parametrize(
    ("id", "userid", "error"),
    [
        (None, "ann", TypeError),
        ("\ud800", "ann", InvalidKey),
        ("x" * 22, 7, TypeError),
        ("x" * 22, "", ValueError),
    ],
)
def test_no_id(api: SessionAPI, id: Any, userid: Any, error: type[Exception]) -> None:
    """The message names the call."""
    with pytest.raises(error, match="attach"):
        api.attach(id, userid)
