"""Carries out the calls of a session with an awaitable store."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ..driver import DriverBase
from ..protocol.lifecycle import Life
from ..protocol.messages import Read, Reply, Write
from ..protocol.state import PendingEvent, SessionState
from ..protocol.steps import Steps, run_async
from ..protocol.verbs import Verb
from .semaphore import FairSemaphore
from .store import AsyncStore

if TYPE_CHECKING:
    from ..protocol.contract import PendingRead

T = TypeVar("T")


class AsyncDriver(DriverBase[AsyncStore]):
    """It belongs to one event loop. Several tasks may use it, but it carries out one call after the
    other, because two first writes at once would make two sessions.
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
