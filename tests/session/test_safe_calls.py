"""Calls that are easy to get wrong: the safe way is short, and a mistake is told at once."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from accounts import api_on, id_of, signed_in
from apps import Browser, Watched

from pyramid_altsession import AltSession, InvalidKey, SessionAPI, SessionGone
from pyramid_altsession.events import SessionInvalidated

LONE = "ann\ud800"
LONE_ID = "\ud800" * 22


@pytest.fixture
def api(watched: Watched) -> SessionAPI:
    return api_on(watched)


def alive(browser: Browser) -> bool:
    return browser.visit().exists()


# -- ending sessions


def test_end_others(api: SessionAPI) -> None:
    """Every other session of the user ends, and this one stays, though it was not used before."""
    here, *others = [signed_in(api) for _ in range(4)]
    stranger = signed_in(api, "bob")
    assert here.visit().end_others() == 3
    assert [alive(one) for one in (here, *others, stranger)] == [True, False, False, False, True]
    assert here.visit().end_others() == 0


def test_end_others_after_use(api: SessionAPI) -> None:
    """It does the same where the session was used before."""
    here, other = signed_in(api), signed_in(api)
    session = here.visit()
    assert session.userid() == "ann"
    session.set("k", 1)
    assert (session.end_others(), alive(here), alive(other)) == (1, True, False)


def test_end_others_without_a_login(api: SessionAPI) -> None:
    """Who is not signed in ends nobody's session, with a session or without one."""
    other, anonymous, nobody = signed_in(api), Browser(api), Browser(api)
    anonymous.does(lambda session: session.set("k", 1))
    assert (anonymous.visit().end_others(), nobody.visit().end_others()) == (0, 0)
    assert alive(other)


def test_end_others_of_a_dead_session(api: SessionAPI) -> None:
    """A session that was ended meanwhile ends no other."""
    here, other = signed_in(api), signed_in(api)
    session = here.visit()
    assert session.userid() == "ann"
    api.invalidate_id(id_of(here))
    with pytest.raises(SessionGone):
        session.end_others()
    assert alive(other)
    assert here.visit().end_others() == 0
    assert alive(other)


def test_end_others_of_another_user_by_now(api: SessionAPI) -> None:
    """After a change of user it is about the new one."""
    ann, bob, here = signed_in(api), signed_in(api, "bob"), signed_in(api)
    session = here.visit()
    assert session.userid() == "ann"
    session.login("bob")
    assert (session.end_others(), alive(ann), alive(bob)) == (1, True, False)


def test_end_others_tells(watched: Watched) -> None:
    """Subscribers are told of each session that was ended."""
    told: list[Any] = []
    api = api_on(watched, told.append)
    here, other = signed_in(api), signed_in(api)
    gone = id_of(other)
    told.clear()
    here.visit().end_others()
    assert [(type(e), e.id, e.userid, e.reason) for e in told] == [
        (SessionInvalidated, gone, "ann", "end_others")
    ]


def test_end_others_of_a_token(api: SessionAPI) -> None:
    """A session without a request can do so too."""
    here, other = signed_in(api), signed_in(api)
    assert (api.open(str(here.jar)).end_others(), alive(here), alive(other)) == (1, True, False)


def test_invalidate_id_of_a_user(api: SessionAPI) -> None:
    """With a user id only a session of that user ends."""
    ann, bob = signed_in(api), signed_in(api, "bob")
    assert api.invalidate_id(id_of(bob), userid="ann") is False
    assert api.invalidate_id(id_of(ann), userid="ann") is True
    assert (alive(ann), alive(bob)) == (False, True)


@pytest.mark.parametrize("nobody", [None, ""])
def test_invalidate_id_of_nobody(api: SessionAPI, nobody: str | None) -> None:
    """Where nobody is signed in nothing ends: no user's session, and no visitor's."""
    ann, visitor = signed_in(api), Browser(api)
    visitor.does(lambda session: session.set("k", 1))
    for browser in (ann, visitor):
        assert api.invalidate_id(id_of(browser), userid=nobody) is False
        assert alive(browser)


def test_invalidate_id_of_anybody(api: SessionAPI) -> None:
    """Without a user id it ends whichever session it is, as administration needs it."""
    ann, visitor = signed_in(api), Browser(api)
    visitor.does(lambda session: session.set("k", 1))
    assert [api.invalidate_id(id_of(one)) for one in (ann, visitor)] == [True, True]


# -- ids that no server can hold

CALLS: dict[str, Callable[[SessionAPI, Any], object]] = {
    "login": lambda api, text: api.create().login(text),
    "sessions_of": lambda api, text: api.sessions_of(text),
    "invalidate_user": lambda api, text: api.invalidate_user(text),
    "describe": lambda api, text: api.describe(text),
    "invalidate_id": lambda api, text: api.invalidate_id(text),
}


