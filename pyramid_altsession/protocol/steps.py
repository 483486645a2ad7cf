"""Calls of several steps, without I/O.

Such a call is a generator: it yields questions, such as operations for a store, gets the answer
sent in or the error thrown in, and returns the call's value. It is carried out with or without
``await``.
"""

from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, overload

from .messages import Operation, Read, Reply

if TYPE_CHECKING:
    from .contract import PendingRead

Q = TypeVar("Q")
A = TypeVar("A")
T = TypeVar("T")

TRIES = 100
"""How often a call reads and writes again if other requests are faster."""


class TooManyConflicts(RuntimeError):
    """Other requests changed what a call had read, in each of its tries. Its argument names the
    call.
    """

    def __str__(self) -> str:
        return f"{self.args[0]}: other requests were faster {TRIES} times"


class Prefetch(NamedTuple):
    """A read that was sent before. To yield it means to ask for its reply."""

    operation: Read
    pending: "PendingRead"


Steps = Generator[Operation | Prefetch, Reply, T]


def advance(steps: Generator[Q, A, T], outcome: A | BaseException | None) -> Q:
    """The next question. ``outcome``: the answer to the one before, or its error; None: there was
    none. When the steps are over, StopIteration holds their value.
    """
    if outcome is None:
        return next(steps)
    return steps.throw(outcome) if isinstance(outcome, BaseException) else steps.send(outcome)


@overload
def run(ask: Callable[[Operation], Reply], steps: Steps[T]) -> T: ...
@overload
def run(
    ask: Callable[[Q], A], steps: Generator[Q, A, T], outcome: A | BaseException | None = None
) -> T: ...
def run(ask: Any, steps: Any, outcome: Any = None) -> Any:
    """The value of a call whose questions ``ask`` answers at once. ``outcome``: that of the first
    question, if it has been asked already.
    """
    try:
        question = advance(steps, outcome)
        while True:
            try:
                if isinstance(question, Prefetch):
                    answer = question.pending.result(question.operation)
                else:
                    answer = ask(question)
            except BaseException as error:
                question = steps.throw(error)
            else:
                question = steps.send(answer)
    except StopIteration as stop:
        return stop.value


@overload
async def run_async(ask: Callable[[Operation], Awaitable[Reply]], steps: Steps[T]) -> T: ...
@overload
async def run_async(
    ask: Callable[[Q], Awaitable[A]],
    steps: Generator[Q, A, T],
    outcome: A | BaseException | None = None,
) -> T: ...
async def run_async(ask: Any, steps: Any, outcome: Any = None) -> Any:
    """As :func:`run`, where ``ask`` and the reads that were sent before are awaited."""
    try:
        question = advance(steps, outcome)
        while True:
            try:
                if isinstance(question, Prefetch):
                    answer = await question.pending.result(question.operation)  # type: ignore[misc]
                else:
                    answer = await ask(question)
            except BaseException as error:
                question = steps.throw(error)
            else:
                question = steps.send(answer)
    except StopIteration as stop:
        return stop.value
