"""The utility: makes the session of a request, and of code without one."""

import logging
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

from pyramid.registry import Registry
from pyramid.request import Request
from zope.interface import implementer

from .codecs import JSONCodec
from .config.sources import from_ini, read_settings
from .config.table import SessionSettings, Settings
from .driver import Driver
from .errors import CorruptValue
from .events import ADMINISTRATION, BY_KIND, event_line
from .interfaces import Codec, IAltSession, ISessionAPI, SealingCodec, Store
from .protocol.administration import (
    described,
    end_all_sessions,
    end_session,
    end_sessions,
    every_need,
    held,
    live_sessions,
    some_sessions,
)
from .protocol.commands import UNSET, Commands, Unset
from .protocol.fields import Description, Timing
from .protocol.keys import Values, encodable
from .protocol.state import PendingEvent, SessionState
from .protocol.steps import Steps, run
from .protocol.token import ID_LENGTH
from .session import AltSession
from .stores import open_store
from .stores.observed import ObservedStore, Observer
from .stores.sealed import SealedStore
from .web.cookie import SessionCookie
from .web.requests import RequestLife
from .web.visits import under_way

T = TypeVar("T")

log = logging.getLogger("pyramid_altsession")

Notify = Callable[[object], None]


class SessionInfo(NamedTuple):
    """What may be shown of a session: nothing in it opens it. Times are UTC.

    ``last_seen`` is exact to ``session.touch_interval``; ``info`` is what the login
    noted, empty where that cannot be read. ``login`` is the time of it, None without one. ``keys``:
    each key of the session and how many bytes are stored for it; None unless they were asked for.
    """

    id: str
    userid: str | None
    created: datetime
    last_seen: datetime
    expires: datetime
    current: bool
    info: Mapping[str, Any]
    login: datetime | None = None
    keys: Mapping[str, int] | None = None

    @property
    def size(self) -> int:
        """Bytes of the keys and of what is stored for them; 0 unless they were asked for."""
        return sum(len(key.encode()) + stored for key, stored in (self.keys or {}).items())


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


@implementer(IAltSession)
class OpenSession(AltSession):
    """A session without a request, from ``open`` or ``create``: it never makes another one,
    and any call on a dead one is :exc:`SessionGone`."""

    __slots__ = ("_cookie",)

    def __init__(
        self, driver: Driver, commands: Commands, settings: SessionSettings, cookie: SessionCookie
    ) -> None:
        super().__init__(driver, commands, settings)
        self._cookie = cookie

    @property
    def token(self) -> str | None:
        """What the visitor's cookie holds: a secret. ``renew`` and ``login`` change it. None when
        the session is known to be no more. No round trip."""
        token = self.driver.state.current
        return None if token is None else self._cookie.value(token)


