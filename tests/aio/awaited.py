"""Plain-looking views of what is awaited, so that the tests of the plain ones can try it."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import pytest

from pyramid_altsession.aio.store import AsyncStore
from pyramid_altsession.protocol.messages import Operation, Read, Reply
from pyramid_altsession.stores.memory import AnsweredRead

T = TypeVar("T")


class Loop:
    """An event loop in a thread of its own, which any thread may give work to."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    """The event loop that the tests wait for."""
    loop = Loop()
    yield loop
    loop.stop()


class WaitedStore:
    """The plain contract on an awaitable store."""

    def __init__(self, store: AsyncStore, loop: Loop) -> None:
        self.store = store
        self._loop = loop

    def execute(self, operation: Operation) -> Reply:
        return self._loop.wait(self.store.execute(operation))

    def send(self, operation: Read) -> AnsweredRead:
        return AnsweredRead(self.execute(operation))

    def close(self) -> None:
        self._loop.wait(self.store.close())
