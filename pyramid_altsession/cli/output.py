"""What a command says: a JSON object on each line, for machines, or tables for people."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from typing import Any, Protocol

from .errors import CommandError

Row = Mapping[str, Any]
Told = Callable[[int], None]


class Output(Protocol):
    """Where the results go. Rows go out as they come, so that memory stays flat."""

    def rows(self, rows: Iterable[Row], widths: Mapping[str, int]) -> None:
        """Results of one kind. ``widths``: the columns that a table shows, in characters."""

    def live(self, rows: Iterable[Row], widths: Mapping[str, int]) -> None:
        """The same for what happens now: each row is printed when it comes."""

    def one(self, row: Row) -> None:
        """A single result."""

    def finding(self, row: Row) -> None:
        """One of the doctor's."""

    def progress(self, what: str) -> AbstractContextManager[Told]:
        """A long task: the function is called with how much is done."""


class Lines:
    """JSON lines on standard output."""

    def rows(self, rows: Iterable[Row], widths: Mapping[str, int]) -> None:
        for row in rows:
            self.one(row)

    live = rows

    def one(self, row: Row) -> None:
        print(json.dumps(row, default=_plain), flush=True)

    finding = one

    @contextmanager
    def progress(self, what: str) -> Iterator[Told]:
        yield lambda number: None


def _plain(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def ask(question: str) -> bool:
    """Whether somebody at a terminal types ``yes``; without one nobody is asked."""
    if not sys.stdin.isatty():
        raise CommandError("nobody is here to ask; --yes says that you mean it")
    print(f"{question} Type yes: ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() == "yes"
