"""A limit on how many tasks may go on at once."""

import asyncio
from collections import deque


class FairSemaphore:
    """Lets at most ``number`` tasks of one event loop go on at once. The others wait, and get a
    place in the order in which they came.

    ``if not semaphore.try_acquire(): await semaphore.wait()``: most calls find a free place, and
    then need no coroutine.
    """

    __slots__ = ("_free", "_queue")

    def __init__(self, number: int) -> None:
        self._free = number
        self._queue: deque[asyncio.Future[None]] = deque()

    def try_acquire(self) -> bool:
        """Take a place if one is free; whether it was. No place is free while a task waits."""
        if self._free:
            self._free -= 1
            return True
        return False

    async def wait(self, seconds: float | None = None) -> None:
        """Wait for a place; TimeoutError if none comes free in time."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._queue.append(turn)
        timer = None if seconds is None else loop.call_later(seconds, _refuse, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.release()  # the place was given to this task just before
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def release(self) -> None:
        """Pass the place to the task that has waited longest, or free it."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


def _refuse(turn: "asyncio.Future[None]") -> None:
    if not turn.done():
        turn.set_exception(TimeoutError())
