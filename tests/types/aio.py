"""What a type checker sees of awaited calls: checked by mypy, never run."""

from typing import Any, assert_type

from pyramid_altsession import Handle, SessionInfo, SessionKey
from pyramid_altsession.aio import AsyncAltSession, AsyncSessionAPI

CART = SessionKey("cart", list[str], default=list)
USER = SessionKey("user", str)


async def calls(session: AsyncAltSession) -> None:
    assert_type(await session.get(CART), list[str])
    assert_type(await session.get(USER), str | None)
    assert_type(await session.get(USER, 0), str | int)
    assert_type(await session.get("plain"), Any)
    assert_type(await session.pop(CART), list[str])
    assert_type(await session.setdefault(USER, "ann"), str)
    assert_type(await session.modify(CART, lambda cart: [*cart, "tea"]), list[str])
    await session.set(USER, 7)  # type: ignore[misc]
    async with session.batch() as batch:
        assert_type(batch.get(CART), Handle[list[str]])


async def administration(api: AsyncSessionAPI) -> None:
    assert_type(await api.sessions_of("ann"), list[SessionInfo])
    async for info in api.scan():
        assert_type(info, SessionInfo)
