"""One session from Pyramid's views and Starlette's endpoints at once, on real servers: waitress and
uvicorn, each a process of its own."""

import asyncio
import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from servers import Server
from test_wsgi_servers import CASES, Case, ask, served

pytestmark = [
    pytest.mark.volume,
    pytest.mark.skipif(sys.platform != "linux", reason="servers that fork"),
]

WRITES = 1000
AT_ONCE = 40
"""Requests under way: waitress takes at most 100 connections."""

APP = """
import os

from pyramid.config import Configurator
from pyramid_altsession.aio import AsyncSessionAPI
from pyramid_altsession.aio.asgi import AltSessionMiddleware
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.routing import Route

# What both sides do, in their own words.

PLAIN = {
    "put": lambda session, name: session.set(name, name),
    "read": lambda session, name: session.all(fresh=True),
    "who": lambda session, name: session.userid(),
    "enter": lambda session, name: session.login(name),
    "leave": lambda session, name: session.logout(),
}

async def answer(request):
    call = PLAIN[request.url.path[1:]]
    name = request.query_params.get("name")
    return JSONResponse(await call(request.state.altsession, name))

def asgi():
    api = AsyncSessionAPI.from_settings({
        "altsession.redis.url": os.environ["URL"],
        "altsession.redis.timeout": 60,
        "altsession.session.secure": False,
    })
    return Starlette(
        routes=[Route("/" + name, answer) for name in PLAIN],
        middleware=[Middleware(AltSessionMiddleware, api=api)],
    )

def main(global_config=None, **settings):
    with Configurator(settings=settings) as config:
        config.include("pyramid_altsession")
        for name, call in PLAIN.items():
            config.add_route(name, "/" + name)
            config.add_view(
                lambda request, call=call: call(request.altsession, request.params.get("name")),
                route_name=name,
                renderer="json",
            )
        return config.make_wsgi_app()
"""

UVICORN = ["uvicorn", "app:asgi", "--factory", "--host", "127.0.0.1", "--port", "{port}"]

Ports = dict[str, int]
WAYS = [("pyramid", "starlette"), ("starlette", "pyramid")]


@pytest.fixture(scope="module")
def ports(valkey_server: Server) -> Iterator[Ports]:
    """Both servers."""
    url = valkey_server.url
    with (
        served(CASES["waitress"], url, APP) as pyramid,
        served(Case(UVICORN), url, APP) as starlette,
    ):
        yield {"pyramid": pyramid, "starlette": starlette}


def get(port: int, path: str, cookie: str) -> tuple[Any, str | None]:
    """What is answered, and the cookie that is set."""
    status, new, body = asyncio.run(ask(port, path, cookie))
    assert status == 200
    return json.loads(body), new


def begun(port: int) -> str:
    """The cookie of a new session."""
    _, cookie = get(port, "/put?name=first", "")
    assert cookie
    return cookie


def test_overlapping_writes(ports: Ports) -> None:
    """A thousand writes of different keys, half of them by each side: none is lost, and each side
    reads them all."""
    cookie = begun(ports["pyramid"])
    both = list(ports.values())

    async def put(number: int, room: asyncio.Semaphore) -> int:
        async with room:
            return (await ask(both[number % 2], f"/put?name=k{number}", cookie))[0]

    async def crowd() -> list[int]:
        room = asyncio.Semaphore(AT_ONCE)
        return await asyncio.gather(*[put(number, room) for number in range(WRITES)])

    assert asyncio.run(crowd()) == [200] * WRITES
    stored = {name: name for name in ["first", *[f"k{number}" for number in range(WRITES)]]}
    for port in both:
        assert get(port, "/read", cookie) == (stored, None)


@pytest.mark.parametrize(("one", "other"), WAYS)
def test_login_and_logout(ports: Ports, one: str, other: str) -> None:
    """A login on one side renews the cookie, which both accept, and the old one opens nothing on
    either; a logout on one side is seen by the other's next call."""
    old = begun(ports[other])
    _, cookie = get(ports[one], "/enter?name=ann", old)
    assert cookie not in (None, "", old)
    for port in ports.values():
        assert get(port, "/who", str(cookie)) == ("ann", None)
        assert get(port, "/read", str(cookie)) == ({"first": "first"}, None)
        assert get(port, "/read", old) == ({}, None)
    assert get(ports[one], "/leave", str(cookie)) == (True, "")
    assert get(ports[other], "/who", str(cookie)) == (None, None)
    assert get(ports[other], "/read", str(cookie)) == ({}, None)
