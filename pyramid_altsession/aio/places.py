"""Who may go on at once, and who waits for it."""

import asyncio
from collections import deque


class Places:
    """Room for so many tasks of one event loop at once. Others wait, and get a place in the order
    in which they came.

    ``if not places.take(): await places.wait()``: most calls find one, and that costs no coroutine.
    """

    __slots__ = ("_free", "_queue")

    def __init__(self, number: int) -> None:
        self._free = number
        self._queue: deque[asyncio.Future[None]] = deque()

    def take(self) -> bool:
        """Whether there was one. None is free while somebody waits."""
        if self._free:
            self._free -= 1
            return True
        return False

    async def wait(self, seconds: float | None = None) -> None:
        """Until somebody gives one back; TimeoutError when nobody does in time."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._queue.append(turn)
        timer = None if seconds is None else loop.call_later(seconds, _refuse, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.give_back()  # it was given and nobody takes it
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def give_back(self) -> None:
        """To whoever waits longest."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


def _refuse(turn: "asyncio.Future[None]") -> None:
    if not turn.done():
        turn.set_exception(TimeoutError())
