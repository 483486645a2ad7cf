"""Calls of several steps, without I/O.

Such a call is a generator: it yields operations for a store, gets the reply sent in or the error
thrown in, and returns the call's value. A driver carries it out, with or without ``await``.
"""

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from .messages import Operation, Read, Reply

if TYPE_CHECKING:
    from .contract import PendingRead

T = TypeVar("T")


class Prefetch(NamedTuple):
    """A read that was sent before. To yield it means to ask for its reply."""

    operation: Read
    pending: "PendingRead"


Question = Operation | Prefetch
Steps = Generator[Question, Reply, T]


def run(execute: Callable[[Operation], Reply], steps: Steps[T]) -> T:
    """The value of a call, from a store that answers at once."""

    def answer(question: Question) -> Reply:
        if isinstance(question, Prefetch):
            return question.pending.result(question.operation)
        return execute(question)

    try:
        question = next(steps)
        while True:
            try:
                reply = answer(question)
            except BaseException as error:
                question = steps.throw(error)
            else:
                question = steps.send(reply)
    except StopIteration as stop:
        value: T = stop.value
        return value
