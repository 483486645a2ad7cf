"""docs/operator.rst shows what the commands really say."""

from pathlib import Path

import operator_page
import pytest
from servers import Server


@pytest.mark.slow
def test_output_on_the_page(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each output is that of the command, but for numbers, ids and times. Where they differ,
    ``python tests/support/operator_page.py`` writes the page anew."""
    monkeypatch.setenv("COLUMNS", "96")
    shown = operator_page.blocks(operator_page.PAGE.read_text())
    told = operator_page.said(server, str(tmp_path))
    assert shown.keys() == told.keys()
    for arguments, output in told.items():
        assert operator_page.lasting(shown[arguments]) == operator_page.lasting(output), arguments
