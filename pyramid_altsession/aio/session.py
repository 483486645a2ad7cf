"""The session for asyncio: every call is the plain one's, awaited."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from ..errors import SessionGone, StoreUnavailable
from ..protocol.commands import UNSET, Command, field_name
from ..protocol.fields import CREATED, LOGIN, USER
from ..protocol.keys import Key, SessionKey, Values
from ..protocol.lifecycle import Life, Touch
from ..protocol.messages import Read, Reply, Write
from ..protocol.state import PendingEvent, SessionState
from ..protocol.steps import Steps, run_async
from ..protocol.verbs import Refused, Verb
from ..session_base import DriverBase, SessionBase
from .batch import AsyncBatch
from .semaphore import FairSemaphore
from .store import AsyncStore

if TYPE_CHECKING:
    from ..protocol.contract import PendingRead

T = TypeVar("T")
D = TypeVar("D")
E = TypeVar("E")


class AsyncDriver(DriverBase[AsyncStore]):
    """Carries out the calls of a session by awaiting the store. It belongs to one event loop.

    Several tasks may use it, but it carries out one call after the other, because two first writes
    at once would make two sessions.
    """

    __slots__ = ("_turn",)

    def __init__(
        self, store: AsyncStore, state: SessionState, notify: Callable[[PendingEvent], None]
    ) -> None:
        super().__init__(store, state, notify)
        self._turn = FairSemaphore(1)

    async def run(self, steps: Steps[T]) -> T:
        """The value of a call of several steps."""
        if not self._turn.try_acquire():
            await self._turn.wait()
        try:
            return await run_async(self.store.execute, steps)
        finally:
            self._over()

    def _over(self) -> None:
        self._turn.release()
        if self.state.events:
            self._tell()

    async def execute(self, operation: Read | Write | None) -> None:
        """Carry out one operation, and what has to follow it."""
        await self.run(self.dialogue.follow(operation))

    async def fetch(self, names: tuple[str, ...], fresh: bool = False) -> None:
        """Read these fields into the field cache."""
        if not self._turn.try_acquire():
            await self._turn.wait()
        try:
            if self.state.sent is None and names:
                await self._follow(self.state.read(names, fresh=fresh))
            else:
                await run_async(self.store.execute, self.dialogue.fetch(names, fresh))
        finally:
            self._over()

    async def write(self, *verbs: Verb) -> Sequence[Any]:
        """Carry out a write; returns the results of the verbs."""
        if not self._turn.try_acquire():
            await self._turn.wait()
        try:
            state = self.state
            if state.sent is not None or state.several:
                return await run_async(self.store.execute, self.dialogue.write(*verbs))
            await self._follow(state.write(*verbs))
            return state.results
        finally:
            self._over()

    async def _follow(self, operation: Read | Write | None) -> None:
        """The same as ``follow`` of the dialogue, but shorter, because most calls are one
        operation.
        """
        if operation is None:
            return
        state = self.state
        try:
            reply = await self.store.execute(operation)
        except BaseException as error:
            if not state.failed(operation, error):
                raise
            return
        following = state.learn(operation, reply)
        if following is not None:
            await run_async(self.store.execute, self.dialogue.follow(following))

    async def step(self, life: Life) -> bool:
        """Take this step of the session's life; whether there was a live session."""
        return await self.run(self.dialogue.step(life))

    async def prefetch(self, names: tuple[str, ...]) -> None:
        """Begin the read for these fields; the first call that uses one takes its reply."""
        await self.run(self.dialogue.prefetch(names, self._send))

    def _send(self, operation: Read) -> "PendingRead":
        return cast("PendingRead", ReadUnderWay(self.store, operation))


class ReadUnderWay:
    """A read that a task of its own waits for."""

    def __init__(self, store: AsyncStore, operation: Read) -> None:
        self._task = asyncio.ensure_future(store.execute(operation))
        self._task.add_done_callback(_noticed)

    async def result(self, operation: Read) -> Reply:
        return await self._task

    def cancel(self) -> None:
        self._task.cancel()


def _noticed(task: "asyncio.Future[Reply]") -> None:
    """Keep asyncio from reporting an error that nobody retrieved. A call that uses a key reads
    again.
    """
    if not task.cancelled():
        task.exception()


