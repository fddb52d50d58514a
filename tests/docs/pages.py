"""The pages of the documentation as text: their fenced blocks, and the comments before these.

Python blocks of a page are executed in order, in one namespace, unless a block follows a line

    <!-- not executed: reason -->

Flags of bash blocks must exist, except those that a line before a block names:

    <!-- flags of the example: decay -->
"""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [path.name for path in PAGES]
FENCE = re.compile(r"^```(\w*)\s*$")
COMMENT = re.compile(r"^<!-- (not executed|flags of the example): (.+) -->$")


class Block(NamedTuple):
    """A fenced block: its language, text, first line, and the comment before it (kind, text)."""

    language: str
    text: str
    line: int
    comment: tuple[str, str]


def blocks(path: Path, language: str) -> list[Block]:
    """Return the blocks of a page in a language."""
    found = []
    lines = path.read_text(encoding="utf-8").splitlines()
    start = None
    comment = ("", "")
    for number, line in enumerate(lines):
        fence = FENCE.match(line)
        if start is None and fence:
            start = number
        elif start is not None and line == "```":
            text = "\n".join(lines[start + 1 : number])
            found.append(Block(lines[start][3:].strip(), text, start + 2, comment))
            start = None
            comment = ("", "")
        elif start is None and line:
            match = COMMENT.match(line)
            comment = (match[1], match[2]) if match else ("", "")
    assert start is None, f"{path.name}: the block of line {start} is not closed"
    return [block for block in found if block.language == language]
