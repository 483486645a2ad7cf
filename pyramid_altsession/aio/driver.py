"""Carry out what a session's calls ask, with a store that is awaited."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ..driver import Carrier
from ..protocol.lifecycle import Life
from ..protocol.messages import Read, Reply, Write
from ..protocol.state import PendingEvent, SessionState
from ..protocol.steps import Steps
from ..protocol.verbs import Verb
from .steps import run
from .store import AsyncStore

if TYPE_CHECKING:
    from ..protocol.contract import PendingRead

T = TypeVar("T")


class AsyncDriver(Carrier[AsyncStore]):
    """It belongs to one event loop, of which several tasks may use it: one call after the other,
    or two first writes would make two sessions."""

    __slots__ = ("_lock",)

    def __init__(
        self, store: AsyncStore, state: SessionState, notify: Callable[[PendingEvent], None]
    ) -> None:
        super().__init__(store, state, notify)
        self._lock = asyncio.Lock()

    async def run(self, steps: Steps[T]) -> T:
        """The value of a call of several steps."""
        try:
            async with self._lock:
                return await run(self.store.execute, steps)
        finally:
            if self.state.events:
                self._tell()

    async def execute(self, operation: Read | Write | None) -> None:
        """Carry out one operation, and what has to follow it."""
        await self.run(self.dialogue.follow(operation))

    async def fetch(self, names: tuple[str, ...], fresh: bool = False) -> None:
        """Have these fields remembered."""
        await self.run(self.dialogue.fetch(names, fresh))

    async def write(self, *verbs: Verb) -> Sequence[Any]:
        """Results of the verbs."""
        return await self.run(self.dialogue.write(*verbs))

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
    """Have asyncio not report a failure that nobody asks for: a call that uses a key asks again."""
    if not task.cancelled():
        task.exception()
