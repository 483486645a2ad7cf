"""The ASGI middleware: the answers' headers are those of Pyramid's side in the same situation."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from apps import Site, site
from inside import store_in
from pyramid.request import Request
from pyramid.response import Response
from servers import Server
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request as StarletteRequest
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from pyramid_altsession import (
    AltSessionError,
    CorruptValue,
    FreshLoginRequired,
    InvalidKey,
    NotDurable,
    SessionAPI,
    SessionFull,
    SessionGone,
    StoreFull,
    StoreUnavailable,
    TooManySessions,
    ValueTooLarge,
)
from pyramid_altsession.aio import AsyncSessionAPI
from pyramid_altsession.aio.api import AsyncRequestSession
from pyramid_altsession.aio.asgi import AltSessionMiddleware
from pyramid_altsession.aio.store import AsyncStore
from pyramid_altsession.protocol.messages import Operation, Reply

SETTINGS = {"altsession.session.renew_after": 1, "altsession.session.renew_grace": 60}
HEADERS = ("set-cookie", "cache-control", "vary", "retry-after", "content-type")

# What a request does with its session, in the words that both kinds of session share.
ACTS: dict[str, list[tuple[str, tuple[Any, ...]]]] = {
    "nothing": [],
    "read": [("get", ("cart",))],
    "write": [("set", ("cart", 1))],
    "login": [("login", ("ann",))],
    "renew": [("renew", ())],
    "invalidate": [("invalidate", ())],
    "write_and_end": [("set", ("cart", 1)), ("invalidate", ())],
}


def pyramid_site(server: Server) -> Site:
    def view(name: str) -> Callable[[Request], Response]:
        def act(request: Request) -> Response:
            for call, arguments in ACTS[name]:
                getattr(request.altsession, call)(*arguments)
            return Response("ok", content_type="text/plain", charset="utf-8")

        return act

    def gone(request: Request) -> Response:
        raise SessionGone

    def away(request: Request) -> Response:
        request.altsession.get("cart")
        raise StoreUnavailable("away")

    views = {**{name: view(name) for name in ACTS}, "gone": gone, "away": away}
    return site(server.url, views, settings=SETTINGS)


def starlette_app(api: AsyncSessionAPI) -> Starlette:
    def endpoint(name: str) -> Any:
        async def act(request: StarletteRequest) -> PlainTextResponse:
            for call, arguments in ACTS[name]:
                await getattr(request.state.altsession, call)(*arguments)
            return PlainTextResponse("ok")

        return act

    async def gone(request: StarletteRequest) -> PlainTextResponse:
        raise SessionGone

    async def away(request: StarletteRequest) -> PlainTextResponse:
        await request.state.altsession.get("cart")
        raise StoreUnavailable("away")

    async def socket(websocket: WebSocket) -> None:
        session = websocket.state.altsession
        await session.set("cart", 1)
        await websocket.accept()
        await websocket.send_json(await session.get("cart"))
        await session.get("cart", fresh=True)
        raise SessionGone

    async def full(websocket: WebSocket) -> None:
        await websocket.accept()
        raise SessionFull("full")

    async def refused(websocket: WebSocket) -> None:
        raise SessionGone

    routes = [Route(f"/{name}", endpoint(name)) for name in ACTS]
    routes += [Route("/gone", gone), Route("/away", away)]
    sockets = [WebSocketRoute("/socket", socket), WebSocketRoute("/refused", refused)]
    sockets.append(WebSocketRoute("/full", full))
    middleware = [Middleware(AltSessionMiddleware, api=api)]
    return Starlette(routes=[*routes, *sockets], middleware=middleware)


def ask(app: Any, path: str, cookie: str | None = None, **more: Any) -> list[dict[str, Any]]:
    """What the application sends."""
    sent: list[Any] = []
    headers = [] if cookie is None else [(b"cookie", f"sid={cookie}".encode())]
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers,
        "scheme": "https",
        **more,
    }
    received = iter(
        [
            {"type": "websocket.connect"}
            if scope["type"] == "websocket"
            else {"type": "http.request", "body": b""}
        ]
    )

    async def receive() -> Any:
        return next(received)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent


def shown(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The headers that are compared, without what is drawn at random."""
    token = re.compile(r"[\w-]{22}\.[\w-]{43}")
    kept = [(name.lower(), token.sub("TOKEN", value)) for name, value in headers]
    return sorted((name, value) for name, value in kept if name in HEADERS)


