"""tests/races/test_interleavings.py with awaitable sessions: each request is a task of one event
loop, which the same scheduler lets go on from one operation to the next."""

import asyncio
from collections.abc import Awaitable, Coroutine, Iterator
from contextvars import ContextVar
from typing import Any

import pytest
import scheduler
import test_interleavings as original
import twin
from greenlet import getcurrent, greenlet
from scheduler import Actor, Body, World
from test_interleavings import *  # noqa: F403
from test_interleavings import MUTANTS, Mutant, unguarded_write, write_in_two_steps

from pyramid_altsession.aio.session import AsyncDriver
from pyramid_altsession.interfaces import Store
from pyramid_altsession.protocol.messages import Operation, Reply
from pyramid_altsession.protocol.state import Status

# About the explorer and about stores, whoever drives them.
del test_explorer_leaves_nothing_out, test_ended_elsewhere_in_time, test_pairs_on_a_server  # noqa: F821

CURRENT: ContextVar["AwaitedActor | None"] = ContextVar("actor", default=None)
"""The request whose task, or whose prefetch, runs."""


class Running:
    """A request under way, in the words that the scheduler has for greenlets: its body is one, and
    hands whatever it calls to a task, which awaits it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, actor: "AwaitedActor") -> None:
        self._loop = loop
        self._actor = actor
        self._body = greenlet(actor.begin)
        self._body.actor = actor
        self._paused: asyncio.Future[None]
        self._gate: asyncio.Future[None] | None = None
        self.task: asyncio.Task[None] | None = None
        self.dead = False
        self.parent = self  # what a view that thinks gives way to

    def __bool__(self) -> bool:
        return self.task is not None and not self.dead

    def switch(self) -> None:
        """From outside: until its next operation, or its end. From the body: give way."""
        if getcurrent() is self._body:
            self._body.parent.switch(self.gate())
            return
        if self.dead:
            return
        self._paused = self._loop.create_future()
        if self.task is None:
            self.task = self._loop.create_task(self._live())
        else:
            assert self._gate is not None
            self._gate.set_result(None)
        self._loop.run_until_complete(self._paused)

    async def gate(self) -> None:
        """Until the scheduler lets it go on."""
        self._gate = self._loop.create_future()
        self._paused.set_result(None)
        await self._gate

    async def _live(self) -> None:
        CURRENT.set(self._actor)
        try:
            call: Awaitable[Any] = self._body.switch()
            while not self._body.dead:
                try:
                    result = await call
                except Exception as error:
                    call = self._body.throw(error)
                else:
                    call = self._body.switch(result)
        except Exception as error:
            self._paused.set_exception(error)
        else:
            self.dead = True
            self._paused.set_result(None)


class AwaitedActor(Actor):
    """One request of the browser's."""

    loop: asyncio.AbstractEventLoop

    def __init__(self, world: World, number: int, body: Body) -> None:
        super().__init__(world, number, body)
        self.greenlet = Running(self.loop, self)

    def begin(self) -> None:
        self._run()


class AwaitedSteps:
    """A store whose every operation waits for the scheduler, and is watched."""

    def __init__(self, world: World, store: Store) -> None:
        self.world = world
        self.store = store

    async def execute(self, operation: Operation) -> Reply:
        actor = CURRENT.get()
        if actor is None:
            return self.store.execute(operation)
        await actor.greenlet.gate()
        reply = self.store.execute(operation)
        self.world.watch(actor, operation, reply)
        if asyncio.current_task() is not actor.greenlet.task:
            await actor.greenlet.gate()  # a prefetch: its reply may come much later
        return reply

    async def close(self) -> None:
        pass


class AwaitedAPI(twin.TwinAPI):
    def __init__(self, settings: Any, store: Any) -> None:
        super().__init__(settings, store)
        self.sessions_of = self._twin.sessions_of


@pytest.fixture(autouse=True)
def awaited(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The scheduler's worlds have awaitable sessions."""
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)  # runs that are given up leave tasks

    def wait(work: Coroutine[Any, Any, Any]) -> Any:
        here = getcurrent()
        return here.parent.switch(work) if hasattr(here, "actor") else loop.run_until_complete(work)

    monkeypatch.setattr(twin, "at_once", wait)
    monkeypatch.setattr(twin, "DirectStore", lambda store: store)
    monkeypatch.setattr(scheduler, "SessionAPI", AwaitedAPI)
    monkeypatch.setattr(scheduler, "Stepped", AwaitedSteps)
    monkeypatch.setattr(scheduler, "Actor", AwaitedActor)
    monkeypatch.setattr(AwaitedActor, "loop", loop, raising=False)
    yield
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks))
    loop.close()


def awaited_in_two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``write_in_two_steps``, of the awaitable driver."""
    unguarded_write(monkeypatch)
    write = AsyncDriver.write

    async def mutant(driver: AsyncDriver, *verbs: Any) -> Any:
        await driver.run(driver.dialogue.ask(()))
        return await write(driver, *verbs) if driver.state.status is Status.ALIVE else None

    monkeypatch.setattr(AsyncDriver, "write", mutant)


AWAITED = {
    awaited_in_two_steps if mutant is write_in_two_steps else mutant: how
    for mutant, how in MUTANTS.items()
}


@pytest.mark.volume
@pytest.mark.parametrize("mutant", AWAITED, ids=lambda mutant: mutant.__name__)
def test_mutants_are_found(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same ones."""
    monkeypatch.setattr(original, "MUTANTS", AWAITED)
    original.test_mutants_are_found(mutant, monkeypatch)
