"""The utility: makes sessions for requests, and for code without a request."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pyramid.registry import Registry
from pyramid.request import Request
from zope.interface import implementer

from .api_base import APIBase, Notify, OpenSessionBase, SessionInfo
from .config.sessions import attribute_of
from .config.sources import from_ini, read_settings
from .config.table import Settings
from .interfaces import Codec, ISessionAPI, SealingCodec, Store
from .protocol.administration import (
    exercise_every_right,
    some_sessions,
)
from .protocol.commands import UNSET, Unset
from .protocol.fields import Description
from .protocol.keys import Values
from .protocol.state import PendingEvent, SessionState
from .protocol.steps import Steps, run
from .session import AltSession, Driver
from .stores import open_store, warn_of_no_server
from .stores.observed import ObservedStore, Observer
from .stores.redis.node import Health, ServerNode, health_of
from .stores.redis.pool import PoolUsage
from .stores.sealed import SealedStore
from .web.requests import RequestSessions
from .web.visits import under_way

T = TypeVar("T")

__all__ = ["OpenSession", "SessionAPI", "SessionInfo"]


class OpenSession(OpenSessionBase[Driver], AltSession):
    """A session without a request, from ``open`` or ``create``: it never makes another one,
    and any call on a dead one is :exc:`SessionGone`, except ``exists()`` without a key, which is
    False if this object has not seen the session alive."""

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
        self.store: Store = SealedStore(store, codec) if isinstance(codec, SealingCodec) else store
        """Tests can put another store around it, for sessions that are opened from then on."""
        self.requests = RequestSessions(
            settings, self.commands, self._cookie, self._driver, self._tell
        )

    def __repr__(self) -> str:
        return f"<SessionAPI {self.store!r}>"

    @classmethod
    def from_settings(cls, mapping: Mapping[str, object]) -> "SessionAPI":
        """Make one from ``{"redis": {"url": …}}``, ``{"redis.url": …}`` or an ``.ini`` file's
        ``{"altsession.redis.url": …}``, without Pyramid's configurator.

        ConfigurationError lists all mistakes at once.
        """
        settings = read_settings(from_ini(mapping) or mapping)
        warn_of_no_server(settings)
        return cls(settings)

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
        return Driver(self.store, state, tell)

    def _request(self) -> Request | None:
        around = under_way(self.requests)
        return around[0].request if around else None

    # -- sessions without a request

    def open(self, token: str) -> OpenSession:
        """The session of a cookie's value, for workers, websockets and scripts. No round trip.

        It never makes a session: any call on a dead one is :exc:`SessionGone`, except ``exists()``.
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
        """The session with this id, if it belongs to this user (None: to nobody), for workers,
        websockets and scripts that go on while its cookie is renewed. No round trip.

        Reads do not prolong the session, but writes do. Calls are carried out only while the
        session lives and still belongs to this user. Otherwise they raise :exc:`SessionGone`, also
        if the visitor has signed in since. It never makes a session and does not affect the
        browser's cookie, so ``login`` and ``renew`` raise RuntimeError.

        This needs no cookie: the id opens the session. So take the id from ``altsession.id`` of a
        request, or from a queue of your own, and never from anything that a visitor sends.
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

        ``current`` needs the package's tween; without it, it is False.
        """
        return self._run(self._sessions_of(userid, keys))

    def invalidate_user(
        self, userid: str, keep: str | None = None, *, durable: bool = False
    ) -> int:
        """End every session of the user, but the one with the id ``keep``; returns how many were
        ended.

        ``keep=None`` keeps none, and ``request.altsession.id`` is None until the session was used.
        So a view that signs a user out everywhere else should call :meth:`AltSession.end_others
        <pyramid_altsession.AltSession.end_others>`.

        Every session that existed when the call began is dead when it returns; a login that comes
        later stays. So change a password first, and then call this. ``durable``: wait until a
        replica has confirmed; :exc:`NotDurable` if none does in time.
        """
        return self._run(self._invalidate_user(userid, keep, durable))

    def describe(self, id: str, *, keys: bool = False) -> SessionInfo | None:
        """Information about one session, or None. One round trip, two with ``keys``."""
        return self._run(self._describe(id, keys))

    def values_of(self, id: str) -> dict[str, Any] | None:
        """The keys and values of a session, for administration; None if there is none. One round
        trip, which does not prolong the session. A value that cannot be read is left out.
        """
        return self._run(self._values_of(id))

    def invalidate_id(self, id: str, userid: str | Unset | None = UNSET) -> bool:
        """End one session by its public handle; False if there was none. One round trip.

        ``userid``: end it only if it belongs to this user, so that the id may come from a visitor's
        form. With None, as if nobody is signed in, no session is ended.
        """
        return self._run(self._invalidate_id(id, userid))

    def invalidate_all(self, *, progress: Callable[[int], object] | None = None) -> int:
        """End all sessions of the application; returns how many. A long walk that does not block
        the server; ``progress`` is called after each step with the number so far.

        Every session that existed when the call began is dead when it returns.
        """
        number = 0
        for found in self._walk():
            number += self._run(self._invalidate(found))
            if progress is not None:
                progress(number)
        return number

    def scan(self, *, keys: bool = False) -> Iterator[SessionInfo]:
        """Yields every session, by the server's cursor: a long walk that does not block the server.
        A session that begins or ends meanwhile may be missing, and a session may come twice. With
        ``keys`` all stored data crosses the network.
        """
        for found in self._walk():
            yield from self._run(self._infos(found, keys))

    def _walk(self) -> Iterator[list[Description]]:
        cursor, more = 0, True
        while more:
            cursor, found = self._run(some_sessions(cursor))
            more = cursor != 0
            yield found

    def _run(self, steps: Steps[T]) -> T:
        return run(self.store.execute, steps)

    def _current(self, found: Iterable[Description]) -> str | None:
        request = self._request()
        return self.session(request).driver.state.among(found) if request else None

    # -- the server

    def observe(self, observer: Observer) -> None:
        """Have ``observer`` called with an :class:`Observation` after each operation, in the
        thread that asked for it. An error that it raises is logged, and fails no request. The same
        function given again is called once.

        For metrics, panels and tests. Call it when the application starts. Without observers
        nothing is measured.
        """
        store = self.store  # once: another thread may be adding the same observer
        if not isinstance(store, ObservedStore):
            store = self.store = ObservedStore(store)
        store.observe(observer)

    def check(self) -> None:
        """Raise :exc:`StoreUnavailable` unless the server answers and allows everything that
        sessions need. The message names a missing right.

        For health checks. Eight round trips: it makes a session, signs it in and ends it. That
        session is in no list, and ends by itself after five seconds at most.
        """
        self._run(exercise_every_right(self._timing))

    def health(self) -> Health:
        """What the servers report about themselves; see :class:`Health`. One round trip to each.
        StoreUnavailable if one cannot be reached. To find out whether sessions work, use
        :meth:`check`.
        """
        return health_of(self._nodes())

    def pool_usage(self) -> Sequence[PoolUsage]:
        """The connections of this process, for each server that was asked; see
        :class:`PoolUsage`. No round trip."""
        return self._pools()

    def close(self) -> None:
        """Close the connections. The sessions stay; a later use connects again."""
        self.store.close()
