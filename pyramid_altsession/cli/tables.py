"""Tables and progress for people, by Rich."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from .output import Row, ShowNumber, printable

PAGE = 100
"""How many rows of a table are printed at a time."""
UNBROKEN = ("id", "setting")
INDENT = 9
COLOURS = {"ok": "green", "warning": "yellow", "error": "bold red"}
BAR = 30
"""Characters of the longest bar of a histogram."""


class Tables:
    """Results on standard output, progress on standard error."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=False)

    def rows(self, rows: Iterable[Row], widths: Mapping[str, int]) -> None:
        self._pages(iter(rows), widths, PAGE)

    def live(self, rows: Iterable[Row], widths: Mapping[str, int]) -> None:
        rows_shown = ({**row, "time": f"{row['time'].astimezone():%H:%M:%S}"} for row in rows)
        self._pages(rows_shown, widths, 1)

    def one(self, row: Row) -> None:
        for name, value in row.items():
            if isinstance(value, list):
                self._histogram(name, value)
                continue
            label, cell = Text(f"{name.replace('_', ' ')}  ", style="bold"), _cell(value)
            self._console.print(label + cell)

    def finding(self, row: Row) -> None:
        level = Text(f"{row['level']:<9}", style=COLOURS[row["level"]])
        place = f" ({row['node']})" if row["node"] else ""
        self._console.print(level + _text(f"{row['check']}{place}: {row['found']}"))
        if row["advice"]:
            advice = _text(row["advice"], "italic")
            self._console.print(Padding(advice, (0, 0, 0, INDENT)))

    @contextmanager
    def progress(self, what: str) -> Iterator[ShowNumber]:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        console = Console(stderr=True)
        hidden = not console.is_terminal
        with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
            task = progress.add_task(f"{what}: 0")
            yield lambda number: progress.update(task, description=f"{what}: {number}")

    def _pages(self, rows: Iterator[Row], widths: Mapping[str, int], length: int) -> None:
        first = True
        while page := list(islice(rows, length)):
            table = Table(box=None, show_header=first, pad_edge=False)
            for name, width in widths.items():
                table.add_column(
                    name.replace("_", " "),
                    width=width or None,
                    overflow="fold",
                    no_wrap=name in UNBROKEN,
                )
            for row in page:
                table.add_row(*[_cell(row[name]) for name in widths])
            self._console.print(table)
            first = False

    def _histogram(self, name: str, parts: list[Mapping[str, Any]]) -> None:
        most = max([part["sessions"] for part in parts] + [1])
        self._console.print(Text(name.replace("_", " "), style="bold"))
        for part in parts:
            bar = "█" * round(BAR * part["sessions"] / most)
            self._console.print(Text(f"  {part['range']:>12}  {part['sessions']:>8}  {bar}"))


def _cell(value: Any) -> Text:
    match value:
        case datetime():
            return Text(span((value - datetime.now(UTC)).total_seconds()))
        case None | ():
            return Text("–")
        case bool():
            return Text("yes" if value else "no")
        case float():
            return Text(f"{value:g}")
        case tuple():
            return _text(" ".join(map(str, value)))
        case Mapping():
            return _text(", ".join(f"{name}: {held}" for name, held in value.items()) or "–")
        case _:
            return _text(str(value))


def _text(text: str, style: str = "") -> Text:
    """A text that others may have written."""
    return Text(printable(text), style=style)


def span(seconds: float) -> str:
    """How far away a moment is, in the unit that fits best."""
    size, ago = abs(seconds), seconds < 0
    units = (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172800))
    fitting = [(unit, length) for unit, length, most in units if size < most]
    unit, length = fitting[0] if fitting else ("d", 86400)
    return f"{size // length:.0f} {unit} ago" if ago else f"in {size // length:.0f} {unit}"
