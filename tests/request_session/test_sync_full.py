"""``request.session`` of a session that holds as much as it may."""

from typing import Any

import pytest
from apps import Site, site
from pyramid.request import Request
from pyramid.response import Response
from test_sync import Visitor

from pyramid_altsession import SessionFull
from pyramid_altsession.interfaces import Store

LIMIT: dict[str, object] = {"altsession.session.max_keys": 3, "altsession.sync.enabled": True}
UNLISTED = {"pyramid.tweens": "pyramid.tweens.excview_tween_factory"}


@pytest.fixture
def full(store: Store) -> Visitor:
    """``{"a": 1, "b": [1]}``, and no room for more."""
    jar = Visitor.with_session(store).jar
    return Visitor(store, jar, session={"max_keys": 2})


def test_write_back(full: Visitor) -> None:
    """What was changed is written as one, or not at all; then it is dropped, so that the page of
    the error does not fail as well."""
    session = full()
    session["a"] = 2
    session["c"] = 3
    del session["b"]
    session.flash("hello")
    with pytest.raises(SessionFull, match=r"3 keys, and session\.max_keys is 2"):
        session.write_back()
    assert dict(session) == full.stored == {"a": 1, "b": [1]}
    session.write_back()


def test_sign_in_that_is_refused(full: Visitor) -> None:
    """A user id that does not fit does not renew the cookie either."""
    jar = full.jar
    session = full()
    session["auth.userid"] = "ann"
    with pytest.raises(SessionFull):
        session.write_back()
    assert "Set-Cookie" not in full.done().headers
    assert (full.jar, full.stored) == (jar, {"a": 1, "b": [1]})


def test_calls_beside_it(full: Visitor) -> None:
    """A call on request.altsession that has to write such a change first is refused as well, and
    the change still waits; without it the call works."""
    session = full()
    session["c"] = 3
    alt = full.latest.altsession
    alt.set("a", 2)
    with pytest.raises(SessionFull):
        alt.increment("c")
    assert session["c"] == 3
    del session["c"]
    session.write_back()
    assert full.stored == {"a": 2, "b": [1]}


def fill(request: Request) -> Any:
    request.session.update(dict.fromkeys(request.GET, 1))
    return dict(request.session)


def fill_at_once(request: Request) -> Any:
    request.altsession.mset(dict.fromkeys(request.GET, 1))


def sign_out(request: Request) -> Any:
    request.session.invalidate()


VIEWS = {"fill": fill, "fill_at_once": fill_at_once, "sign_out": sign_out}


def check_page(answer: Response) -> None:
    assert answer.status_int == 409
    assert "full" in answer.text
    assert "max_keys" not in answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Retry-After" not in answer.headers


@pytest.mark.parametrize("view", ["fill", "fill_at_once"])
@pytest.mark.parametrize("more", [{}, UNLISTED], ids=["tween", "no tween"])
def test_page(view: str, more: dict[str, object]) -> None:
    """The visitor gets a 409 page that names no setting and asks for no retry, whether it was
    written at once, at the end of the request, or after everything else; nothing is stored, and
    the visitor can go on, or sign out and begin anew."""
    found: Site = site("memory://", VIEWS, settings=LIMIT | more)
    check_page(found.get(f"/{view}?a&b&c&d", expect_errors=True))
    found.get("/fill?a&b&c")
    check_page(found.get(f"/{view}?d", expect_errors=True))
    assert found.get("/fill?b").json == {"a": 1, "b": 1, "c": 1}
    found.get("/sign_out")
    assert found.get("/fill?d").json == {"d": 1}