@implementer(ISessionAPI)
class SessionAPI:
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
        self.settings = settings
        make = settings.session.codec
        if codec is None:
            codec = JSONCodec() if make is None else make(settings.session)
        store = open_store(settings) if store is None else store
        self._store: Store = SealedStore(store, codec) if isinstance(codec, SealingCodec) else store
        self.commands = Commands(codec, settings.session.max_value_bytes)
        self._notify = notify
        self._timing = Timing.of(settings.session)
        self._cookie = SessionCookie(settings.session)
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
    def from_registry(cls, settings: Settings, registry: Registry) -> "SessionAPI":
        return cls(settings, notify=registry.notify)

    # -- sessions of requests

    def session(self, request: Request) -> AltSession:
        """The session of a request: ``request.altsession`` itself. No round trip."""
        return self.requests.session(request)

    def _driver(self, state: SessionState, tell: Callable[[PendingEvent], None]) -> Driver:
        return Driver(self._store, state, tell)

    def _tell(self, event: PendingEvent, of: "weakref.ref[Request] | None" = None) -> None:
        kind, id, userid, reason = event
        told = BY_KIND[kind](id, None if of is None else of(), userid, reason)
        if self.settings.log_events == "json":
            around = under_way(self.requests)
            log.info("%s", event_line(kind, told, around[0].request if around else told.request))
        elif self.settings.log_events:
            log.info("session %s %s: user %r, %s", id, kind, userid, reason)
        if self._notify is not None:
            self._notify(told)

    # -- sessions without a request

    def open(self, token: str) -> OpenSession:
        """The session of a cookie's value, for workers, websockets and scripts. No round trip.

        It never makes a session: any call on a dead one is :exc:`SessionGone`.
        """
        found = self._cookie.parse(token)
        return self._detached(SessionState([found] if found else [], self._timing, detached=True))

    def create(self, values: Values | None = None) -> OpenSession:
        """A new session with these values; its ``.token`` is what a cookie would hold.

        One round trip.
        """
        session = self._detached(SessionState([], self._timing, detached=True))
        session.begin({} if values is None else values)
        return session

    def _detached(self, state: SessionState) -> OpenSession:
        driver = self._driver(state, self._tell)
        return OpenSession(driver, self.commands, self.settings.session, self._cookie)

    # -- sessions of users

    def sessions_of(self, userid: str, *, keys: bool = False) -> list[SessionInfo]:
        """The user's sessions, newest login first; ``current`` marks the one of the request
        that asks. Two round trips for up to 500 sessions, three with ``keys``.

        The tween tells which request asks: without it ``current`` is False.
        """
        encodable("sessions_of", userid)
        return self._infos(self._run(live_sessions(userid)), keys)

    def invalidate_user(self, userid: str, keep: str | None = None) -> int:
        """End every session of the user, but the one with the id ``keep``; returns how many.

        None keeps none, and ``request.altsession.id`` is None until the session was used: a view
        that signs a user out everywhere else calls :meth:`AltSession.end_others
        <pyramid_altsession.AltSession.end_others>`.

        Every session that existed when the call began is dead when it returns; a login that
        comes later stays. So after a change of password: change it first, then call this.
        """
        encodable("invalidate_user", userid)
        if keep is not None:
            encodable("invalidate_user", keep)
        ended = self._run(end_all_sessions(userid, self._timing, keep=keep))
        for id in ended:
            self._tell(PendingEvent("invalidated", id, userid, ADMINISTRATION))
        return len(ended)

    def describe(self, id: str, *, keys: bool = False) -> SessionInfo | None:
        """What is known of one session, None when there is none. One round trip, two with
        ``keys``."""
        known = None
        encodable("describe", id)
        if len(id) == ID_LENGTH:  # else it is some other key's name, perhaps an index's
            (known,) = self._run(described([id]))
        return None if known is None else next(iter(self._infos([known], keys)), None)

    def values_of(self, id: str) -> dict[str, Any] | None:
        """What a session holds, for administration; None when there is none. One round trip,
        which prolongs nothing. A value that cannot be read is left out."""
        encodable("values_of", id)
        if len(id) != ID_LENGTH:
            return None
        (found,) = self._run(held([id], opened=True))
        if found is None:
            return None
        values = {}
        for key, raw in found.items():
            with suppress(CorruptValue):
                values[key] = self.commands.decode(key, raw)
        return values

    def invalidate_id(self, id: str, userid: str | Unset | None = UNSET) -> bool:
        """End one session by its public handle; False when there was none. One round trip.

        ``userid``: only if it is this user's, whatever id a visitor's form may name; with None,
        where nobody is signed in, no session is.
        """
        encodable("invalidate_id", id)
        if len(id) != ID_LENGTH:
            return False
        if isinstance(userid, Unset):
            return self._end(id, None)
        if not userid:  # an empty one would stand for whichever user it is
            return False
        encodable("invalidate_id", userid)
        return self._end(id, userid)

    def invalidate_all(self, told: Callable[[int], object] | None = None) -> int:
        """End every session there is; returns how many. A long walk that blocks nobody: ``told``
        is called after each step of it with the number so far.

        Every session that existed when the call began is dead when it returns.
        """
        number = 0
        for found in self._walk():
            users = {known.id: known.user for known in found}
            for id in self._run(end_sessions(None, list(users), self._timing)):
                self._tell(PendingEvent("invalidated", id, users[id], ADMINISTRATION))
                number += 1
            if told is not None:
                told(number)
        return number

    def scan(self, *, keys: bool = False) -> Iterator[SessionInfo]:
        """Every session, by the server's cursor: a long walk that blocks nobody. A session that
        begins or ends meanwhile may be missing, and one may come twice. With ``keys`` all that is
        stored crosses the network."""
        for found in self._walk():
            yield from self._infos(found, keys)

    def _walk(self) -> Iterator[list[Description]]:
        cursor, more = 0, True
        while more:
            cursor, found = self._run(some_sessions(cursor))
            more = cursor != 0
            yield found

    def _run(self, steps: Steps[T]) -> T:
        return run(self._store.execute, steps)

    def _end(self, id: str, userid: str | None) -> bool:
        ended = self._run(end_session(id, self._timing, userid))
        if ended:
            self._tell(PendingEvent("invalidated", id, userid, ADMINISTRATION))
        return ended

    def _current(self, found: Iterable[Description]) -> str | None:
        """Which of these is the session of the request that is being served."""
        around = under_way(self.requests)
        return self.session(around[0].request).driver.state.among(found) if around else None

    def _infos(self, found: list[Description], keys: bool) -> list[SessionInfo]:
        """Those of them that still live."""
        current = self._current(found)
        infos = [self._info(known, current) for known in found]
        if not keys:
            return infos
        pairs = zip(infos, self._run(held([info.id for info in infos])), strict=True)
        return [
            info._replace(keys={key: len(raw) for key, raw in fields.items()})
            for info, fields in pairs
            if fields is not None
        ]

    def _info(self, known: Description, current: str | None) -> SessionInfo:
        return SessionInfo(
            known.id,
            known.user,
            _time(known.created),
            _time(known.seen),
            _time(known.expires),
            known.id == current,
            self._noted(known.info),
            None if known.login is None else _time(known.login),
        )

    def _noted(self, info: bytes) -> Mapping[str, Any]:
        # One that nobody can read hides no session: its user may be looking for it to end it.
        with suppress(CorruptValue):
            return self.commands.decode("info", info) if info else {}
        return {}

    # -- the server

    def observe(self, observer: Observer) -> None:
        """Have ``observer`` called with an :class:`Observation` after each operation, in the
        thread that asked for it. An error that it raises is logged, and fails no request.

        For metrics, panels and tests; to be called at the start. Without observers nothing is
        measured.
        """
        if not isinstance(self._store, ObservedStore):
            self._store = ObservedStore(self._store)
        self._store.observers += (observer,)

    def check(self) -> None:
        """Raise :exc:`StoreUnavailable` unless the server answers and lets us do what we need; a
        right that the server's user lacks is named.

        What a health check wants. Eight round trips: a session of its own begins, signs in and
        ends. No list of sessions shows it, and it is gone by itself after five seconds at most.
        """
        self._run(every_need(self._timing))

    def close(self) -> None:
        """Give the connections back. The sessions stay; a later use connects again."""
        self._store.close()
