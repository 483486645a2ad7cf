"""The demo's live page, by uvicorn, and what closes its websocket."""

import contextlib
import json
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator

import pytest
import uvicorn
import websockets
from servers import Server
from websockets.sync.client import ClientConnection, connect

from pyramid_altsession import SessionAPI
from pyramid_altsession.aio import AsyncSessionAPI
from pyramid_altsession.api import OpenSession
from pyramid_altsession.config.sources import read_settings
from pyramid_altsession.config.table import Settings
from pyramid_altsession.demo.live import application

ENDED = 1008


def settings_of(server: Server) -> Settings:
    return read_settings({"redis.url": server.url, "session.notify": "keys"})


@contextlib.contextmanager
def served(server: Server) -> Iterator[int]:
    """The port of the live page."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        app = application(AsyncSessionAPI(settings_of(server)), "http://shop")
        asgi = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=asgi.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not asgi.started:
                time.sleep(0.005)
            yield listener.getsockname()[1]
        finally:
            asgi.should_exit = True
            thread.join()


@pytest.fixture
def api(server: Server) -> Iterator[SessionAPI]:
    found = SessionAPI(settings_of(server))
    yield found
    found.close()


@pytest.fixture
def port(server: Server) -> Iterator[int]:
    with served(server) as found:
        yield found


def live(port: int, session: OpenSession) -> ClientConnection:
    cookie = {"Cookie": f"sid={session.token}"}
    return connect(f"ws://127.0.0.1:{port}/cart", additional_headers=cookie)


def lines(page: ClientConnection) -> list[list[str]]:
    found: list[list[str]] = json.loads(page.recv(timeout=60))["lines"]
    return found


def code_at_the_end(page: ClientConnection) -> int | None:
    with contextlib.suppress(websockets.ConnectionClosed):
        while True:
            page.recv(timeout=60)
    return page.close_code


ENDS: dict[str, Callable[[SessionAPI, OpenSession], object]] = {
    "logout": lambda api, session: session.logout(),
    "device": lambda api, session: api.invalidate_id(str(session.id), "ann"),
    "password": lambda api, session: api.invalidate_user("ann"),
}


@pytest.mark.parametrize("end", ENDS)
def test_it_closes(api: SessionAPI, port: int, end: str) -> None:
    """It shows the cart, follows it through a renewal, and closes with the session."""
    session = api.create({"cart.cup": 1})
    session.login("ann")
    with live(port, session) as page:
        assert lines(page) == [["Cup and saucer", "1 ×", "€12.50"]]
        session.renew()
        session.increment("cart.cup")
        assert lines(page) == [["Cup and saucer", "2 ×", "€25.00"]]
        ENDS[end](api, session)
        assert code_at_the_end(page) == ENDED


def test_without_a_session(port: int, api: SessionAPI) -> None:
    """There is nothing to show, and the socket says so, as when a session ends."""
    session = api.create()
    session.logout()
    ended = {"Cookie": f"sid={session.id}.{'x' * 43}"}
    for cookie in (ended, {}):
        with connect(f"ws://127.0.0.1:{port}/cart", additional_headers=cookie) as page:
            assert code_at_the_end(page) == ENDED


def test_the_page(port: int) -> None:
    """It is there without a session, in the visitor's language, and links to the shop."""
    headers = {"Accept-Language": "de"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/", headers=headers)
    with urllib.request.urlopen(request) as answer:
        text = answer.read().decode()
    assert "Warenkorb, live" in text
    assert 'href="http://shop/"' in text


def test_the_browser_leaves(port: int, api: SessionAPI, server: Server) -> None:
    """Nobody watches a session for a page that is closed."""
    session = api.create({"cart.cup": 1})
    with live(port, session) as page:
        lines(page)
        assert server.client.execute_command("PUBSUB", "SHARDCHANNELS") != []
    deadline = time.monotonic() + 60
    while server.client.execute_command("PUBSUB", "SHARDCHANNELS"):
        assert time.monotonic() < deadline
        time.sleep(0.005)
