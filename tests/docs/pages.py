"""The documentation as data: its pages, and the blocks of code on them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = sorted(
    page for folder in ("", "docs", "deploy", "bench") for page in (ROOT / folder).glob("*.md")
)
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: what kind its fence says it is (commands, where it says nothing), and the
    line of that fence."""

    page: Path
    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def first(self) -> str:
        """How it is named in a list: its page and its first line."""
        return f"{self.page.relative_to(ROOT)}: {self.text.splitlines()[0]}"


@cache
def blocks(page: Path) -> tuple[Block, ...]:
    text = page.read_text()
    return tuple(
        Block(
            page,
            text.count("\n", 0, found.start()) + 1,
            found[2] or "sh",
            _dedent(found[1], found[3]),
        )
        for found in BLOCK.finditer(text)
    )


def of_kind(*kinds: str) -> list[Block]:
    """The blocks of these kinds on all pages."""
    return [block for page in PAGES for block in blocks(page) if block.kind in kinds]


def commands(text: str) -> Iterator[str]:
    """The commands of a shell block, each whole: a quote or a backslash goes on with the next line.
    What is only a comment is none."""
    begun = ""
    for line in text.splitlines():
        begun += line + "\n"
        if line.endswith("\\"):
            continue
        try:
            words = shlex.split(begun, comments=True)
        except ValueError:  # a quote that is not closed yet
            continue
        if words:
            yield begun.strip()
        begun = ""
    assert not begun, f"this does not end: {begun}"


def programs(command: str) -> set[str]:
    """Which programs a command runs, the later ones of a chain or a pipe too."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found, begins = set(), True
    for word in lexer:
        if set(word) <= {*"&|;()"}:
            begins = True
        elif begins and not re.match(r"\w+=", word):
            found.add(word)
            begins = False
    return found


def _dedent(indent: str, text: str) -> str:
    return "".join(line.removeprefix(indent) for line in text.splitlines(keepends=True))
