"""The utility: makes the session of a request, and of code without one."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pyramid.registry import Registry
from pyramid.request import Request
from zope.interface import implementer

from .api_base import APIBase, Notify, OpenedView, SessionInfo
from .config.sessions import attribute_of
from .config.sources import from_ini, read_settings
from .config.table import Settings
from .driver import Driver
from .interfaces import Codec, IAltSession, ISessionAPI, SealingCodec, Store
from .protocol.administration import (
    every_need,
    some_sessions,
)
from .protocol.commands import UNSET, Unset
from .protocol.fields import Description
from .protocol.keys import Values
from .protocol.state import PendingEvent, SessionState
from .protocol.steps import Steps, run
from .session import AltSession
from .stores import open_store
from .stores.observed import ObservedStore, Observer
from .stores.redis.node import Health, ServerNode, health_of
from .stores.redis.pool import PoolUsage
from .stores.sealed import SealedStore
from .web.requests import RequestLife
from .web.visits import under_way

T = TypeVar("T")

__all__ = ["OpenSession", "SessionAPI", "SessionInfo"]


@implementer(IAltSession)
class OpenSession(OpenedView[Driver], AltSession):
    """A session without a request, from ``open`` or ``create``: it never makes another one,
    and any call on a dead one is :exc:`SessionGone`."""

    __slots__ = ()


@implementer(ISessionAPI)
class SessionAPI(APIBase):
    """Sessions of one application: ``registry.getUtility(ISessionAPI)``.

    Thread-safe, and usable after a fork. It connects when a session is first used.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store | None = None,
        codec: Codec | None = None,
        notify: Notify | None = None,
    ) -> None:
        super().__init__(settings, codec, notify)
        codec = self.commands.codec
        store = open_store(settings) if store is None else store
        self._nodes: Callable[[], Sequence[ServerNode]] = getattr(store, "nodes", tuple)
        self._pools: Callable[[], Sequence[PoolUsage]] = getattr(store, "pool_usage", tuple)
        self._store: Store = SealedStore(store, codec) if isinstance(codec, SealingCodec) else store
        self.requests = RequestLife(settings, self.commands, self._cookie, self._driver, self._tell)

    def __repr__(self) -> str:
        return f"<SessionAPI {self._store!r}>"

    @classmethod
    def from_settings(cls, mapping: Mapping[str, object]) -> "SessionAPI":
        """From ``{"redis": {"url": …}}``, ``{"redis.url": …}`` or an ``.ini`` file's
        ``{"altsession.redis.url": …}``, without Pyramid's configurator.

        ConfigurationError tells every fault at once.
        """
        return cls(read_settings(from_ini(mapping) or mapping))

    @classmethod
    def from_registry(
        cls, settings: Settings, registry: Registry, name: str = "", store: Store | None = None
    ) -> "SessionAPI":
        api = cls(settings, store, notify=registry.notify)
        api.requests.attribute = attribute_of(name)
        return api

    # -- sessions of requests

    def session(self, request: Request) -> AltSession:
        """The session of a request: ``request.altsession`` itself. No round trip."""
        return self.requests.session(request)

    def _driver(self, state: SessionState, tell: Callable[[PendingEvent], None]) -> Driver:
        return Driver(self._store, state, tell)

    def _request(self) -> Request | None:
        around = under_way(self.requests)
        return around[0].request if around else None

    # -- sessions without a request

    def open(self, token: str) -> OpenSession:
        """The session of a cookie's value, for workers, websockets and scripts. No round trip.

        It never makes a session: any call on a dead one is :exc:`SessionGone`.
        """
        return self._detached(self._state_of(token))

    def create(self, values: Values | None = None) -> OpenSession:
        """A new session with these values; its ``.token`` is what a cookie would hold.

        One round trip.
        """
        session = self._detached(self._state_of_new())
        session.begin({} if values is None else values)
        return session

    def attach(self, id: str, userid: str | None) -> AltSession:
        """The session with this id, if it is this user's (None: nobody's), for workers, websockets
        and scripts that go on while its cookie is renewed. No round trip.

        Reads prolong nothing; writes do, and are carried out only while the session lives and is
        still this user's. Else any call is :exc:`SessionGone`, also for who attached before the
        visitor signed in. It never makes a session, knows no cookie, and leaves the browser's
        alone: ``login`` and ``renew`` are RuntimeError.

        An id opens the session here, where a visitor's cookie is not asked for. So take it from
        ``altsession.id`` of a request, or a queue of your own, and never from what a visitor sends.
        """
        driver = self._driver(self._state_of_id(id, userid), self._tell)
        return AltSession(driver, self.commands, self.settings.session)

    def _detached(self, state: SessionState) -> OpenSession:
        driver = self._driver(state, self._tell)
        return OpenSession(driver, self.commands, self.settings.session, self._cookie)

    # -- sessions of users

    def sessions_of(self, userid: str, *, keys: bool = False) -> list[SessionInfo]:
        """The user's sessions, newest login first; ``current`` marks the one of the request
        that asks. Two round trips for up to 500 sessions, three with ``keys``.

        The tween tells which request asks: without it ``current`` is False.
        """
        return self._run(self._sessions_of(userid, keys))

    def invalidate_user(
        self, userid: str, keep: str | None = None, *, durable: bool = False
    ) -> int:
        """End every session of the user, but the one with the id ``keep``; returns how many.

        None keeps none, and ``request.altsession.id`` is None until the session was used: a view
        that signs a user out everywhere else calls :meth:`AltSession.end_others
        <pyramid_altsession.AltSession.end_others>`.

        Every session that existed when the call began is dead when it returns; a login that
        comes later stays. So after a change of password: change it first, then call this.
        ``durable``: wait until a replica has it; :exc:`NotDurable` if none confirms in time.
        """
        return self._run(self._invalidate_user(userid, keep, durable))

    def describe(self, id: str, *, keys: bool = False) -> SessionInfo | None:
        """What is known of one session, None when there is none. One round trip, two with
        ``keys``."""
        return self._run(self._describe(id, keys))

    def values_of(self, id: str) -> dict[str, Any] | None:
        """What a session holds, for administration; None when there is none. One round trip,
        which prolongs nothing. A value that cannot be read is left out."""
        return self._run(self._values_of(id))

    def invalidate_id(self, id: str, userid: str | Unset | None = UNSET) -> bool:
        """End one session by its public handle; False when there was none. One round trip.

        ``userid``: only if it is this user's, whatever id a visitor's form may name; with None,
        where nobody is signed in, no session is.
        """
        return self._run(self._invalidate_id(id, userid))

    def invalidate_all(self, told: Callable[[int], object] | None = None) -> int:
        """End every session there is; returns how many. A long walk that blocks nobody: ``told``
        is called after each step of it with the number so far.

        Every session that existed when the call began is dead when it returns.
        """
        number = 0
        for found in self._walk():
            number += self._run(self._invalidate(found))
            if told is not None:
                told(number)
        return number

    def scan(self, *, keys: bool = False) -> Iterator[SessionInfo]:
        """Every session, by the server's cursor: a long walk that blocks nobody. A session that
        begins or ends meanwhile may be missing, and one may come twice. With ``keys`` all that is
        stored crosses the network."""
        for found in self._walk():
            yield from self._run(self._infos(found, keys))

    def _walk(self) -> Iterator[list[Description]]:
        cursor, more = 0, True
        while more:
            cursor, found = self._run(some_sessions(cursor))
            more = cursor != 0
            yield found

    def _run(self, steps: Steps[T]) -> T:
        return run(self._store.execute, steps)

    def _current(self, found: Iterable[Description]) -> str | None:
        request = self._request()
        return self.session(request).driver.state.among(found) if request else None

    # -- the server

    def observe(self, observer: Observer) -> None:
        """Have ``observer`` called with an :class:`Observation` after each operation, in the
        thread that asked for it. An error that it raises is logged, and fails no request. The same
        function given again is called once.

        For metrics, panels and tests; to be called at the start. Without observers nothing is
        measured.
        """
        if not isinstance(self._store, ObservedStore):
            self._store = ObservedStore(self._store)
        if observer not in self._store.observers:
            self._store.observers += (observer,)

    @property
    def store(self) -> Store:
        """Where the sessions are. Tests put another store around it, for sessions that are opened
        from then on."""
        return self._store

    @store.setter
    def store(self, store: Store) -> None:
        self._store = store

    def check(self) -> None:
        """Raise :exc:`StoreUnavailable` unless the server answers and lets us do what we need; a
        right that the server's user lacks is named.

        What a health check wants. Eight round trips: a session of its own begins, signs in and
        ends. No list of sessions shows it, and it is gone by itself after five seconds at most.
        """
        self._run(every_need(self._timing))

    def health(self) -> Health:
        """What the servers tell of themselves; see :class:`Health`. One round trip to each.
        StoreUnavailable when one cannot be reached. :meth:`check` finds out whether they serve."""
        return health_of(self._nodes())

    def pool_usage(self) -> Sequence[PoolUsage]:
        """The connections of this process, for each server that was asked; see
        :class:`PoolUsage`. No round trip."""
        return self._pools()

    def close(self) -> None:
        """Give the connections back. The sessions stay; a later use connects again."""
        self._store.close()
