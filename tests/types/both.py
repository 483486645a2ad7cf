"""An application of a Pyramid site and its ASGI neighbour, whose keys are defined once: checked by
mypy, never run. Awaited calls have the types of the plain ones."""

from datetime import datetime
from typing import Any, assert_type

import msgspec
from pyramid.request import Request
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request as StarletteRequest
from starlette.responses import JSONResponse
from starlette.routing import Route

from pyramid_altsession import AltSession, Handle, Observation, SessionAPI, SessionGone, SessionKey
from pyramid_altsession.aio import AsyncAltSession, AsyncOpenSession, AsyncSessionAPI
from pyramid_altsession.aio.asgi import AltSessionMiddleware, Scope
from pyramid_altsession.protocol.keys import Key


class Cart(msgspec.Struct):
    lines: list[str] = []


CART = SessionKey("cart", Cart, default=Cart)
USER = SessionKey("user", str)
SEEN = SessionKey("seen", datetime, ttl=60)


def filled(cart: Cart) -> Cart:
    return Cart([*cart.lines, "tea"])


# -- Pyramid


def view(request: Request) -> dict[str, Any]:
    session: AltSession = request.altsession
    assert_type(session.get(CART), Cart)
    assert_type(session.get(USER), str | None)
    assert_type(session.modify(CART, filled), Cart)
    with session.batch() as batch:
        visits = batch.increment("visits")
    return {"visits": visits.result()}


# -- ASGI


async def endpoint(request: StarletteRequest) -> JSONResponse:
    session: AsyncAltSession = request.state.altsession
    assert_type(await session.get(CART), Cart)
    assert_type(await session.get(CART, fresh=True), Cart)
    assert_type(await session.get(USER), str | None)
    assert_type(await session.get(USER, ""), str)
    assert_type(await session.get(SEEN, 0), datetime | int)
    assert_type(await session.get("plain"), Any)
    assert_type(await session.mget(["a", "b"]), dict[str, Any])
    assert_type(await session.mget([CART, "a"]), dict[Key, Any])
    assert_type(await session.exists(CART), bool)
    assert_type(await session.created(), datetime | None)
    await session.set(CART, Cart(["tea"]), ttl=5)
    await session.set(CART, "tea")  # type: ignore[misc]
    await session.set(7, "tea")  # type: ignore[call-overload]
    await session.mset({CART: Cart()})
    assert_type(await session.pop(CART), Cart)
    assert_type(await session.pop(USER, 0), str | int)
    assert_type(await session.setdefault(USER, "ann"), str)
    assert_type(await session.modify(CART, filled), Cart)
    assert_type(await session.modify(USER, lambda user: user or "ann"), str)
    assert_type(await session.remove([CART, "plain"]), int)
    assert_type(await session.end_others(), int)
    async with session.batch() as batch:
        visits = batch.increment("visits")
        assert_type(batch.get(CART), Handle[Cart])
        batch.set(CART, 7)  # type: ignore[misc]
    return JSONResponse({"visits": visits.result()})


def optional(scope: Scope) -> bool:
    return str(scope["path"]) == "/"


def application(api: AsyncSessionAPI) -> Starlette:
    middleware = [Middleware(AltSessionMiddleware, api=api, optional=optional)]
    return Starlette(routes=[Route("/", endpoint)], middleware=middleware)


# -- workers


def note(seen: Observation) -> None:
    assert_type(seen.round_trips, int)


def plain_worker(api: SessionAPI, token: str) -> Cart | None:
    api.observe(note)
    try:
        return api.open(token).get(CART)
    except SessionGone:
        return None


async def awaiting_worker(api: AsyncSessionAPI, token: str) -> Cart | None:
    api.observe(note)
    assert_type(api.open(token), AsyncOpenSession)
    assert_type((await api.create({CART: Cart()})).token, str | None)
    try:
        return await api.open(token).get(CART)
    except SessionGone:
        return None


def no_dict(session: AsyncAltSession) -> None:
    session["cart"]  # type: ignore[index]
    "cart" in session  # type: ignore[operator]  # noqa: B015


async def forgotten(session: AsyncAltSession) -> Cart:
    return session.get(CART)  # type: ignore[return-value]