def of_asgi(message: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name.decode(), value.decode()) for name, value in message["headers"]]


@pytest.fixture
def pyramid(server: Server) -> Site:
    return pyramid_site(server)


@pytest.fixture
def app(server: Server) -> Any:
    mapping = {"altsession.redis.url": server.url, **SETTINGS}

    async def served(scope: Any, receive: Any, send: Any) -> None:
        async with AsyncSessionAPI.from_settings(mapping) as api:
            await starlette_app(api)(scope, receive, send)

    return served


def token_of(site: Site, case: str) -> str | None:
    """A cookie as it comes in this case."""
    if case == "no cookie":
        return None
    if case == "forged":
        return f"{'a' * 22}.{'b' * 43}"
    session = site.api.create({"cart": 0})
    if case == "signed in":
        session.login("ann")
    token = session.token
    if case == "renewed":
        session.renew()
    if case == "ended":
        session.invalidate()
    return token


CASES = ["no cookie", "forged", "alive", "signed in", "renewed", "ended"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", [*ACTS, "gone", "away"])
def test_headers_are_those_of_pyramid(name: str, case: str, pyramid: Site, app: Any) -> None:
    """Status, cookie, Cache-Control, Vary and the page are equal on both sides."""
    token = token_of(pyramid, case)
    if token is not None:
        pyramid.token = token
    theirs = pyramid.get(f"/{name}", status="*")
    start, body = ask(app, f"/{name}", token_of(pyramid, case))
    assert start["status"] == theirs.status_int
    assert shown(of_asgi(start)) == shown(theirs.headerlist)
    assert body["body"] == theirs.body


def test_one_session_for_both(pyramid: Site, app: Any) -> None:
    """What Pyramid's side stored is there for the ASGI side, and the cookie that the one renews
    is good for the other."""
    pyramid.get("/write")
    start, _ = ask(app, "/login", pyramid.token)
    renewed = dict(of_asgi(start))["set-cookie"].partition(";")[0].removeprefix("sid=")
    assert renewed != pyramid.token
    assert pyramid.api.open(renewed).mget(["cart"]) == {"cart": 1}
    assert pyramid.api.open(renewed).userid() == "ann"


def test_current_session(server: Server) -> None:
    """sessions_of marks the session of the request that asks."""
    api = AsyncSessionAPI.from_settings({"redis.url": server.url})
    marks: list[bool] = []

    async def plain(scope: Any, receive: Any, send: Any) -> None:
        await scope["altsession"].login("ann")
        marks.extend([each.current for each in await api.sessions_of("ann")])
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})
        await api.close()

    ask(AltSessionMiddleware(AltSessionMiddleware(plain, api), api), "/")
    assert marks == [True]


def test_websocket(app: Any) -> None:
    """The cookie goes with the handshake, and a session that is gone closes the socket."""
    accept, message, close = ask(app, "/socket", type="websocket", scheme="wss")
    assert [name for name, _ in of_asgi(accept)] == ["vary", "set-cookie", "cache-control"]
    assert message["text"] == "1"
    assert close == {"type": "websocket.close", "code": 1008}


def test_websocket_of_a_full_session(app: Any) -> None:
    """To try again later would not help."""
    assert ask(app, "/full", type="websocket")[-1] == {"type": "websocket.close", "code": 1008}


