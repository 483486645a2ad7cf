"""The utility: makes the session of a request, and of code without one."""

import logging
import re
import secrets
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response
from zope.interface import implementer

from .codecs import JSONCodec
from .config.sources import from_ini, read_settings
from .config.table import Settings
from .errors import AltSessionError, CorruptValue, SessionGone, StoreUnavailable
from .events import BY_KIND
from .interfaces import Codec, IAltSession, ISessionAPI, SealingCodec, Store
from .protocol.administration import (
    all_sessions,
    described,
    end_all_sessions,
    end_session,
    live_sessions,
)
from .protocol.commands import UNSET, Commands, Unset
from .protocol.fields import Description, Timing
from .protocol.keys import Values, encodable
from .protocol.lifecycle import Invalidate, Login, Touch
from .protocol.messages import Listing, Prune, Read, Write
from .protocol.state import PendingEvent, SessionState
from .protocol.token import ID_LENGTH, Claim, Token, new_verifier
from .protocol.verbs import Remove, Set
from .session import AltSession
from .stores import open_store
from .stores.memory import warn_of_processes
from .stores.sealed import SealedStore
from .web.cookie import SessionCookie
from .web.visits import Visit, innermost, under_way

log = logging.getLogger("pyramid_altsession")

Notify = Callable[[object], None]


class SessionInfo(NamedTuple):
    """What may be shown of a session: nothing in it opens it. Times are UTC.

    ``last_seen`` is exact to ``session.touch_interval``; ``info`` is what the login
    noted, empty where that cannot be read. ``login`` is the time of it, None without one.
    """

    id: str
    userid: str | None
    created: datetime
    last_seen: datetime
    expires: datetime
    current: bool
    info: Mapping[str, Any]
    login: datetime | None = None


def turn_into(
    response: Response, error: SessionGone | StoreUnavailable, environ: Mapping[str, Any]
) -> None:
    """Turn an answer into an error's page."""
    error.prepare(environ)
    response.status = error.status
    response.headerlist = error.headerlist
    response.app_iter = error.app_iter


def vary_on_cookie(response: Response) -> None:
    """Caches have to know that the answer depends on the cookie."""
    headers = response.headerlist
    for name, _ in headers:
        if name.lower() == "vary":
            break
    else:
        headers.append(("Vary", "Cookie"))
        return
    found = [value for name, value in headers if name.lower() == "vary"]
    vary = ", ".join(found)
    if not {"*", "cookie"} & set(re.split(r"[\s,]+", vary.lower())):
        response.headers["Vary"] = f"{vary}, Cookie"


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


@implementer(IAltSession)
class RequestSession(AltSession):
    """``request.altsession``."""

    __slots__ = ()


