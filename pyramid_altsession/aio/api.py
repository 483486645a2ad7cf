"""The utility for asyncio: sessions of tokens, and administration."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Any, TypeVar

from pyramid.exceptions import ConfigurationError
from pyramid.response import Response

from ..api_base import APIBase, Notify, OpenSessionBase, SessionInfo
from ..config.converters import PREFIX
from ..config.sources import from_ini, read_settings
from ..config.table import Settings
from ..errors import AltSessionError
from ..interfaces import Codec, SealingCodec
from ..protocol.administration import exercise_every_right, some_sessions
from ..protocol.commands import UNSET, Unset
from ..protocol.dialogue import Dialogue
from ..protocol.fields import Description
from ..protocol.keys import Values, encodable
from ..protocol.notices import Change, WatchedSession
from ..protocol.state import SessionState
from ..protocol.steps import Steps, run_async
from ..stores import warn_of_no_server
from ..stores.observed import Observer
from ..web.ending import send_off
from .pubsub import Notices
from .session import AsyncAltSession, AsyncDriver
from .store import AsyncObservedStore, AsyncSealedStore, AsyncStore, open_store
from .watch import changes

T = TypeVar("T")


class AsyncOpenSession(OpenSessionBase[AsyncDriver], AsyncAltSession):
    """A session without a request, from ``open`` or ``create``: it never makes another one,
    and any call on a dead one is :exc:`SessionGone`, except ``exists()`` without a key, which is
    False if this object has not seen the session alive."""

    __slots__ = ()


class AsyncRequestSession(AsyncAltSession):
    """The session of a request. It reads the cookie when it is first used."""

    __slots__ = ("_answered", "_api", "_begin", "_begun")

    def __init__(self, api: "AsyncSessionAPI", begin: Callable[[], SessionState]) -> None:
        self.commands = api.commands
        self._settings = api.settings.session
        self._api = api
        self._begin = begin
        self._begun: AsyncDriver | None = None
        self._answered = False

    @property
    def driver(self) -> AsyncDriver:  # type: ignore[override]
        if self._begun is None:
            state = self._begin()
            state.answered = self._answered
            self._begun = self._api.driver(state)
        return self._begun

    @property
    def begun(self) -> AsyncDriver | None:
        """The driver; None if the session was not used."""
        return self._begun

    def answered(self) -> None:
        """For middleware: the answer has begun, so no cookie can be sent any more. From now on a
        call that would need to send one raises RuntimeError.
        """
        self._answered = True
        if self._begun is not None:
            self._begun.state.answered = True

    def belongs_to(self, api: "AsyncSessionAPI") -> bool:
        return self._api is api


def last_steps(dialogue: Dialogue) -> Steps[None]:
    """The periodic renewal, if it is due when no other call is under way."""
    state = dialogue.state
    state.abandon()
    if state.renewal_due:
        yield from dialogue.follow(state.renewal())


serving: ContextVar[AsyncRequestSession | None] = ContextVar("pyramid_altsession.aio", default=None)
"""The session of the request that this context serves."""


class AsyncSessionAPI(APIBase):
    """Sessions for asyncio. The names, results and errors of the calls are those of
    :class:`pyramid_altsession.SessionAPI`, which describes them; here you await them. It has no
    ``health`` and no ``pool_usage``.

    One object serves all tasks and event loops of a process. It connects when a session is first
    used. ``async with`` closes it. ``notify`` is called with the events, and is not awaited.
    """

    def __init__(
        self,
        settings: Settings,
        store: AsyncStore | None = None,
        codec: Codec | None = None,
        notify: Notify | None = None,
    ) -> None:
        super().__init__(settings, codec, notify)
        codec = self.commands.codec
        store = open_store(settings) if store is None else store
        self._notices: Notices | None = getattr(store, "notices", None)
        if isinstance(codec, SealingCodec):
            store = AsyncSealedStore(store, codec)
        self.store = store

    def __repr__(self) -> str:
        return f"<AsyncSessionAPI {self.store!r}>"

    @classmethod
    def from_settings(cls, mapping: Mapping[str, object]) -> "AsyncSessionAPI":
        """Takes the same settings as :meth:`pyramid_altsession.SessionAPI.from_settings`. To share
        a YAML file with the Pyramid application: ``{"config": "config/altsession.yaml"}``.
        """
        settings = read_settings(from_ini(mapping) or mapping)
        warn_of_no_server(settings)
        return cls(settings)

    async def __aenter__(self) -> "AsyncSessionAPI":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    # -- sessions without a request

    def open(self, token: str) -> AsyncOpenSession:
        return self._detached(self._state_of(token))

    async def create(self, values: Values | None = None) -> AsyncOpenSession:
        session = self._detached(self._state_of_new())
        await session.begin({} if values is None else values)
        return session

    def _detached(self, state: SessionState) -> AsyncOpenSession:
        return AsyncOpenSession(
            self.driver(state), self.commands, self.settings.session, self._cookie
        )

    def driver(self, state: SessionState) -> AsyncDriver:
        """The driver that carries out the calls of one session."""
        return AsyncDriver(self.store, state, self._tell)

    def attach(self, id: str, userid: str | None) -> AsyncAltSession:
        driver = self.driver(self._state_of_id(id, userid))
        return AsyncAltSession(driver, self.commands, self.settings.session)

    def watch(
        self, id: str, *, keys: bool = False, patience: float = 10.0
    ) -> AsyncGenerator[Change, None]:
        """Report what happens to the session with this id, as it happens: ``async for change in
        api.watch(id)``. The last :class:`Change` is ``ended``; if there is no such session, it
        comes at once. ``keys``: report changed keys too. The first such change has ``keys=None``
        and means that from now on none is missed, so a page should be loaded then.

        It needs ``session.notify`` (``life``, or ``keys``) in every application that writes the
        session; ConfigurationError if the settings of this API do not have it. While the connection
        to the server works, a change is reported within a second. When it breaks, the watch tries
        for ``patience`` seconds to connect again, and then raises :exc:`StoreUnavailable`. After
        connecting again it reads the session, so that it misses no end and no renewal. All watches
        of an event loop share one connection to each server. Each reads its session when it begins,
        when the session should have expired, and every 15 seconds.
        """
        encodable("watch", id)
        wanted = ("keys",) if keys else ("life", "keys")
        found = self.settings.session.notify
        if found not in wanted:
            raise ConfigurationError(
                f"watch wanted {PREFIX}session.notify = {' or '.join(wanted)}, found {found}"
            )
        if self._notices is None:
            raise ConfigurationError(f"watch: {self.store!r} tells nobody what it does")
        return changes(self._notices, self._run, WatchedSession(id, keys), patience)

    # -- sessions of requests

    def session(self, cookies: str, *, optional: bool = False) -> AsyncRequestSession:
        """The session of a request with this ``Cookie`` header, for middleware, which has to send
        the session's cookie with its answer. No round trip.

        ``optional``: while the server is away, reads find nothing, as with Pyramid's view option
        ``altsession_optional``, and only writes raise :exc:`StoreUnavailable`.
        """
        began = time.monotonic()

        def begin() -> SessionState:
            tokens = self._cookie.candidates({"HTTP_COOKIE": cookies})
            state = SessionState(tokens, self._timing, began=began)
            state.wanted = self.settings.session.prefetch
            state.optional = optional
            return state

        return AsyncRequestSession(self, begin)

    async def finish(self, session: AsyncRequestSession, response: Response) -> None:
        """Call this last, before the answer is sent: it waits for calls that other tasks have
        begun, renews the session if that is due, and puts the cookie into the headers. From then on
        a call that would need to send a cookie raises RuntimeError.
        """
        driver = session.begun
        if driver is not None:
            state = driver.state
            try:
                await driver.run(last_steps(driver.dialogue))
            except AltSessionError:
                state.cookie = None  # the page is made: it goes out, and a later request renews
            send_off(response, state, self._cookie)
        session.answered()

    # -- sessions of users

    async def sessions_of(self, userid: str, *, keys: bool = False) -> list[SessionInfo]:
        return await self._run(self._sessions_of(userid, keys))

    async def invalidate_user(
        self, userid: str, keep: str | None = None, *, durable: bool = False
    ) -> int:
        return await self._run(self._invalidate_user(userid, keep, durable))

    async def describe(self, id: str, *, keys: bool = False) -> SessionInfo | None:
        return await self._run(self._describe(id, keys))

    async def values_of(self, id: str) -> dict[str, Any] | None:
        return await self._run(self._values_of(id))

    async def invalidate_id(self, id: str, userid: str | Unset | None = UNSET) -> bool:
        return await self._run(self._invalidate_id(id, userid))

    async def invalidate_all(self, *, progress: Callable[[int], object] | None = None) -> int:
        number = 0
        async for found in self._walk():
            number += await self._run(self._invalidate(found))
            if progress is not None:
                progress(number)
        return number

    async def scan(self, *, keys: bool = False) -> AsyncIterator[SessionInfo]:
        async for found in self._walk():
            for info in await self._run(self._infos(found, keys)):
                yield info

    async def _walk(self) -> AsyncIterator[list[Description]]:
        cursor, more = 0, True
        while more:
            cursor, found = await self._run(some_sessions(cursor))
            more = cursor != 0
            yield found

    async def _run(self, steps: Steps[T]) -> T:
        return await run_async(self.store.execute, steps)

    def _request(self) -> None:
        """There is no Pyramid request here."""

    def _current(self, found: Iterable[Description]) -> str | None:
        around = serving.get()
        ours = around is not None and around.belongs_to(self)
        return around.driver.state.among(found) if around and ours else None

    # -- the server

    def observe(self, observer: Observer) -> None:
        store = self.store  # once: another thread may be adding the same observer
        if not isinstance(store, AsyncObservedStore):
            store = self.store = AsyncObservedStore(store)
        store.observe(observer)

    async def check(self) -> None:
        await self._run(exercise_every_right(self._timing))

    async def close(self) -> None:
        await self.store.close()