def test_websocket_that_the_browser_left() -> None:
    """Nobody is there to be told, and servers refuse to close such a socket again."""
    sent: list[str] = []

    async def plain(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        assert (await receive())["type"] == "websocket.disconnect"
        raise SessionGone

    async def receive() -> Any:
        return {"type": "websocket.disconnect", "code": 1001}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    api = AsyncSessionAPI.from_settings({"redis.url": "memory://"})
    scope = {"type": "websocket", "headers": []}
    asyncio.run(AltSessionMiddleware(plain, api)(scope, receive, send))
    assert sent == ["websocket.accept"]


def test_websocket_that_is_refused(app: Any) -> None:
    """Before the handshake it is the page, where the server can send one."""
    extensions = {"websocket.http.response": {}}
    start, _ = ask(app, "/refused", type="websocket", extensions=extensions)
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 409)
    assert ask(app, "/refused", type="websocket") == [{"type": "websocket.close", "code": 1008}]


def test_requests_that_do_without() -> None:
    """While the server is away an optional session reads as none, and the answer leaves the cookie
    alone; a write is StoreUnavailable, and so is a read where the session is needed."""
    api = AsyncSessionAPI.from_settings({"redis.url": "unix:///nowhere"})
    found: list[Any] = []

    async def plain(scope: Any, receive: Any, send: Any) -> None:
        session = scope["altsession"]
        found.append([await session.get("cart", "none"), await session.userid()])
        if scope["path"] == "/write":
            await session.set("cart", 1)
        await send({"type": "http.response.start", "status": 200})

    app = AltSessionMiddleware(plain, api, optional=lambda scope: scope["path"] != "/needed")
    cookie = f"{'a' * 22}.{'b' * 43}"
    (start,) = ask(app, "/read", cookie)
    assert (start["status"], found) == (200, [["none", None]])
    assert "set-cookie" not in dict(of_asgi(start))
    assert ask(app, "/write", cookie)[0]["status"] == 503
    assert (ask(app, "/needed", cookie)[0]["status"], len(found)) == (503, 2)


@pytest.mark.parametrize("path", ["/sub/gone", "/sub/write"])
def test_a_mounted_application(path: str) -> None:
    """Its errors get their pages, before its own middleware makes a 500 of them; its answers have
    the cookie once."""
    api = AsyncSessionAPI.from_settings({"redis.url": "memory://"})
    middleware = [Middleware(AltSessionMiddleware, api=api)]
    routes = [Mount("/sub", starlette_app(api))]
    start, _ = ask(Starlette(routes=routes, middleware=middleware), path)
    assert start["status"] == (409 if path == "/sub/gone" else 200)
    names = [name for name, _ in of_asgi(start)]
    assert names.count("set-cookie") == (path == "/sub/write")


# -- errors of tasks


def fails_in_tasks(*errors: Exception, accepts: bool = False) -> AltSessionMiddleware:
    """An application whose tasks, in groups within groups, raise these errors."""

    async def fail(error: Exception) -> None:
        await asyncio.sleep(0)
        raise error

    async def fail_together(errors: tuple[Exception, ...]) -> None:
        async with asyncio.TaskGroup() as tasks:
            for error in errors:
                tasks.create_task(fail(error))

    async def plain(scope: Any, receive: Any, send: Any) -> None:
        if accepts:
            await send({"type": "websocket.accept"})
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fail_together(errors))

    return AltSessionMiddleware(plain, AsyncSessionAPI.from_settings({"redis.url": "memory://"}))


def test_api_of_the_pyramid_side() -> None:
    """It cannot be awaited, so it is refused at once and not in each request."""
    api: Any = SessionAPI.from_settings(IN_MEMORY)
    with pytest.raises(TypeError, match=r"an AsyncSessionAPI, not SessionAPI$"):
        AltSessionMiddleware(Starlette(), api)


def test_tasks_that_fail() -> None:
    """Errors of a TaskGroup are answered as the error itself is."""
    away = StoreUnavailable("away")
    assert ask(fails_in_tasks(away, StoreUnavailable("away")), "/")[0]["status"] == 503
    app = fails_in_tasks(SessionGone(), accepts=True)
    assert ask(app, "/", type="websocket")[-1] == {"type": "websocket.close", "code": 1008}


def test_tasks_that_fail_for_another_reason() -> None:
    """The server gets all errors: no page may hide a mistake of the application."""
    with pytest.raises(ExceptionGroup) as caught:
        ask(fails_in_tasks(StoreUnavailable("away"), KeyError("x")), "/")
    assert caught.group_contains(KeyError)


