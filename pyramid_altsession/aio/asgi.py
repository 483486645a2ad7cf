"""Sessions of ASGI applications: Starlette, FastAPI, or any other."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from pyramid.httpexceptions import HTTPException
from pyramid.response import Response

from ..errors import AltSessionError, SessionFull, SessionGone, StoreUnavailable
from ..web.ending import warn_of_plain_http
from .api import AsyncRequestSession, AsyncSessionAPI, serving

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

ACCEPT, CLOSE, DISCONNECT = "websocket.accept", "websocket.close", "websocket.disconnect"
HEADERS = ("http.response.start", ACCEPT, "websocket.http.response.start")
"""Messages that carry the headers of an answer."""
POLICY, TRY_LATER = 1008, 1013
"""Codes that close a websocket (RFC 6455, 7.4.1, and the registry of IANA)."""


def needed(scope: Scope) -> bool:
    """Every request needs its session."""
    return False


class AltSessionMiddleware:
    """Gives each HTTP request and websocket its session, as ``request.altsession`` in Pyramid:
    ``scope["altsession"]``, in Starlette and FastAPI ``request.state.altsession``.

    The cookie, ``Cache-Control`` and ``Vary`` are those that Pyramid's side sends, and so are the
    pages of :exc:`SessionGone` (409) and :exc:`StoreUnavailable` (503) that the application does
    not handle. A websocket's cookie is sent with its handshake. After that, and once the headers of
    an answer are sent, a call that would need a new cookie (a first write, ``login``, ``renew``)
    raises RuntimeError. After the handshake, SessionGone and :exc:`SessionFull` close the socket
    with code 1008, StoreUnavailable with 1013; the ASGI server gets any other error.

    ``api``: an :class:`AsyncSessionAPI`, which is closed when the ASGI server shuts down; TypeError
    if it is another one.
    ``optional``: a function that gets the scope and returns whether the request can do without its
    session while the session server is away: then reads find nothing, and only writes raise
    StoreUnavailable. By default every request needs its session.
    """

    def __init__(
        self, app: App, api: AsyncSessionAPI, *, optional: Callable[[Scope], bool] = needed
    ) -> None:
        if not isinstance(api, AsyncSessionAPI):
            kind = type(api).__name__
            raise TypeError(f"AltSessionMiddleware: api must be an AsyncSessionAPI, not {kind}")
        self._app = app
        self._api = api
        self._optional = optional
        self._warned = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, self._closing(send))
            return
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        outer = scope.get("altsession")
        if isinstance(outer, AsyncRequestSession) and outer.belongs_to(self._api):
            mounted = Answer(self._api, outer, scope, send, self._warn, mounted=True)
            await mounted.of(self._app, receive)
            return
        cookies = [value for name, value in scope["headers"] if name == b"cookie"]
        header = b"; ".join(cookies).decode("latin-1")
        session = self._api.session(header, optional=self._optional(scope))
        state = {**scope.get("state", {}), "altsession": session}
        scope = {**scope, "altsession": session, "state": state}
        before = serving.set(session)
        try:
            await Answer(self._api, session, scope, send, self._warn).of(self._app, receive)
        finally:
            serving.reset(before)
            session.answered()
            if session.begun is not None:
                session.begun.state.abandon()

    def _closing(self, send: Send) -> Send:
        async def closing(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown."):
                await self._api.close()
            await send(message)

        return closing

    def _warn(self, scope: Scope) -> None:
        """Warn once of a cookie that browsers may not send back."""
        plain = scope.get("scheme") in ("http", "ws") and self._api.settings.session.secure
        if plain and not self._warned:
            self._warned = True
            warn_of_plain_http()


class Answer:
    """The answer to one request, on its way. ``mounted``: around it is another one with the same
    session, which adds the headers.
    """

    def __init__(
        self,
        api: AsyncSessionAPI,
        session: AsyncRequestSession,
        scope: Scope,
        send: Send,
        warn: Callable[[Scope], None],
        *,
        mounted: bool = False,
    ) -> None:
        self._mounted = mounted
        self._api = api
        self._session = session
        self._scope = scope
        self._send = send
        self._warn = warn
        self._stage: str | None = None  # the last message that began the answer, or closed it
        self._left = False  # the browser has closed the websocket

    async def of(self, app: App, receive: Receive) -> None:
        async def heard() -> Message:
            message = await receive()
            self._left = self._left or message["type"] == DISCONNECT
            return message

        try:
            await app(self._scope, heard, self.send)
        except (AltSessionError, ExceptionGroup) as raised:
            error = reason_of(raised)
            if error is None:
                raise
            code = code_of(error)
            if self._stage is None and isinstance(error, HTTPException):
                await self._show(error)
            elif self._stage == ACCEPT and code is not None:
                await self._close(code)
            else:
                raise

    async def _close(self, code: int) -> None:
        """Close the websocket, unless the browser has: servers refuse to do it again."""
        if not self._left:
            await self._send({"type": CLOSE, "code": code})

    async def send(self, message: Message) -> None:
        """Pass on what the application sends, and add the session's headers."""
        kind = message["type"]
        if kind in HEADERS:
            if self._session.begun is None:
                self._session.answered()
            elif not self._mounted:
                headers = [*message.get("headers", ())]
                message = {**message, "headers": await self._finished(headers)}
            self._stage = kind  # not before: while it waits, the application may give up
        elif kind == CLOSE:
            self._stage = kind
            self._session.answered()
        await self._send(message)

    async def _finished(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
        response = Response(headerlist=pairs, app_iter=())
        await self._api.finish(self._session, response)
        if self._session.driver.state.cookie is not None:
            self._warn(self._scope)
        return encoded(response.headerlist)

    async def _show(self, error: HTTPException) -> None:
        """Answer with the error's page; also before a websocket's handshake, if the ASGI server can
        send one.
        """
        kind, scope = "http.response", self._scope
        if scope["type"] == "websocket":
            kind = "websocket.http.response"
            if kind not in (scope.get("extensions") or {}):
                await self._send({"type": CLOSE, "code": POLICY})
                return
        error.prepare(environ_of(scope))
        body = b"" if scope.get("method") == "HEAD" else b"".join(error.app_iter)
        start = {"type": f"{kind}.start", "status": error.status_int}
        await self.send({**start, "headers": encoded(error.headerlist)})
        await self.send({"type": f"{kind}.body", "body": body})


def reason_of(raised: Exception) -> AltSessionError | None:
    """The error of this package that was raised: by itself, or by tasks of a TaskGroup of which
    none failed for another reason.
    """
    while isinstance(raised, ExceptionGroup):
        if raised.split(AltSessionError)[1] is not None:
            return None
        raised = raised.exceptions[0]
    return raised if isinstance(raised, AltSessionError) else None


def code_of(error: AltSessionError) -> int | None:
    """The code that closes a websocket; None for an error of the application's own."""
    if isinstance(error, SessionFull | SessionGone):
        return POLICY
    return TRY_LATER if isinstance(error, StoreUnavailable) else None


def environ_of(scope: Scope) -> Mapping[str, str]:
    """The parts of a WSGI environ that an error's page needs."""
    accepted = [value.decode("latin-1") for name, value in scope["headers"] if name == b"accept"]
    return {"HTTP_ACCEPT": ", ".join(accepted)} if accepted else {}


def encoded(headers: list[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