@implementer(IAltSession)
class OpenSession(AltSession):
    """A session without a request, from ``open`` or ``create``: it never makes another one,
    and any call on a dead one is :exc:`SessionGone`."""

    __slots__ = ("_cookie",)
    _cookie: SessionCookie

    @property
    def token(self) -> str | None:
        """What the visitor's cookie holds: a secret. ``renew`` and ``login`` change it. None when
        the session is known to be no more. No round trip."""
        token = self._state.current
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
        self._commands = Commands(codec, settings.session.max_value_bytes)
        self._notify = notify
        self._timing = Timing.of(settings.session)
        self._cookie = SessionCookie(settings.session)
        # What is kept with a request has a name of its own for each application: one may be
        # mounted in another, and see its environ or a copy of it.
        self.key = f"pyramid_altsession.{secrets.token_hex(8)}"
        self._answered = f"{self.key}.answered"
        self._warned = False
        self._warned_of_memory = False

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
        known = request.__dict__.get("altsession")
        if known is None:
            known = request.__dict__["altsession"] = self.attach(request)
        return known

    def visit(self, request: Request) -> Visit:
        """What the request is a part of: the browser's request to this application. Its attempts
        share that, and so do subrequests for the same visitor."""
        known: Visit | None = request.environ.get(self.key)
        if known is not None and known.request is request:
            return known
        visit = None
        if known is not None or innermost() is not None:
            visit = self._shared(request.environ, known)
        if visit is None:
            visit = Visit()
            visit.api = self
            visit.began = time.monotonic() if known is None else known.began
        request.environ[self.key] = visit
        return visit

    def _shared(self, environ: dict[str, Any], known: Visit | None) -> Visit | None:
        """A visit of the same visitor that this environ belongs to: it carries the same token, or
        it was made from that one's and carries none either. No cookie is nobody's."""
        around = under_way(self)
        claims = self._claims(environ)
        for visit in around:
            if (claims or visit is known) and self._sent_with(visit) == claims:
                return visit
        if known is None or known.state is None or not known.over(environ):
            return None
        if known.state.claims != claims:
            return None
        known.home = id(environ)
        return known

    def _claims(self, environ: Mapping[str, Any]) -> list[Claim]:
        return [token.claim for token in self._cookie.candidates(environ)]

    def _sent_with(self, visit: Visit) -> list[Claim]:
        """What the browser sent, whatever became of it since."""
        if visit.state is not None:
            return visit.state.claims
        assert visit.request is not None  # it is under way
        return self._claims(visit.request.environ)

    def state_of(self, request: Request) -> SessionState | None:
        """What is known of the request's session; None when it was not used."""
        visit: Visit | None = request.environ.get(self.key)
        return None if visit is None else visit.state

    def attach(self, request: Request) -> AltSession:
        """A view of the request's session; its cookie goes with the outermost answer.

        What is known of it outlives an attempt that pyramid_retry discards, and is shared with
        subrequests: a session made there is not lost.
        """
        return self.attach_to(self.visit(request), request)

    def attach_to(self, visit: Visit, request: Request) -> AltSession:
        """The same, where what the request is a part of is known."""
        outermost = request if visit.request is None else visit.request
        if outermost is not request:
            self.session(outermost)
        state = visit.state
        if state is None or outermost is request:
            state = self._begin_attempt(visit, outermost)
        # A weak reference: the request holds its session, and a circle would outlive both.
        tell = partial(self._tell, of=weakref.ref(request))
        return RequestSession(
            self._store, self._commands, state, settings=self.settings.session, notify=tell
        )

    def _begin_attempt(self, visit: Visit, request: Request) -> SessionState:
        state, answered = visit.state, self._answered in request.__dict__
        if state is None:
            visit.home = id(request.environ)
            tokens = self._cookie.candidates(request.environ)
            state = visit.state = SessionState(tokens, self._timing, began=visit.began)
            state.wanted = self.settings.session.prefetch
            state.root, state.answered = id(request), answered
        else:
            state.begin_attempt(id(request), answered)
        if visit.request is not request:  # our tween does not have it in hand
            request.add_response_callback(self.answer)
        return state

    def answer(self, request: Request, response: Response) -> None:
        """The response callback: what the answer has to say about the session.

        It runs after all others, which may still use the session. It may run once for each
        attempt that pyramid_retry discards, and then says the same again.
        """
        waiting = request.response_callbacks
        if waiting:
            if self.answer not in waiting:
                request.add_response_callback(self.answer)
            return
        if self._answered in request.__dict__:  # a view handed its own request on
            return
        request.__dict__[self._answered] = True
        state = request.environ[self.key].state
        if state is None or state.root != id(request):
            return
        if state.sent is not None:
            state.abandon()
        if state.layer is not None:
            self._write_back_late(request, response)
            state.layer = None  # each knew the other, and only the garbage collector frees a circle
        if state.renewal_due:
            self._renew(request, state)
        state.answered = True
        if state.used:
            vary_on_cookie(response)
        if state.cookie is not None:
            self._warn_of_http(request)
            self._warn_of_memory(request)
            self._cookie.send(response, state.cookie or None, age=state.cookie_age)

    def _warn_of_memory(self, request: Request) -> None:
        """Workers that load the application each have a store of their own."""
        several = request.environ.get("wsgi.multiprocess")
        if several and self.settings.redis.scheme == "memory" and not self._warned_of_memory:
            self._warned_of_memory = True
            warn_of_processes()

    def _warn_of_http(self, request: Request) -> None:
        if (
            self.settings.session.secure
            and request.environ.get("wsgi.url_scheme") == "http"
            and not self._warned
        ):
            self._warned = True
            log.warning(
                "sessions: the cookie is Secure and this request came over plain http, so the"
                " browser may never send it back; behind a proxy let the server know the scheme,"
                " for development set altsession.session.secure = false"
            )

    def _write_back_late(self, request: Request, response: Response) -> None:
        """What the tween has done already, or has not, where the application left it out: then
        the page is made, and becomes another if that fails."""
        try:
            self.write_back(request, response)
        except (SessionGone, StoreUnavailable) as error:
            turn_into(response, error, request.environ)

    def write_back(self, request: Request, response: Response) -> None:
        """Write what changed in ``request.session``, unless the answer is a failure, or says
        already that the session is gone."""
        state = self.state_of(request)
        if state is None or state.layer is None or state.root != id(request):
            return
        if response.status_int >= 500 or isinstance(
            getattr(request, "exception", None), SessionGone
        ):
            return
        try:
            state.layer.write_back()
        except SessionGone:
            if self.settings.sync.on_gone == "error":
                raise
            state.reported = True
            log.warning("session %s is gone: what changed in request.session is lost", state.token)

    def report(self, request: Request) -> None:
        """The answer is made. Where it tells of a failure of ours, reading ``request.session``
        finds what is known, and does not fail once more."""
        state = self.state_of(request)
        if state is not None and state.root == id(request):
            state.reported = state.reported or isinstance(request.exception, AltSessionError)

    def abandon(self, request: Request) -> None:
        """There is no answer: what a prefetch brings is nobody's."""
        state = self.state_of(request)
        if state is not None and state.root == id(request):
            state.abandon()

    def _renew(self, request: Request, state: SessionState) -> None:
        """The periodic renewal, if it is due: the last thing before the answer leaves, so that a
        login meanwhile is not undone by an older cookie that arrives later."""
        try:
            self.session(request)._carry_out(state.renewal())
        except AltSessionError:
            state.cookie = None  # the page is made: it goes out, and a later request renews

    def _tell(self, event: PendingEvent, of: "weakref.ref[Request] | None" = None) -> None:
        kind, id, userid, reason = event
        if self.settings.log_events:
            log.info("session %s %s: user %r, %s", id, kind, userid, reason)
        if self._notify is not None:
            self._notify(BY_KIND[kind](id, None if of is None else of(), userid, reason))

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
        session._begin({} if values is None else values)
        return session

    def _detached(self, state: SessionState) -> OpenSession:
        session = OpenSession(
            self._store, self._commands, state, settings=self.settings.session, notify=self._tell
        )
        session._cookie = self._cookie
        return session

    # -- sessions of users

    def sessions_of(self, userid: str) -> list[SessionInfo]:
        """The user's sessions, newest login first; ``current`` marks the one of the request
        that asks. Two round trips for up to 500 sessions.

        The tween tells which request asks: without it ``current`` is False.
        """
        encodable("sessions_of", userid)
        found = live_sessions(self._store, userid)
        current = self._current(found)
        return [self._info(known, current) for known in found]

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
        ended = end_all_sessions(self._store, userid, self._timing, keep=keep)
        for id in ended:
            self._tell(PendingEvent("invalidated", id, userid, "administration"))
        return len(ended)

    def describe(self, id: str) -> SessionInfo | None:
        """What is known of one session, None when there is none. One round trip."""
        known = None
        encodable("describe", id)
        if len(id) == ID_LENGTH:  # else it is some other key's name, perhaps an index's
            ((_, known),) = described(self._store, [id])
        return None if known is None else self._info(known, self._current([known]))

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

    def scan(self) -> Iterator[SessionInfo]:
        """Every session, by the server's cursor: a long walk that blocks nobody. A session that
        begins or ends meanwhile may be missing, and one may come twice."""
        for known in all_sessions(self._store):
            yield self._info(known, self._current([known]))

    def _end(self, id: str, userid: str | None) -> bool:
        ended = end_session(self._store, id, self._timing, userid)
        if ended:
            self._tell(PendingEvent("invalidated", id, userid, "administration"))
        return ended

    def _current(self, found: Iterable[Description]) -> str | None:
        """Which of these is the session of the request that is being served."""
        around = under_way(self)
        return self.session(around[0].request)._state.among(found) if around else None

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
            return self._commands.decode("info", info) if info else {}
        return {}

    # -- the server

    def check(self) -> None:
        """Raise :exc:`StoreUnavailable` unless the server answers and lets us do what we need; a
        right that the server's user lacks is named.

        What a health check wants. Eight round trips: a session of its own begins, signs in and
        ends. No list of sessions shows it, and it is gone by itself after five seconds at most.
        """
        token = Token.new()
        user = f"check-{token.id}"
        claim = Claim(user, token.claim.proof)
        timing = self._timing._replace(tti=5_000, interval=0, lifetime=5_000, window=1)
        login = Login(new_verifier(), user, None, timing.lifetime, limit=1)
        for operation in (
            Read((claim,), None, timing),
            Write(claim, (Set("key", b"1"), Remove("other")), timing, create=True),
            Write(claim, (), timing, user=user, life=login),
            Write(Claim(claim.id, login.proof), (), timing, user=user, life=Touch()),
            Listing(user),
            Listing(user, 1),
            Prune(user, ((claim.id, 0),)),
            Write(claim, (), timing, user=user, anybody=True, life=Invalidate(b"check", user)),
        ):
            self._store.execute(operation)

    def close(self) -> None:
        """Give the connections back. The sessions stay; a later use connects again."""
        self._store.close()