# -- a first use after the answer began


IN_MEMORY = {"redis.url": "memory://"}
BEGINNINGS = {
    "http": {"type": "http.response.start", "status": 200},
    "websocket": {"type": "websocket.accept"},
}
Late = Callable[[AsyncRequestSession], Awaitable[Any]]


def set_cart(session: AsyncRequestSession) -> Awaitable[Any]:
    return session.set("cart", 1)


def sign_in(session: AsyncRequestSession) -> Awaitable[Any]:
    return session.login("ann")


def renew(session: AsyncRequestSession) -> Awaitable[Any]:
    return session.renew()


@pytest.mark.parametrize("kind", BEGINNINGS)
@pytest.mark.parametrize(("call", "alive"), [(set_cart, 0), (sign_in, 0), (sign_in, 1), (renew, 1)])
def test_first_use_after_the_answer(call: Late, alive: int, kind: str) -> None:
    """A call that needs a new cookie is a RuntimeError, makes no session, and leaves the visitor's
    cookie as it is."""
    api = AsyncSessionAPI.from_settings(IN_MEMORY)
    token = asyncio.run(api.create({"cart": 0})).token if alive else None
    found: list[Any] = []

    async def late(scope: Any, receive: Any, send: Any) -> None:
        await send(BEGINNINGS[kind])
        with pytest.raises(RuntimeError, match="because the answer has begun"):
            await call(scope["altsession"])
        found.append(await scope["altsession"].get("cart"))

    ask(AltSessionMiddleware(late, api), "/", token, type=kind)
    assert found == ([0] if alive else [None])
    assert len(store_in(store_in(api)).hashes) == alive


def test_writes_after_the_answer() -> None:
    """They reach a session that is there."""
    api = AsyncSessionAPI.from_settings(IN_MEMORY)
    token = asyncio.run(api.create({"cart": 0})).token

    async def late(scope: Any, receive: Any, send: Any) -> None:
        await send(BEGINNINGS["http"])
        await scope["altsession"].set("cart", 1)

    ask(AltSessionMiddleware(late, api), "/", token)
    assert asyncio.run(api.open(str(token)).get("cart")) == 1


@pytest.mark.parametrize("begun", [False, True])
def test_finish_of_other_middleware(begun: bool) -> None:
    """``finish`` ends the time for cookies, whether the session was used before or not."""

    async def act() -> None:
        api = AsyncSessionAPI.from_settings(IN_MEMORY)
        session, response = api.session(""), Response()
        if begun:
            await session.get("cart")
        await api.finish(session, response)
        with pytest.raises(RuntimeError, match="because the answer has begun"):
            await session.set("cart", 1)

    asyncio.run(act())


@pytest.mark.parametrize("closes", [True, False])
def test_use_after_the_end(closes: bool) -> None:
    """Nor can a cookie be sent after a handshake was refused, or when the application has ended
    without an answer."""
    api, kept = AsyncSessionAPI.from_settings(IN_MEMORY), []

    async def plain(scope: Any, receive: Any, send: Any) -> None:
        kept.append(scope["altsession"])
        if closes:
            await send({"type": "websocket.close"})
            with pytest.raises(RuntimeError):
                await scope["altsession"].set("cart", 1)

    ask(AltSessionMiddleware(plain, api), "/", type="websocket")
    with pytest.raises(RuntimeError):
        asyncio.run(kept[0].set("cart", 1))


class Gate:
    """A store whose operations wait until the gate is opened."""

    def __init__(self, store: AsyncStore) -> None:
        self.store = store
        self.opened = asyncio.Event()

    async def execute(self, operation: Operation) -> Reply:
        await self.opened.wait()
        return await self.store.execute(operation)

    async def close(self) -> None:
        await self.store.close()


