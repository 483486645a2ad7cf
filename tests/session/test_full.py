"""A session that holds as much as it may: what each call raises, and what still works."""

from collections.abc import Callable
from typing import Any

import pytest
from apps import Browser, Watched

from pyramid_altsession import AltSession, SessionAPI, SessionFull
from pyramid_altsession.codecs import EncryptedCodec
from pyramid_altsession.config.sources import read_settings
from pyramid_altsession.interfaces import Codec
from pyramid_altsession.protocol.keys import SessionKey

Act = Callable[[AltSession], Any]
TOO_MANY = r"^the session would have 4 keys, and session\.max_keys is 3$"


@pytest.fixture(params=["plain", "sealed"])
def codec(request: pytest.FixtureRequest) -> Codec | None:
    return EncryptedCodec(("a secret of sixteen",)) if request.param == "sealed" else None


@pytest.fixture
def api(watched: Watched, codec: Codec | None) -> SessionAPI:
    given = read_settings({"session": {"max_keys": 3, "max_bytes": 1000, "secure": False}})
    return SessionAPI(given, store=watched, codec=codec)


@pytest.fixture
def full(api: SessionAPI) -> Browser:
    """A browser whose session has as many keys as allowed."""
    browser = Browser(api)
    browser.does(lambda s: s.mset({"cart": ["tea"], "visits": 3, "name": "Ann"}))
    return browser


def in_batch(session: AltSession) -> None:
    with session.batch() as batch:
        batch.remove("nothing")
        batch.increment("visits")
        batch.set("more", 1)


ADDING: dict[str, Act] = {
    "set": lambda s: s.set("more", 1),
    "set for a time": lambda s: s.set("more", 1, ttl=60),
    "mset": lambda s: s.mset({"visits": 4, "more": 1}),
    "setdefault": lambda s: s.setdefault("more", 1),
    "increment": lambda s: s.increment("more"),
    "compare_and_set": lambda s: s.compare_and_set("more", None, 1),
    "modify": lambda s: s.modify("more", lambda value: 1),
    "typed": lambda s: s.set(SessionKey("more", int), 1),
    "batch": in_batch,
}


@pytest.mark.parametrize("seen", [False, True], ids=["first call", "later call"])
@pytest.mark.parametrize("name", ADDING)
def test_what_adds_a_key(full: Browser, name: str, seen: bool) -> None:
    """A call that would add a key raises SessionFull, which names the setting and both numbers;
    nothing is written, and the request goes on with the same session."""
    session = full.visit()
    if seen:
        assert session.get("name") == "Ann"
    with pytest.raises(SessionFull, match=TOO_MANY):
        ADDING[name](session)
    assert session.all() == {"cart": ["tea"], "visits": 3, "name": "Ann"}
    assert session.remove("name") == 1
    ADDING[name](session)
    full.answer()
    assert full.visit().get("more") == 1


def test_what_makes_a_value_longer(full: Browser) -> None:
    """The bytes of all keys and values are limited, in the same words."""
    with pytest.raises(SessionFull, match=r"\d{4} bytes, and session\.max_bytes is 1000$"):
        full.visit().set("cart", ["secret tea"] * 100)
    assert full.visit().get("cart") == ["tea"]


def test_no_value_is_told(full: Browser) -> None:
    """Neither the error nor its page says what was to be stored, or under which key."""
    with pytest.raises(SessionFull) as caught:
        full.visit().set("secret", "secret")
    assert "secret" not in f"{caught.value} {caught.value!r} {caught.value.explanation}"


def test_handles_of_a_batch(full: Browser) -> None:
    """Every handle of a refused batch raises the same error."""
    with pytest.raises(SessionFull) as caught, full.visit().batch() as batch:
        handles = [batch.get("cart"), batch.set("more", 1)]
    for handle in handles:
        with pytest.raises(SessionFull) as again:
            handle.result()
        assert again.value is caught.value


def test_first_write_of_a_visitor(api: SessionAPI) -> None:
    """Where a session would begin with too much, none is made, and no cookie is sent; the next
    write makes one."""
    browser = Browser(api)
    session = browser.visit()
    with pytest.raises(SessionFull):
        session.mset(dict.fromkeys("abcd", 1))
    assert "Set-Cookie" not in browser.answer().headers
    session = browser.visit()
    with pytest.raises(SessionFull):
        session.mset(dict.fromkeys("abcd", 1))
    session.set("a", 1)
    browser.answer()
    assert browser.visit().all() == {"a": 1}
    with pytest.raises(SessionFull):
        api.create(dict.fromkeys("abcd", 1))


def test_limits_that_were_higher(full: Browser, watched: Watched, codec: Codec | None) -> None:
    """A session that holds more than it may by now can be read, made smaller, renewed, signed in
    and out."""
    given = read_settings({"session": {"max_keys": 1, "max_bytes": 1}})
    narrow = Browser(SessionAPI(given, store=watched, codec=codec), full.jar)
    everything = {"cart": ["tea"], "visits": 3, "name": "Ann"}
    assert narrow.does(lambda s: s.all()) == everything
    narrow.does(lambda s: s.touch())
    narrow.does(lambda s: s.renew())
    narrow.does(lambda s: s.login("ann"))
    assert narrow.does(lambda s: (s.userid(), s.all())) == ("ann", everything)
    assert narrow.does(lambda s: s.increment("visits")) == 4
    assert narrow.does(lambda s: s.pop("cart")) == ["tea"]
    with pytest.raises(SessionFull):
        narrow.visit().set("cart", [])
    assert narrow.does(lambda s: s.invalidate()) is True
    assert narrow.visit().all() == {}
