"""What a type checker sees of an application's code: checked by mypy, never run."""

from datetime import datetime
from typing import Any, assert_type

import msgspec

from pyramid_altsession import AltSession, Handle, SessionAPI, SessionKey
from pyramid_altsession.protocol.keys import Key


class Cart(msgspec.Struct):
    lines: list[str] = []


CART = SessionKey("cart", Cart, default=Cart)
USER = SessionKey("user", str)
SEEN = SessionKey("seen", datetime, ttl=60)
TAGS = SessionKey("tags", set[str], default=set)


def keys() -> None:
    assert_type(CART, SessionKey[Cart, Cart])
    assert_type(USER, SessionKey[str, None])


def reads(session: AltSession) -> None:
    assert_type(session.get(CART), Cart)
    assert_type(session.get(CART, fresh=True), Cart)
    assert_type(session.get(USER), str | None)
    assert_type(session.get(USER, ""), str)
    assert_type(session.get(SEEN, 0), datetime | int)
    assert_type(session.get(TAGS), set[str])
    assert_type(session.get("plain"), Any)
    assert_type(session.mget(["a", "b"]), dict[str, Any])
    assert_type(session.mget([CART, "a"]), dict[Key, Any])
    assert_type(session.exists(CART), bool)


def writes(session: AltSession) -> None:
    session.set(CART, Cart(["tea"]), ttl=5)
    session.set(CART, "tea")  # type: ignore[misc]
    session.set(7, "tea")  # type: ignore[call-overload]
    session.set("plain", object())
    session.mset({"plain": 1})
    session.mset({CART: Cart()})
    both: dict[Key, Any] = {CART: Cart(), "plain": 1}
    session.mset(both)
    assert_type(session.pop(CART), Cart)
    assert_type(session.pop(USER), str | None)
    assert_type(session.pop(USER, 0), str | int)
    assert_type(session.setdefault(USER, "ann"), str)
    assert_type(session.setdefault("plain", 1), Any)
    assert_type(session.modify(CART, lambda cart: cart), Cart)
    assert_type(session.modify(USER, lambda user: user or "ann"), str)
    assert_type(session.modify(USER, lambda user: user + "!", ""), str)
    assert_type(session.remove(CART), int)
    assert_type(session.remove([CART, "plain"]), int)


def batches(session: AltSession) -> None:
    with session.batch() as batch:
        assert_type(batch.get(CART), Handle[Cart])
        assert_type(batch.get(CART).result(), Cart)
        assert_type(batch.get(USER), Handle[str | None])
        assert_type(batch.get(USER, 0), Handle[str | int])
        assert_type(batch.get("plain"), Handle[Any])
        assert_type(batch.set(CART, Cart()), Handle[None])
        batch.set(CART, 7)  # type: ignore[misc]
        assert_type(batch.pop(CART), Handle[Cart])
        assert_type(batch.setdefault(USER, "ann"), Handle[str])
        assert_type(batch.increment("visits"), Handle[int])
        assert_type(batch.mget(["a"]), Handle[dict[str, Any]])
        assert_type(batch.all().result(), dict[str, Any])
        assert_type(batch.compare_and_set("a", 1, 2).result(), bool)


def no_dict_to_write(session: AltSession) -> None:
    session["cart"] = 1  # type: ignore[assignment, index]


def no_dict_to_read(session: AltSession) -> None:
    session["cart"]  # type: ignore[index]


def no_dict_to_remove_from(session: AltSession) -> None:
    del session["cart"]  # type: ignore[arg-type]


def no_dict_to_look_into(session: AltSession) -> bool:
    return "cart" in session  # type: ignore[operator]


def users(session: AltSession, api: SessionAPI) -> None:
    assert_type(session.end_others(), int)
    assert_type(api.invalidate_id("id"), bool)
    assert_type(api.invalidate_id("id", userid=session.userid()), bool)
    api.invalidate_id("id", userid=7)  # type: ignore[arg-type]


def definitions() -> None:
    SessionKey("cart", Cart, default=list)  # type: ignore[arg-type]
    SessionKey("cart", Cart, ttl="60")  # type: ignore[call-overload]