def test_an_answer_that_is_given_up() -> None:
    """While it waits for a call of another task, nothing of it has been sent: an error after that
    gets its page."""
    api = AsyncSessionAPI.from_settings(IN_MEMORY)

    async def plain(scope: Any, receive: Any, send: Any) -> None:
        session = scope["altsession"]
        gate = session.driver.store = Gate(store_in(api))
        task = asyncio.create_task(session.set("cart", 1))
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await send(BEGINNINGS["http"])
        gate.opened.set()
        await task
        raise SessionGone

    start, _ = ask(AltSessionMiddleware(plain, api), "/")
    assert start["status"] == 409


@pytest.mark.parametrize("renews", [False, True])
def test_calls_under_way_when_the_answer_begins(renews: bool) -> None:
    """The answer waits for a call of another task, and carries the cookie that it needs: of the
    session that it makes, or of a login, which the periodic renewal does not replace."""
    api = AsyncSessionAPI.from_settings(
        {**IN_MEMORY, "session.renew_after": 1, "session.renew_grace": 60}
    )
    memory = store_in(store_in(api))
    now = time.time()
    memory.clock = lambda: now
    token = None
    if renews:
        made = asyncio.run(api.create())
        asyncio.run(made.login("ann"))
        token = str(made.token)
        now += 10
    kept: list[Any] = []

    async def busy(scope: Any, receive: Any, send: Any) -> None:
        session = scope["altsession"]
        gate = Gate(store_in(api))
        if renews:
            await session.userid()  # by that it knows that a renewal is due
        session.driver.store = gate
        call = session.login("bob") if renews else session.set("cart", 1)
        task = asyncio.create_task(call)
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(gate.opened.set)
        await send(BEGINNINGS["http"])
        await task
        kept.append(session.id)

    (start,) = ask(AltSessionMiddleware(busy, api), "/", token)
    cookie = dict(of_asgi(start))["set-cookie"].partition(";")[0].removeprefix("sid=")
    opened = api.open(cookie)
    assert asyncio.run(opened.userid()) == ("bob" if renews else None)
    assert opened.id == kept[0]


# -- errors of a websocket after the handshake


ACCEPT = {"type": "websocket.accept"}
CLOSE = {"type": "websocket.close", "code": 4000}
REFUSE = {"type": "websocket.http.response.start", "status": 403}


def socket_that(*messages: dict[str, Any], error: Exception) -> Any:
    """The application sends these, and then fails."""

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)
        raise error

    return AltSessionMiddleware(failing, AsyncSessionAPI.from_settings(IN_MEMORY))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SessionGone(), 1008),
        (SessionFull("full"), 1008),
        (StoreUnavailable("away"), 1013),
        (StoreFull("out of memory"), 1013),
        (NotDurable("unconfirmed"), 1013),
    ],
)
def test_errors_that_close_a_websocket(error: AltSessionError, code: int) -> None:
    """1008: it does not help to try again; 1013: it may."""
    sent = ask(socket_that(ACCEPT, error=error), "/", type="websocket")
    assert sent == [ACCEPT, {"type": "websocket.close", "code": code}]


@pytest.mark.parametrize(
    "error",
    [
        InvalidKey("@x"),
        ValueTooLarge("too large"),
        CorruptValue("corrupt"),
        TooManySessions("too many"),
        FreshLoginRequired("an old login"),
    ],
)
def test_errors_that_a_websocket_does_not_hide(error: AltSessionError) -> None:
    """The application's own errors reach the ASGI server, which logs them and closes the socket."""
    with pytest.raises(type(error)):
        ask(socket_that(ACCEPT, error=error), "/", type="websocket")


@pytest.mark.parametrize("messages", [[ACCEPT, CLOSE], [CLOSE], [REFUSE]])
@pytest.mark.parametrize("error", [SessionGone(), StoreUnavailable("away")])
def test_a_websocket_is_closed_once(error: AltSessionError, messages: list[Any]) -> None:
    """An error after the application has closed the socket, or refused it, sends nothing more."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    async def receive() -> Any:
        raise NotImplementedError

    scope = {"type": "websocket", "headers": [], "scheme": "wss"}
    with pytest.raises(type(error)):
        asyncio.run(socket_that(*messages, error=error)(scope, receive, send))
    assert sent == [message["type"] for message in messages]
