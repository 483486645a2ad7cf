"""What the tests of sessions and of HTTP share: a counting store, a look behind the store, a
browser, and small applications whose views stand in the tests."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyramid_retry
import redis
from inside import put_store, store_in
from pyramid.config import Configurator
from pyramid.interfaces import ISessionFactory
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response
from pyramid.tweens import EXCVIEW, MAIN
from webtest import TestApp

from pyramid_altsession.api import SessionAPI
from pyramid_altsession.config.sources import read_settings
from pyramid_altsession.config.table import Settings
from pyramid_altsession.interfaces import ISessionAPI, Store
from pyramid_altsession.protocol.contract import PendingRead
from pyramid_altsession.protocol.frame import end_of, ending
from pyramid_altsession.protocol.messages import Operation, Read, Reply, Write
from pyramid_altsession.session import AltSession
from pyramid_altsession.stores.apply import Hash
from pyramid_altsession.stores.memory import MemoryStore
from pyramid_altsession.web.request_session import session_factory

SID = re.compile(r"sid=([^;]*)")


class Watched:
    """A store that remembers what it was asked, and fails where a test says so.

    ``before`` and ``after`` see each operation; what they raise is the store's error.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.operations: list[Operation] = []
        self.before: Callable[[Operation], object] = lambda operation: None
        self.after: Callable[[Operation], object] = lambda operation: None

    def execute(self, operation: Operation) -> Reply:
        self.operations.append(operation)
        self.before(operation)
        reply = self.store.execute(operation)
        self.after(operation)
        return reply

    def send(self, operation: Read) -> PendingRead:
        self.operations.append(operation)
        self.before(operation)
        return self.store.send(operation)

    def close(self) -> None:
        self.store.close()

    @property
    def touches(self) -> int:
        return sum(isinstance(o, Write) and o.optional for o in self.operations)

    @contextmanager
    def costs(self, expected: int) -> Iterator[None]:
        """Exactly so many operations are carried out inside."""
        before = len(self.operations)
        yield
        assert len(self.operations) - before == expected


