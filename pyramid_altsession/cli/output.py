"""The output of a command: a JSON object on each line, for machines, or tables for people."""

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from typing import Any, Protocol

from .errors import CommandError

Row = Mapping[str, Any]
ShowNumber = Callable[[int], None]


class Output(Protocol):
    """Prints results. It prints each row as it comes, so that memory does not grow."""

    def rows(self, rows: Iterable[Row], widths: Mapping[str, int]) -> None:
        """Results of one kind. ``widths``: the columns that a table shows, in characters."""

    def live(self, rows: Iterable[Row], widths: Mapping[str, int]) -> None:
        """The same for events: each row is printed as soon as it comes."""

    def one(self, row: Row) -> None:
        """A single result."""

    def finding(self, row: Row) -> None:
        """A finding of the doctor."""

    def progress(self, what: str) -> AbstractContextManager[ShowNumber]:
        """Shows the progress of a long task: call the function with the number that is done."""


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
    def progress(self, what: str) -> Iterator[ShowNumber]:
        yield lambda number: None


def _plain(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else str(value)


_CONTROLS = re.compile("[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Characters that a terminal obeys instead of showing them; the last ones turn a line round."""


def printable(text: str) -> str:
    """The text with escapes, such as ``\\x1b``, in place of control characters: visitors may choose
    user ids, keys and values, and must not command the operator's terminal.
    """
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def ask(question: str) -> bool:
    """Ask at the terminal; whether the answer is ``yes``. CommandError if there is no terminal."""
    if not sys.stdin.isatty():
        raise CommandError("nobody is here to ask; --yes says that you mean it")
    print(f"{question} Type yes: ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() == "yes"
