"""Runs the command line in this process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from pyramid_altsession.cli import main


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
