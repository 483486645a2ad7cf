"""Other session libraries, doing the same with the same content on the same server.

Those for Pyramid run in the same application and differ in the session factory only. Those of other
frameworks are compared with a bare application of their own framework.
"""

import asyncio
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

from common import Browser, application, at
from pyramid.config import Configurator
from pyramid.session import JSONSerializer, SignedCookieSessionFactory
from views import (
    ALTSESSION,
    CONTENT,
    COUNT,
    SESSION,
    View,
    fill,
    fill_large,
    session_fill,
    session_fill_large,
)

TTI = 1200
OURS, DICT = "altsession", "altsession, request.session"
COOKIE, REDIS, BEAKER, NACL = (
    "Pyramid's signed cookie",
    "pyramid_session_redis",
    "pyramid_beaker",
    "pyramid_nacl_session",
)
HOLDS_LITTLE = {COOKIE, NACL}
"""A cookie has 4 kB at most."""


def secret(path: str) -> bytes:
    """The same in all processes of an application server."""
    return sha256(path.encode()).digest()


def signed_cookie(path: str) -> Any:
    return SignedCookieSessionFactory(
        secret(path).hex(), timeout=TTI, reissue_time=30, serializer=JSONSerializer()
    )


def session_redis(path: str) -> Any:
    from pyramid_session_redis import RedisSessionFactory

    return RedisSessionFactory(secret(path).hex(), timeout=TTI, redis_unix_socket_path=path)


def beaker(path: str) -> Any:
    from pyramid_beaker import session_factory_from_settings

    return session_factory_from_settings(
        {
            "session.type": "ext:redis",
            "session.url": f"unix://{path}",
            "session.timeout": TTI,
            "session.auto": True,
            "session.key": "beaker",
            "session.secret": secret(path).hex(),
        }
    )


def nacl(path: str) -> Any:
    from pyramid_nacl_session import EncryptedCookieSessionFactory

    return EncryptedCookieSessionFactory(secret(path), timeout=TTI, reissue_time=30)


FACTORIES: dict[str, Callable[[str], Any]] = {
    COOKIE: signed_cookie,
    REDIS: session_redis,
    BEAKER: beaker,
    NACL: nacl,
}


def of_pyramid(library: str, path: str, view: View) -> Any:
    """The application with this library and this view."""
    if library == OURS:
        return application(view, at(path))
    if library == DICT:
        return application(view, at(path) | {"altsession.sync.enabled": "true"})
    factory = FACTORIES[library](path)

    def configure(config: Configurator) -> None:
        config.set_session_factory(factory)

    return application(view, {}, configure)


def browsers(library: str, path: str, *, large: bool = False) -> dict[str, Browser]:
    """One for each thing to do, which has a session with the content already."""
    views = ALTSESSION if library == OURS else SESSION
    filling = {
        (True, False): fill,
        (True, True): fill_large,
        (False, False): session_fill,
        (False, True): session_fill_large,
    }[library == OURS, large]
    found = {}
    for name, view in views.items():
        both = [filling, view]

        def in_turn(request: Any, both: list[View] = both) -> Any:
            return both[0](request)  # fills once, and then does what is measured

        found[name] = Browser(of_pyramid(library, path, in_turn))
        found[name]()
        both.pop(0)
    return found


# -- whole requests of other frameworks


def flask(path: str) -> dict[str, Browser]:
    import redis
    from flask import Flask, session
    from flask_session import Session

    def make(kept: bool) -> Flask:
        app = Flask("bench")
        if kept:
            app.config |= {
                "SESSION_TYPE": "redis",
                "SESSION_REDIS": redis.Redis(unix_socket_path=path),
            }
            Session(app)
        return app

    def bare() -> str:
        return "ok"

    def read() -> str:
        return str(session["cart"])

    def write() -> str:
        session["seen"] = next(COUNT)
        return "ok"

    def filled() -> str:
        session.update(CONTENT)
        return "ok"

    apps = {"bare": make(False)}
    apps["bare"].add_url_rule("/", view_func=bare)
    for name, view in {"read one": read, "write one": write}.items():
        apps[name] = make(True)
        apps[name].add_url_rule("/fill", view_func=filled)
        apps[name].add_url_rule("/", view_func=view)
    found = {name: Browser(app.wsgi_app) for name, app in apps.items()}
    for name in ("read one", "write one"):
        found[name].visit("/fill")
    return found


