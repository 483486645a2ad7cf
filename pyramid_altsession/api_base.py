"""The part that the plain and the awaitable utility share: everything without I/O."""

import logging
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

from pyramid.request import Request

from .codecs import JSONCodec
from .config.table import SessionSettings, Settings
from .errors import UNCONFIRMED, CorruptValue, NotDurable
from .events import ADMINISTRATION, BY_KIND, event_line
from .interfaces import Codec
from .protocol.administration import (
    describe,
    end_all_sessions,
    end_session,
    end_sessions,
    live_sessions,
    read_data,
)
from .protocol.attached import AttachedState
from .protocol.commands import Commands, Unset
from .protocol.fields import Description, Timing
from .protocol.keys import encodable
from .protocol.state import PendingEvent, SessionState
from .protocol.steps import Steps
from .protocol.token import ID_LENGTH
from .session_base import AnyDriver, SessionBase
from .web.cookie import SessionCookie

log = logging.getLogger("pyramid_altsession")

Notify = Callable[[object], None]


class SessionInfo(NamedTuple):
    """Information about a session that may be shown: nothing in it gives access. Times are UTC.

    ``last_seen`` is exact to ``session.touch_interval``. ``info`` is the ``info`` of the login,
    empty if it cannot be read. ``login`` is the time of the login, None without one. ``keys``: each
    key of the session with the number of bytes stored for it; None unless you asked for keys.
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
        """Bytes of the keys and their stored values; 0 unless you asked for keys."""
        return sum(len(key.encode()) + stored for key, stored in (self.keys or {}).items())


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


class OpenSessionBase(SessionBase[AnyDriver]):
    """The part that plain and awaitable sessions without a request share."""

    __slots__ = ("_cookie",)

    def __init__(
        self,
        driver: AnyDriver,
        commands: Commands,
        settings: SessionSettings,
        cookie: SessionCookie,
    ) -> None:
        super().__init__(driver, commands, settings)
        self._cookie = cookie

    @property
    def token(self) -> str | None:
        """The value of the visitor's cookie, a secret. ``renew`` and ``login`` change it. None if
        the session is known to be gone. No round trip.
        """
        token = self.driver.state.current
        return None if token is None else self._cookie.value(token)


class APIBase(ABC):
    """Settings, codec and cookie of one application, and the steps of its administration."""

    def __init__(
        self, settings: Settings, codec: Codec | None = None, notify: Notify | None = None
    ) -> None:
        self.settings = settings
        make = settings.session.codec
        if codec is None:
            codec = JSONCodec() if make is None else make(settings.session)
        self.commands = Commands(codec, settings.session.max_value_bytes)
        self._notify = notify
        self._timing = Timing.of(settings.session)
        self._cookie = SessionCookie(settings.session)

    def _tell(self, event: PendingEvent, of: "weakref.ref[Request] | None" = None) -> None:
        kind, id, userid, reason = event
        told = BY_KIND[kind](id, None if of is None else of(), userid, reason)
        if self.settings.log_events == "json":
            log.info("%s", event_line(kind, told, self._request() or told.request))
        elif self.settings.log_events:
            log.info("session %s %s: user %r, %s", id, kind, userid, reason)
        if self._notify is not None:
            self._notify(told)

    @abstractmethod
    def _request(self) -> Request | None:
        """The request that is being served."""

    @abstractmethod
    def _current(self, found: Iterable[Description]) -> str | None:
        """Which of these is the session of the request that is being served."""

    # -- sessions without a request

    def _state_of(self, token: str) -> SessionState:
        if not isinstance(token, str):
            raise TypeError(f"open: the token must be a str, not {type(token).__name__}")
        found = self._cookie.parse(token)
        return SessionState([found] if found else [], self._timing, detached=True)

    def _state_of_new(self) -> SessionState:
        return SessionState([], self._timing, detached=True)

    def _state_of_id(self, id: str, userid: str | None) -> SessionState:
        encodable("attach", id)
        if userid is not None:
            encodable("attach", userid, "user id")
            if not userid:
                raise ValueError("attach: a user id must not be empty; None stands for nobody")
        return AttachedState(id, userid, self._timing)

    # -- administration

    def _sessions_of(self, userid: str, keys: bool) -> Steps[list[SessionInfo]]:
        encodable("sessions_of", userid, "user id")
        found = yield from live_sessions(userid)
        return (yield from self._infos(found, keys))

    def _invalidate_user(self, userid: str, keep: str | None, durable: bool = False) -> Steps[int]:
        encodable("invalidate_user", userid, "user id")
        if keep is not None:
            encodable("invalidate_user", keep)
        ended = yield from end_all_sessions(userid, self._timing, keep=keep, durable=durable)
        self._tell_ended(dict.fromkeys(ended, userid))
        if not ended.confirmed:
            raise NotDurable(UNCONFIRMED)
        return len(ended)

    def _describe(self, id: str, keys: bool) -> Steps[SessionInfo | None]:
        encodable("describe", id)
        if len(id) != ID_LENGTH:  # it is the name of another key, perhaps an index
            return None
        (known,) = yield from describe([id])
        if known is None:
            return None
        return next(iter((yield from self._infos([known], keys))), None)

    def _values_of(self, id: str) -> Steps[dict[str, Any] | None]:
        encodable("values_of", id)
        if len(id) != ID_LENGTH:
            return None
        (found,) = yield from read_data([id], opened=True)
        if found is None:
            return None
        values = {}
        for key, raw in found.items():
            with suppress(CorruptValue):
                values[key] = self.commands.decode(key, raw)
        return values

    def _invalidate_id(self, id: str, userid: str | Unset | None) -> Steps[bool]:
        encodable("invalidate_id", id)
        if len(id) != ID_LENGTH:
            return False
        user = None
        if not isinstance(userid, Unset):
            if not userid:  # an empty user id would mean any user
                return False
            encodable("invalidate_id", userid, "user id")
            user = userid
        reply = yield from end_session(id, self._timing, user)
        if reply.ended:
            self._tell_ended({id: None if reply.user is None else reply.user.decode()})
        return reply.ended

    def _invalidate(self, found: list[Description]) -> Steps[int]:
        users = {known.id: known.user for known in found}
        ended = yield from end_sessions(None, list(users), self._timing)
        self._tell_ended({id: users[id] for id in ended})
        return len(ended)

    def _tell_ended(self, users: Mapping[str, str | None]) -> None:
        for id, user in users.items():
            self._tell(PendingEvent("invalidated", id, user, ADMINISTRATION))

    def _infos(self, found: list[Description], keys: bool) -> Steps[list[SessionInfo]]:
        """The SessionInfo of those that still live."""
        current = self._current(found)
        infos = [self._info(known, current) for known in found]
        if not keys:
            return infos
        pairs = zip(infos, (yield from read_data([info.id for info in infos])), strict=True)
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
        # An unreadable ``info`` must not hide a session: its user may be looking for it to end it.
        with suppress(CorruptValue):
            return self.commands.decode("info", info) if info else {}
        return {}