class AsyncAltSession(SessionBase[AsyncDriver]):
    """A session for asyncio. The names, results and errors of the calls are those of
    :class:`pyramid_altsession.AltSession`, which describes them; here you await them.

    Tasks of one event loop may share it: their calls are carried out one after the other. A call
    that is cancelled may or may not have been carried out.
    """

    __slots__ = ()

    # -- reads

    @overload
    async def get(self, key: SessionKey[T, D], *, fresh: bool = False) -> T | D: ...

    @overload
    async def get(self, key: SessionKey[T, Any], default: E, *, fresh: bool = False) -> T | E: ...

    @overload
    async def get(self, key: str, default: Any = None, *, fresh: bool = False) -> Any: ...

    async def get(self, key: Key, default: Any = UNSET, *, fresh: bool = False) -> Any:
        name, driver = field_name(key), self.driver
        await driver.fetch((name,), fresh)
        return self.commands.value(key, driver.state.cache.fields.get(name), default)

    @overload
    async def mget(
        self, keys: Iterable[str], default: Any = None, *, fresh: bool = False
    ) -> dict[str, Any]: ...

    @overload
    async def mget(
        self, keys: Iterable[Key], default: Any = None, *, fresh: bool = False
    ) -> dict[Key, Any]: ...

    async def mget(self, keys: Iterable[Key], default: Any = UNSET, *, fresh: bool = False) -> Any:
        return await self._look_up(self.commands.mget(keys, default), fresh)

    async def all(self, *, fresh: bool = False) -> dict[str, Any]:
        return await self._look_up(self.commands.all(), fresh)

    async def keys(self, *, fresh: bool = False) -> list[str]:
        return await self._look_up(self.commands.keys(), fresh)

    async def exists(self, key: Key | None = None, *, fresh: bool = False) -> bool:
        if key is not None:
            return await self._look_up(self.commands.exists(key), fresh)
        return await self.driver.run(self._calls.alive(fresh))

    async def created(self) -> datetime | None:
        await self.driver.fetch((CREATED,))
        return self._born()

    async def ttl(self) -> float | None:
        return await self.driver.run(self._calls.ttl())

    # -- writes

    @overload
    async def set(self, key: SessionKey[T, Any], value: T, *, ttl: float | None = None) -> None: ...

    @overload
    async def set(self, key: str, value: Any, *, ttl: float | None = None) -> None: ...

    async def set(self, key: Key, value: Any, *, ttl: float | None = None) -> None:
        await self._do(self.commands.set(key, value, ttl))

    async def mset(self, values: Values) -> None:
        if values:
            await self._do(self.commands.mset(values))

    async def remove(self, keys: Key | Iterable[Key]) -> int:
        call = self.commands.remove(keys)
        return await self._do(call) if call.verbs else 0

    @overload
    async def pop(self, key: SessionKey[T, D]) -> T | D: ...

    @overload
    async def pop(self, key: SessionKey[T, Any], default: E) -> T | E: ...

    @overload
    async def pop(self, key: str, default: Any = None) -> Any: ...

    async def pop(self, key: Key, default: Any = UNSET) -> Any:
        return await self._do(self.commands.pop(key, default))

    @overload
    async def setdefault(self, key: SessionKey[T, Any], value: T) -> T: ...

    @overload
    async def setdefault(self, key: str, value: Any) -> Any: ...

    async def setdefault(self, key: Key, value: Any) -> Any:
        return await self._do(self.commands.setdefault(key, value))

    async def increment(self, key: Key, by: int = 1) -> int:
        return await self._do(self.commands.increment(key, by))

    async def compare_and_set(self, key: Key, expected: Any, value: Any) -> bool:
        return await self.driver.run(self._calls.compare_and_set(key, expected, value))

    @overload
    async def modify(self, key: SessionKey[T, T], function: Callable[[T], T]) -> T: ...

    @overload
    async def modify(self, key: SessionKey[T, None], function: Callable[[T | None], T]) -> T: ...

    @overload
    async def modify(
        self, key: SessionKey[T, Any], function: Callable[[Any], T], default: Any
    ) -> T: ...

    @overload
    async def modify(
        self, key: str, function: Callable[[Any], Any], default: Any = None
    ) -> Any: ...

    async def modify(self, key: Key, function: Callable[[Any], Any], default: Any = UNSET) -> Any:
        return await self.driver.run(self._calls.modify(key, function, default))

    async def touch(self) -> bool:
        return await self.driver.step(Touch())

    async def renew(self, *, durable: bool = False) -> bool:
        return await self._run_durably(self._calls.renew(), durable)

    # -- more in one round trip

    def batch(self) -> AsyncBatch:
        return AsyncBatch(self)

    async def prefetch(self, *keys: Key) -> None:
        names = tuple([field_name(key) for key in keys])
        with suppress(SessionGone, StoreUnavailable):  # the call that uses a key raises it
            await self.driver.prefetch(names)

    # -- who is signed in

    async def userid(self) -> str | None:
        await self.driver.fetch((USER,))
        return self.driver.state.user

    async def login_age(self) -> float | None:
        await self.driver.fetch((LOGIN,))
        return self._age_of_login()

    async def login(
        self,
        userid: str,
        *,
        remember: float | None = None,
        info: Mapping[str, Any] | None = None,
        durable: bool = False,
    ) -> None:
        await self._run_durably(self._calls.login(userid, remember, info), durable)

    async def logout(self, *, durable: bool = False) -> bool:
        return await self.invalidate(durable=durable)

    async def end_others(self) -> int:
        return await self.driver.run(self._calls.end_others())

    # -- the end

    async def invalidate(self, *, durable: bool = False) -> bool:
        return await self._run_durably(self._calls.invalidate(), durable)

    # -- inside

    async def begin(self, values: Values) -> None:
        await self.driver.execute(self.driver.state.create(*self.commands.mset(values).verbs))

    async def together(self, verbs: Sequence[Verb]) -> Sequence[Any]:
        return await self.driver.run(self._steps_together(verbs))

    async def _look_up(self, call: Command[T], fresh: bool) -> T:
        return call.result(await self.driver.run(self.driver.dialogue.look_up(call.verbs, fresh)))

    async def _run_durably(self, steps: Steps[T], durable: bool) -> T:
        return await self.driver.run(self._calls.durably(steps) if durable else steps)

    async def _do(self, call: Command[T]) -> T:
        try:
            return call.result(await self.driver.write(*call.verbs))
        except Refused:
            raise TypeError(call.refused) from None
