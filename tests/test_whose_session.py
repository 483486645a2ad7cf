"""Whose session a request gets: its own, whatever runs it and whatever handed it on."""

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from apps import Site, View, cookie_of, site
from greenlet import getcurrent, greenlet
from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response
from pyramid.wsgi import wsgiapp, wsgiapp2
from servers import Server
from webtest import TestApp
from workers import in_threads

from pyramid_altsession.api import SessionAPI
from pyramid_altsession.events import SessionCreated
from pyramid_altsession.interfaces import ISessionAPI

VISITORS = 20
EXPLICIT = {"pyramid.tweens": "pyramid.tweens.excview_tween_factory"}


def set_cookies(response: Any) -> list[str]:
    found: list[str] = response.headers.getall("Set-Cookie")
    return found


def ask(app: Any, path: str, token: str | None = None) -> Response:
    """One request, without a browser around it."""
    headers = {} if token is None else {"Cookie": f"sid={token}"}
    application = app.app if isinstance(app, Site) else app
    return Request.blank(f"https://localhost{path}", headers=headers).get_response(application)


def token_in(response: Response) -> str:
    (header,) = set_cookies(response)
    token = cookie_of(header)
    assert token is not None
    return token


# -- whatever runs it. Pyramid's thread-locals are not patched here, as where gevent patches after
# -- Pyramid was imported: all greenlets share them.


def mine(request: Request) -> Any:
    """Write one's own, let the others go on, and look what is there."""
    name = request.params["name"]
    request.altsession.set("name", name)
    switch()
    return request.altsession.get("name", fresh=True)


def signs_in(request: Request) -> Any:
    request.altsession.login(request.params["name"])
    switch()
    return request.altsession.userid()


def looks_first(request: Request) -> Any:
    request.altsession.get("name")
    switch()
    return mine(request)


class Served(greenlet):
    """A request that is served in a greenlet."""


def switch() -> None:
    """Others go on meanwhile."""
    here = getcurrent()
    if isinstance(here, Served):
        here.parent.switch()
    else:
        time.sleep(0)


VIEWS: dict[str, View] = {"mine": mine, "in": signs_in, "looks": looks_first}


@pytest.fixture(params=["memory", "valkey"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return "memory://"
    server: Server = request.getfixturevalue("server")
    return server.url


def visited(app: Site, path: str) -> list[tuple[str, Any, str]]:
    """Visitors without a cookie who all come at once: name, answer and token of each."""
    seen: list[tuple[str, Any, str]] = []

    def visit(name: str) -> None:
        try:
            response = ask(app, f"/{path}?name={name}")
            seen.append((name, response.json, token_in(response)))
        except Exception as error:
            seen.append((name, type(error), ""))

    going_on = [Served(visit) for _ in range(VISITORS)]
    for number, work in enumerate(going_on):
        work.switch(f"v{number}")
    while going_on := [work for work in going_on if not work.dead]:
        for work in going_on:
            work.switch()
    return seen


@pytest.mark.parametrize("path", VIEWS)
@pytest.mark.parametrize("settings", [{}, EXPLICIT], ids=["tween", "no tween"])
def test_greenlets(url: str, path: str, settings: Mapping[str, object]) -> None:
    """Of visitors without a cookie who are served by greenlets at once, each has a session of its
    own."""
    answers = visited(site(url, VIEWS, settings=settings), path)
    assert [seen for _, seen, _ in answers] == [name for name, _, _ in answers]
    assert len({token for _, _, token in answers}) == VISITORS


@pytest.mark.parametrize("path", VIEWS)
def test_threads(url: str, path: str) -> None:
    """The same of visitors who are served by threads."""
    app = site(url, VIEWS)
    answers = in_threads(VISITORS, lambda number: ask(app, f"/{path}?name=v{number}").json)
    assert answers == [f"v{number}" for number in range(VISITORS)]


@pytest.mark.parametrize("path", VIEWS)
def test_tasks(url: str, path: str) -> None:
    """The same of visitors who are served by tasks of asyncio, each with a greenlet for what
    cannot wait otherwise."""
    app = site(url, VIEWS)

    async def visit(number: int) -> Any:
        work = Served(lambda: ask(app, f"/{path}?name=v{number}").json)
        while True:
            answer = work.switch()
            if work.dead:
                return answer
            await asyncio.sleep(0)

    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*[visit(number) for number in range(VISITORS)])

    assert asyncio.run(all_at_once()) == [f"v{number}" for number in range(VISITORS)]


def test_request_of_an_event(url: str) -> None:
    """An event's request is the one that made it happen, while other greenlets are served."""
    told: list[tuple[str, str]] = []

    def note(event: SessionCreated) -> None:
        assert event.request is not None
        told.append((event.request.params["name"], event.id))

    def view(request: Request) -> Any:
        switch()
        return mine(request)

    app = site(url, {"view": view}, configure=lambda c: c.add_subscriber(note, SessionCreated))
    answers = visited(app, "view")
    assert dict(told) == {name: token.partition(".")[0] for name, _, token in answers}
