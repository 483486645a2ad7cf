"""Runs the command line, in this process or one of its own."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from pyramid_altsession.cli import main

_TOOL = """
import signal, sys
from pyramid_altsession.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main(sys.argv[1:]))
"""


def tool(*arguments: object) -> list[str]:
    """The command line of the tool, as a shell at a terminal starts it: a script's jobs in the
    background ignore SIGINT, and so do the processes that they start. The tests may be such a
    job."""
    return [sys.executable, "-u", "-c", _TOOL, *map(str, arguments)]


class Ran(NamedTuple):
    """``code``: the exit code. ``error``: what stands on standard error, one line at most."""

    code: int
    out: str
    error: str

    @property
    def objects(self) -> list[dict[str, Any]]:
        """What --json printed."""
        return [json.loads(line) for line in self.out.splitlines()]


Command = Callable[..., Ran]


def run_main(capsys: pytest.CaptureFixture[str], *arguments: str) -> Ran:
    """One command, and what it said."""
    capsys.readouterr()
    code = main(arguments)
    out, error = capsys.readouterr()
    assert error.count("\n") <= 1
    assert "Traceback" not in error
    return Ran(code, out, error)


@pytest.fixture
def command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Command:
    """``command(url, "list", "--json")``: what the command says of that server. More settings
    may be given."""
    monkeypatch.setenv("COLUMNS", "100")

    def run(url: str, *arguments: str, **settings: object) -> Ran:
        file = tmp_path / "altsession.yaml"
        file.write_text(yaml.safe_dump({"redis": {"url": url}} | settings))
        return run_main(capsys, str(file), *arguments)

    return run
