"""docs/security.rst: what the page says is proved exists."""

import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.rst").read_text()
ROWS = re.findall(r"   \* - (.+)\n     - (.+)\n     - (.+)\n     - (.+)\n", PAGE)


def test_every_named_test_exists() -> None:
    """Each test that the table of standards names is a test of this suite, and there is one of
    that name alone."""
    named = set(re.findall(r"``(test_\w+)``", PAGE))
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    defined = Counter(re.findall(r"^ *def (test_\w+)", sources, re.MULTILINE))
    assert {name: defined[name] for name in named} == dict.fromkeys(named, 1)
    assert len(named) > 25


def test_every_requirement_of_the_chapter_is_there() -> None:
    """ASVS 5.0, V7 and V3.3: no requirement is left out."""
    counts = {"7.1": 3, "7.2": 4, "7.3": 2, "7.4": 5, "7.5": 3, "7.6": 2, "3.3": 5}
    asked = {f"{part}.{n}" for part, count in counts.items() for n in range(1, count + 1)}
    assert set(re.findall(r"\b\d\.\d\.\d\b", " ".join(row[0] for row in ROWS))) == asked


def test_answers_are_tests() -> None:
    """Each row names a test, or says that the application has to see to it."""
    answers = [test for asks, _, _, test in ROWS if asks != "Requirement"]
    assert len(answers) > 30
    assert [a for a in answers if not re.fullmatch(r"``test_\w+``|application", a)] == []