def django(path: str) -> dict[str, Browser]:
    import django as package
    from django.conf import settings
    from django.core.handlers.wsgi import WSGIHandler
    from django.http import HttpRequest, HttpResponse
    from django.urls import path as url

    def bare(request: HttpRequest) -> HttpResponse:
        return HttpResponse("ok")

    def read(request: HttpRequest) -> HttpResponse:
        return HttpResponse(str(request.session["cart"]))

    def write(request: HttpRequest) -> HttpResponse:
        request.session["seen"] = next(COUNT)
        return HttpResponse("ok")

    def filled(request: HttpRequest) -> HttpResponse:
        for key, value in CONTENT.items():
            request.session[key] = value
        return HttpResponse("ok")

    routes = [url("", read), url("write", write), url("fill", filled)]
    module = type("urls", (), {"urlpatterns": routes})
    bare_module = type("bare_urls", (), {"urlpatterns": [url("", bare)]})
    settings.configure(
        ALLOWED_HOSTS=["*"],
        SECRET_KEY=secret(path).hex(),
        ROOT_URLCONF=module,
        SESSION_ENGINE="django.contrib.sessions.backends.cache",
        CACHES={
            "default": {
                "BACKEND": "django.core.cache.backends.redis.RedisCache",
                "LOCATION": f"unix://{path}",
            }
        },
        MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
    )
    package.setup()
    served = WSGIHandler()
    settings.MIDDLEWARE = []
    without = WSGIHandler()

    def bare_app(environ: dict[str, Any], start_response: Any) -> Any:
        settings.ROOT_URLCONF = bare_module
        try:
            return without(environ, start_response)
        finally:
            settings.ROOT_URLCONF = module

    def writing(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/":
            environ["PATH_INFO"] = "/write"
        return served(environ, start_response)

    found = {
        "bare": Browser(bare_app),
        "read one": Browser(served),
        "write one": Browser(writing),
    }
    for name in ("read one", "write one"):
        found[name].visit("/fill")
    return found


def starlette(path: str) -> dict[str, Callable[[], object]]:
    from redis.asyncio import Redis
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route
    from starsessions import SessionAutoloadMiddleware, SessionMiddleware
    from starsessions.stores.redis import RedisStore

    async def bare(request: Request) -> PlainTextResponse:
        return PlainTextResponse("ok")

    async def read(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(request.session["cart"]))

    async def write(request: Request) -> PlainTextResponse:
        request.session["seen"] = next(COUNT)
        return PlainTextResponse("ok")

    async def filled(request: Request) -> PlainTextResponse:
        request.session.update(CONTENT)
        return PlainTextResponse("ok")

    loop = asyncio.new_event_loop()
    store = RedisStore(connection=Redis(unix_socket_path=path))
    kept = [
        Middleware(SessionMiddleware, store=store, lifetime=TTI, cookie_https_only=False),
        Middleware(SessionAutoloadMiddleware),
    ]
    found: dict[str, Callable[[], object]] = {
        "bare": ASGIBrowser(Starlette(routes=[Route("/", bare)]), loop)
    }
    for name, view in {"read one": read, "write one": write}.items():
        routes = [Route("/", view), Route("/fill", filled)]
        browser = ASGIBrowser(Starlette(routes=routes, middleware=kept), loop)
        browser("/fill")
        found[name] = browser
    return found


class ASGIBrowser:
    """The same as Browser, for an ASGI application."""

    def __init__(self, app: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._app = app
        self._loop = loop
        self._cookie = b""

    def __call__(self, path: str = "/") -> object:
        return self._loop.run_until_complete(self._ask(path))

    async def _ask(self, path: str) -> None:
        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "http_version": "1.1",
            "headers": [(b"host", b"localhost"), (b"cookie", self._cookie)],
            "server": ("localhost", 80),
            "client": ("localhost", 1),
        }
        await self._app(scope, self._receive, self._send)

    async def _receive(self) -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def _send(self, message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            assert message["status"] == 200, message
            for name, value in message["headers"]:
                if name == b"set-cookie":
                    self._cookie = value.partition(b";")[0]


FRAMEWORKS = {
    "Flask-Session on Flask": flask,
    "cached sessions on Django": django,
    "starsessions on Starlette": starlette,
}