class Repeating:
    """A store that does every write twice, as one does whose first reply was lost."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def execute(self, operation: Operation) -> Reply:
        if isinstance(operation, Write):
            self.store.execute(operation)
        return self.store.execute(operation)

    def close(self) -> None:
        """The fixture closes the store."""


class Behind:
    """The hashes behind a store's back, in the same words for every kind of store."""

    def __init__(self, store: Store, client: "redis.Redis | None" = None) -> None:
        self.store = store
        self.client: Any = client

    def _hash(self, id: str) -> Hash:
        assert isinstance(self.store, MemoryStore)
        return self.store.hashes.setdefault(id, Hash())

    def ids(self) -> list[str]:
        if self.client is None:
            assert isinstance(self.store, MemoryStore)
            now = round(self.store.clock() * 1000)
            return sorted(id for id, held in self.store.hashes.items() if held.expires > now)
        return sorted(key.decode().partition(":")[2] for key in self.client.keys("*"))

    def fields(self, id: str) -> dict[str, bytes]:
        if self.client is None:
            return dict(self._hash(id))
        return {name.decode(): raw for name, raw in self.client.hgetall(f"sess:{id}").items()}

    def put(self, id: str, name: str, raw: bytes) -> None:
        if self.client is None:
            self._hash(id)[name] = raw
        else:
            self.client.hset(f"sess:{id}", name, raw)

    def left(self, id: str) -> float:
        """Seconds until the key ends; -1 when it never does."""
        if self.client is None:
            assert isinstance(self.store, MemoryStore)
            return (self._hash(id).expires - round(self.store.clock() * 1000)) / 1000
        return self.client.pttl(f"sess:{id}") / 1000

    def end_in(self, id: str, seconds: float) -> None:
        """Let the key end so many seconds from now; 0: at once."""
        if self.client is not None:
            self.client.pexpire(f"sess:{id}", round(seconds * 1000))
        else:
            assert isinstance(self.store, MemoryStore)
            self._hash(id).expires = int((self.store.clock() + seconds) * 1000)

    def pass_time(self, id: str, seconds: float) -> None:
        """What so many seconds without use would do to the hash, at once."""
        ms = round(seconds * 1000)
        for name, raw in self.fields(id).items():
            if name in ("@c", "@d", "@t"):
                self.put(id, name, b"%d" % (int(raw) - ms))
            elif name == "@q":
                entries = [raw[at : at + 21] for at in range(0, len(raw), 21)]
                earlier = [
                    e[:16] + (int.from_bytes(e[16:], "big") - ms // 10).to_bytes(5, "big")
                    for e in entries
                ]
                self.put(id, name, b"".join(earlier))
            elif name[0] != "@" and (end_of(raw) or 0) > 10**12:
                self.put(id, name, ending(raw, (end_of(raw) or 0) - ms))
        self.end_in(id, self.left(id) - seconds)


class Browser:
    """A cookie jar of one cookie, and requests without a router around them."""

    def __init__(self, api: SessionAPI, jar: str | None = None) -> None:
        self.api = api
        self.jar = jar
        self.registry = Registry()

    def request(self) -> Request:
        headers = {} if self.jar is None else {"Cookie": f"sid={self.jar}"}
        request = Request.blank("/", headers=headers)
        request.registry = self.registry
        return request

    def visit(self) -> AltSession:
        """The session of a new request."""
        self.latest = self.request()
        return self.api.session(self.latest)

    def answer(self, request: Request | None = None) -> Response:
        """Run the response callbacks and keep the cookie."""
        request = self.latest if request is None else request
        response = Response()
        request._process_response_callbacks(response)
        self.take(response)
        return response

    def take(self, response: Response) -> None:
        for header in response.headers.getall("Set-Cookie"):
            self.jar = cookie_of(header)

    def does(self, act: Callable[[AltSession], Any]) -> Any:
        """One whole request."""
        session = self.visit()
        result = act(session)
        self.answer()
        return result


def cookie_of(header: str) -> str | None:
    """The token in a Set-Cookie; None when it drops the cookie."""
    match = SID.match(header)
    assert match is not None
    return match[1] or None


# -- applications


MADE: list[SessionAPI] = []
"""Utilities of the applications that a test has made, for the fixture that closes them."""


class Site(TestApp):
    """WebTest's application, which also counts commands and can look at the server."""

    def __init__(self, app: Any, registry: Registry) -> None:
        super().__init__(app, extra_environ={"wsgi.url_scheme": "https"})
        self.api: SessionAPI = registry.getUtility(ISessionAPI)
        MADE.append(self.api)
        self.registry = registry
        self.watched = Watched(store_in(self.api))
        put_store(self.api, self.watched)

    @property
    def token(self) -> str | None:
        """What the browser holds."""
        return self.cookies.get("sid") or None

    @token.setter
    def token(self, value: str) -> None:
        self.reset()
        self.set_cookie("sid", value)
        (cookie,) = self.cookiejar
        self.reset()
        cookie.domain, cookie.value = "localhost.local", value  # not in quotes
        self.cookiejar.set_cookie(cookie)

    def other(self, token: str | None = None) -> "Site":
        """Another browser on the same application; without a token, with the same cookie."""
        twin = Site.__new__(Site)
        TestApp.__init__(twin, self.app, extra_environ={"wsgi.url_scheme": "https"})
        twin.api, twin.registry, twin.watched = self.api, self.registry, self.watched
        token = self.token if token is None else token
        if token is not None:
            twin.token = token
        return twin


View = Callable[[Request], Any]


def site(
    url: str,
    views: Mapping[str, View],
    *,
    settings: Mapping[str, object] | None = None,
    configure: Callable[[Configurator], object] = lambda config: None,
    retried: bool = False,
) -> Site:
    """An application with a view at each ``/name``; views give a Response or JSON.

    ``retried``: pyramid_retry runs every request twice; the first attempt gets hold of its
    session, fails just before its view and is discarded.
    """
    given: dict[str, object] = {"altsession.redis.url": url, **(settings or {})}
    config = Configurator(settings=given)
    config.include("pyramid_altsession")
    if retried:
        config.include(discarding)
    for name, view in views.items():
        config.add_route(name, f"/{name}")
        config.add_view(view, route_name=name, renderer="json")
    configure(config)
    return Site(config.make_wsgi_app(), config.registry)


def discarding(config: Configurator) -> None:
    """pyramid_retry, whose first attempt at every request is discarded next to the views."""
    config.include("pyramid_retry")
    config.add_tween("apps.discard_first_attempt", under=EXCVIEW, over=MAIN)


def discard_first_attempt(handler: View, registry: Registry) -> View:
    """A tween next to the views: each request has a first attempt that gets hold of its session,
    changes ``request.session`` where that is ours, and is discarded."""
    served = registry.queryUtility(ISessionFactory) is session_factory
    restricted = registry.getUtility(ISessionAPI).settings.sync.keys

    def tween(request: Request) -> Any:
        if request.environ.get("retry.attempt") == 0:
            assert request.altsession is not None
            if served:
                for name in restricted or ("discarded", "a", "_f_"):
                    request.session[name] = ["discarded"]
            raise pyramid_retry.RetryableException
        return handler(request)

    return tween


def settings_for(
    url: str, redis: Mapping[str, object] | None = None, **session: object
) -> Settings:
    return read_settings({"redis": {"url": url, **(redis or {})}, "session": session})
