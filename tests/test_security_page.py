"""docs/security.rst: what the page says is proved exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "security.rst").read_text()
ROWS = re.findall(r"   \* - (.+)\n     - (.+)\n     - (.+)\n     - (.+)\n", PAGE)


def test_every_named_test_exists() -> None:
    """Each test that the table of standards names is a test of this suite."""
    named = set(re.findall(r"``(test_\w+)``", PAGE))
    sources = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    assert named - set(re.findall(r"def (test_\w+)", sources)) == set()
    assert len(named) > 15


def test_every_requirement_is_answered() -> None:
    """Each row names a test, or says that the application has to see to it."""
    answers = [test for asks, _, _, test in ROWS if asks != "Requirement"]
    assert len(answers) > 20
    assert [a for a in answers if not re.fullmatch(r"``test_\w+``|application", a)] == []
