"""docs/semantics.rst: what the page says is proved exists."""

import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "semantics.rst").read_text()
ROWS = re.findall(
    r"   \* - (.+)\n     - ``(test_\w+)``\n", PAGE.partition("Which test proves it\n")[2]
)


def test_every_promise_has_its_test() -> None:
    """Each test that the table of promises names is a test of this suite, and there is one of
    that name alone."""
    named = [test for _, test in ROWS]
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    defined = Counter(re.findall(r"^ *def (test_\w+)", sources, re.MULTILINE))
    assert {name: defined[name] for name in named} == dict.fromkeys(named, 1)
    assert len(named) == PAGE.count("``test_") > 30
