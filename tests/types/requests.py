"""What a type checker sees of views and of tests: checked by mypy, never run."""

from collections.abc import Callable
from typing import Any, assert_type

from pyramid.testing import DummyRequest

from pyramid_altsession import AltSession, AltSessionRequest, SessionKey
from pyramid_altsession.testing import Clock, race, round_trips, session_of, settable_clock

CART = SessionKey("cart", list[str], default=list)


def view(request: AltSessionRequest) -> dict[str, list[str]]:
    assert_type(request.altsession, AltSession)
    assert_type(request.altsession.get(CART), list[str])
    request.altsession.set(CART, 7)  # type: ignore[misc]
    request.altsession.sett("cart", [])  # type: ignore[attr-defined]
    request.route_url("cart")  # Pyramid's own, which has no types
    return {"cart": request.altsession.get(CART)}


class ShopRequest(AltSessionRequest):
    """An application's own."""

    user: str | None


def other(request: ShopRequest) -> str | None:
    assert_type(request.altsession.increment("visits"), int)
    return request.user


VIEWS: list[Callable[[AltSessionRequest], Any]] = [view]


def of_a_test(app: Any, browser: Any) -> None:
    view(DummyRequest(altsession=session_of(browser)))
    assert_type(settable_clock(app), Clock)
    with round_trips(app, max=2) as sent:
        assert_type(len(sent), int)
        assert_type(sent[0].keys, list[str])
    assert_type(race(len, len, setup=lambda: "state", check=lambda *_: None), list[str])
    race(len, len, setup=lambda: 7, check=print)  # type: ignore[misc]
