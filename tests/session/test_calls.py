"""A call stands wherever it has to: with the same name and parameters in every class that has it,
on the pages, and in the tables of the tests that try every call."""

import inspect
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import test_batch
import test_interleavings
import test_session

from pyramid_altsession import AltSession, IAltSession
from pyramid_altsession.aio import AsyncAltSession
from pyramid_altsession.batch import BatchBase

DOCS = Path(__file__).parents[2] / "docs"
INSIDE = {"begin", "together"}
"""For the package only."""


def calls_of(kind: type) -> dict[str, Callable[..., Any]]:
    found = inspect.getmembers(kind, inspect.isfunction)
    return {name: call for name, call in found if name[0] != "_" and name not in INSIDE}


PLAIN, AWAITED, BATCHED = map(calls_of, (AltSession, AsyncAltSession, BatchBase))
PROMISED = {name: call for name, call in IAltSession.namesAndDescriptions() if name in PLAIN}
ONE_KEY = {*BATCHED, "modify"} - {"all", "keys"}
"""Calls about keys that they name."""
OF_USERS = {"login", "logout", "end_others", "userid", "login_age"}


def parameters(call: Callable[..., Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(call).parameters.values())


def named(table: Iterable[str]) -> set[str]:
    """The calls of a table, whose rows begin with their names."""
    return {row.split()[0].rstrip(",") for row in table}


def test_each_call_has_an_awaited_twin() -> None:
    """The awaitable session has the plain one's calls, with the same parameters."""
    assert {name: parameters(call) for name, call in AWAITED.items()} == {
        name: parameters(call) for name, call in PLAIN.items()
    }
    assert [n for n, call in AWAITED.items() if not inspect.iscoroutinefunction(call)] == ["batch"]


def test_each_call_is_promised() -> None:
    """IAltSession has every call, with the same names of its parameters."""

    def names(call: Callable[..., Any]) -> list[str]:
        return [p.name for p in parameters(call) if p.kind is p.POSITIONAL_OR_KEYWORD]

    assert {name: list(call.positional) for name, call in PROMISED.items()} == {
        name: names(call)[1:] for name, call in PLAIN.items()
    }


@pytest.mark.parametrize("name", BATCHED)
def test_batched_call(name: str) -> None:
    """A call in a batch takes what it takes outside, but for ``fresh``: there is nothing else."""
    outside = [(p.name, p.kind) for p in parameters(PLAIN[name]) if p.name != "fresh"]
    assert [(p.name, p.kind) for p in parameters(BATCHED[name])] == outside


def test_each_call_is_on_a_page() -> None:
    """The page on what each call promises names those about data, and the page on batches tells
    which of them a batch has."""
    literals = re.findall(r"``([^`]+)``", (DOCS / "semantics.rst").read_text())
    assert {*BATCHED, "modify"} - set(re.findall(r"\w+", " ".join(literals))) == set()
    (listed,) = re.findall(r"^A batch has ``([\w ]+)``", (DOCS / "more.rst").read_text(), re.M)
    assert set(listed.split()) == BATCHED.keys()


def test_each_call_is_tried() -> None:
    """The tables of the tests have a row for each call that they have to hold."""
    assert named(test_batch.CALLS) == BATCHED.keys()
    assert named(test_session.KEYED) == ONE_KEY
    assert named(test_session.EVERY) == PLAIN.keys() - OF_USERS - {"batch", "prefetch"}
    assert named(test_interleavings.EVERY) == PLAIN.keys() - OF_USERS
    without = test_session.READS | test_session.FRUITLESS | test_session.STARTERS
    assert named(without) == named(test_session.EVERY)
