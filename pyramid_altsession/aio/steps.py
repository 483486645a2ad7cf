"""Calls and dialogues with servers, in steps, carried out by awaiting."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import redis

from ..protocol import steps as calls
from ..protocol.messages import Operation, Reply
from ..stores.redis.steps import Ask, Steps
from ..stores.redis.waiting import Outcome, advance

T = TypeVar("T")


async def run(execute: Callable[[Operation], Awaitable[Reply]], steps: calls.Steps[T]) -> T:
    """The value of a call of several steps, from a store that is awaited."""
    try:
        question = next(steps)
        while True:
            try:
                if isinstance(question, calls.Prefetch):
                    reply: Any = await question.pending.result(question.operation)  # type: ignore[misc]
                else:
                    reply = await execute(question)
            except BaseException as error:
                question = steps.throw(error)
            else:
                question = steps.send(reply)
    except StopIteration as stop:
        value: T = stop.value
        return value


async def carry_out(
    steps: Steps[T],
    exchange: Callable[[Ask], Awaitable[list[Any]]],
    outcome: Outcome | None = None,
) -> T:
    """Carry out the steps; returns their result. ``outcome``: the outcome of their first question,
    if that has been carried out already.
    """
    try:
        while True:
            ask = advance(steps, outcome)
            try:
                outcome = await exchange(ask)
            except redis.RedisError as error:
                outcome = error
    except StopIteration as done:
        return done.value
