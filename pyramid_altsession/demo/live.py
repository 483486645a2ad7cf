"""The shop's cart, live: a page of an ASGI process beside ``pserve``, of the same sessions.

    python -m pyramid_altsession.demo.live development.ini

A cookie belongs to a host, whatever the port, so the browser sends the shop's cookie here too.
"""

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import plaster
import uvicorn
from jinja2 import Environment, PackageLoader, select_autoescape
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket
from webob.acceptparse import create_accept_language_header

from ..aio import AsyncSessionAPI
from ..aio.asgi import POLICY, AltSessionMiddleware
from .guards import HEADERS
from .products import PRODUCTS, price
from .texts import TEXTS

LANGUAGE = "language"
KEYS = (LANGUAGE, *(product.key for product in PRODUCTS.values()))
"""Of the session: what the page shows."""

templates = Environment(
    loader=PackageLoader("pyramid_altsession.demo"), autoescape=select_autoescape(["jinja2"])
)


class Live:
    """The page, and the websocket that keeps it up to date. ``shop``: the shop's address."""

    def __init__(self, api: AsyncSessionAPI, shop: str) -> None:
        self._api = api
        self._shop = shop

    async def page(self, request: Request) -> HTMLResponse:
        language = await request.state.altsession.get(LANGUAGE)
        if language not in TEXTS:
            wanted = create_accept_language_header(request.headers.get("accept-language"))
            language = wanted.lookup(list(TEXTS), default="en")
        shown = templates.get_template("live.jinja2").render(
            language=language, t=TEXTS[language], shop=self._shop
        )
        return HTMLResponse(shown, headers=HEADERS)

    async def cart(self, websocket: WebSocket) -> None:
        """Open for as long as the visitor's session lives and the browser stays."""
        session = websocket.state.altsession
        alive = await session.exists()
        id, userid = session.id, await session.userid()
        await websocket.accept()  # even if not alive: scripts cannot see why a handshake failed
        if not alive:
            await websocket.close(POLICY)
            return
        telling = asyncio.create_task(self._tell(websocket, id, userid))
        leaving = asyncio.create_task(websocket.receive())
        _, others = await asyncio.wait({telling, leaving}, return_when=asyncio.FIRST_COMPLETED)
        for task in others:
            task.cancel()
        if telling.done():
            telling.result()  # an error closes the socket too
            await websocket.close(POLICY)

    async def _tell(self, websocket: WebSocket, id: str, userid: str | None) -> None:
        """Send the cart now and whenever it changes, until the session ends."""
        session = self._api.attach(id, userid)
        async for change in self._api.watch(id, keys=True):
            if change.keys is None or change.keys & set(KEYS):
                await websocket.send_json(shown(await session.mget(KEYS, fresh=True)))


def shown(held: Mapping[str, Any]) -> dict[str, Any]:
    """The cart, as the page shows it."""
    language = held[LANGUAGE] if held[LANGUAGE] in TEXTS else "en"
    cart = [(product, held[product.key] or 0) for product in PRODUCTS.values()]
    return {
        "lines": [
            [product.name[language], f"{number} ×", price(product.cents * number, language)]
            for product, number in cart
            if number
        ],
        "total": price(sum(product.cents * number for product, number in cart), language),
    }


def application(api: AsyncSessionAPI, shop: str = "") -> Starlette:
    """The ASGI application."""
    live = Live(api, shop)
    return Starlette(
        routes=[
            Route("/", live.page),
            WebSocketRoute("/cart", live.cart),
            Mount("/static", StaticFiles(directory=Path(__file__).parent / "static")),
        ],
        middleware=[Middleware(AltSessionMiddleware, api=api)],
    )


def main(file: str) -> None:
    """Serve it where the shop's settings say."""
    settings = plaster.get_settings(file, "app:main")
    place = urlsplit(settings["demo.live"])
    app = application(AsyncSessionAPI.from_settings(settings), settings["demo.shop"])
    uvicorn.run(app, host=place.hostname or "localhost", port=place.port or 80, access_log=False)


if __name__ == "__main__":
    main(sys.argv[1])