@pytest.mark.parametrize("text", [LONE, LONE_ID], ids=["short", "22 characters"])
@pytest.mark.parametrize("call", CALLS)
def test_lone_surrogates(api: SessionAPI, call: str, text: str) -> None:
    """A str that is no text is told under the call's name."""
    with pytest.raises(InvalidKey) as caught:
        CALLS[call](api, text)
    id = "id" if call in ("describe", "invalidate_id") else "user id"
    assert str(caught.value) == f"{call}: the {id} must be encodable as UTF-8: {text!r}"


@pytest.mark.parametrize("call", CALLS)
def test_no_text(api: SessionAPI, call: str) -> None:
    """So is what is no str."""
    with pytest.raises(TypeError, match=f"^{call}: .* a (non-empty )?str, not None$"):
        CALLS[call](api, None)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda api: api.attach("A" * 22, 7), "attach: the user id must be a str, not 7"),
        (lambda api: api.sessions_of(7), "sessions_of: the user id must be a str, not 7"),
        (
            lambda api: api.invalidate_id("A" * 22, userid=7),
            "invalidate_id: the user id must be a str, not 7",
        ),
        (lambda api: api.open(None), "open: the token must be a str, not NoneType"),
        (lambda api: api.open(b"secret"), "open: the token must be a str, not bytes"),
    ],
)
def test_which_argument_is_wrong(
    api: SessionAPI, wrong: Callable[[SessionAPI], object], message: str
) -> None:
    """A number of the user is a frequent mistake; a token is not shown, because it is secret."""
    with pytest.raises(TypeError) as caught:
        wrong(api)
    assert str(caught.value) == message


def test_other_lone_surrogates(api: SessionAPI) -> None:
    """The ids that stand beside one are looked at as well."""
    ann = signed_in(api)
    with pytest.raises(InvalidKey, match=r"^invalidate_user: "):
        api.invalidate_user("ann", keep=LONE_ID)
    with pytest.raises(InvalidKey, match=r"^invalidate_id: "):
        api.invalidate_id(id_of(ann), userid=LONE)
    assert alive(ann)


def test_token_that_is_no_text(api: SessionAPI) -> None:
    """A token with a lone surrogate names no session."""
    assert api.open(f"{LONE_ID}.{'v' * 43}").exists() is False


# -- a batch without its block

BATCHED: dict[str, Callable[[Any], object]] = {
    "get": lambda b: b.get("k"),
    "mget": lambda b: b.mget(["k"]),
    "all": lambda b: b.all(),
    "set": lambda b: b.set("k", 1),
    "pop": lambda b: b.pop("k"),
    "increment": lambda b: b.increment("k"),
}


@pytest.mark.parametrize("call", BATCHED)
def test_batch_without_with(api: SessionAPI, watched: Watched, call: str) -> None:
    """A batch whose block was not entered would never be sent: its first call says so."""
    batch = api.create().batch()
    with watched.costs(0), pytest.raises(RuntimeError, match=r"with session\.batch\(\) as b"):
        BATCHED[call](batch)


def test_batch_entered_later(api: SessionAPI) -> None:
    """The block may begin later than the batch was made; once over, it does not begin again."""
    session = api.create()
    batch = session.batch()
    with batch:
        batch.increment("k")
    with pytest.raises(RuntimeError, match="the batch is over"), batch:
        pass
    assert session.get("k") == 1


# -- a session is no dict

DICTS: dict[str, Callable[[Any], object]] = {
    'get("cart")': lambda session: session["cart"],
    'set("cart", …)': lambda session: session.__setitem__("cart", 1),
    'remove("cart")': lambda session: session.__delitem__("cart"),
    'exists("cart")': lambda session: "cart" in session,
    "keys()": lambda session: list(session),
}


@pytest.mark.parametrize("call", DICTS)
def test_no_dict(api: SessionAPI, watched: Watched, call: str) -> None:
    """What would do on a dict is told by the name of the call that does it here."""
    session = api.create({"cart": [1]})
    with watched.costs(0), pytest.raises(TypeError) as caught:
        DICTS[call](session)
    assert str(caught.value) == f"an AltSession is no dict: use {call}"


def test_true(api: SessionAPI) -> None:
    """A session without data is no empty container."""
    assert bool(Browser(api).visit()) is True


def test_no_dict_in_json(api: SessionAPI) -> None:
    """Nobody takes it for a list either."""
    with pytest.raises(TypeError):
        json.dumps(api.create())


def test_the_call_that_is_named_works(api: SessionAPI) -> None:
    """The calls that the messages name are there."""
    session: AltSession = api.create()
    session.set("cart", [1])
    assert (session.get("cart"), session.exists("cart"), session.keys()) == ([1], True, ["cart"])
    assert session.remove("cart") == 1
