"""The README and the pages of docs, and the examples that they show."""

import re
import textwrap
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = {path.name: path for path in [ROOT / "README.rst", *sorted(ROOT.glob("docs/*.rst"))]}


class Block(NamedTuple):
    """One example: its language, its text, and the line above its first one."""

    language: str
    text: str
    line: int


def blocks(page: Path, *languages: str) -> list[Block]:
    """The examples of a page, in order."""
    found = []
    lines = page.read_text().splitlines()
    for number, line in enumerate(lines):
        start = re.fullmatch(r"( *)\.\. (?:(checked)|code-block:: (\w+))", line)
        if start is None:
            continue
        end = number + 1
        while end < len(lines) and (not lines[end] or lines[end].startswith(start[1] + "   ")):
            end += 1
        body = number + 1
        while lines[body]:  # options, and the empty line
            body += 1
        text = textwrap.dedent("\n".join(lines[body:end])).strip("\n")
        leading = next(n for n in range(body, end) if lines[n])
        found.append(Block(start[2] or start[3], text + "\n", leading))
    return [block for block in found if not languages or block.language in languages]
