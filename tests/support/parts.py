"""The parts of the package and who imports whom, read from the code, and their picture in
docs/architecture.md. `python -m tests.support.parts` draws that anew.
"""

import ast
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "proxy"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
PICTURE = re.compile(r"(<!-- parts -->\n```mermaid\n).*?(```\n)", re.DOTALL)

Graph = Mapping[str, frozenset[str]]


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    """The folder below proxy/ that a module is in, or the loose module itself."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The modules of the package that a module imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.ImportFrom(module="proxy", names=names):
                found |= {f"proxy.{name.name}" for name in names}
            case ast.ImportFrom(module=str(module)):
                found.add(module)
            case ast.Import(names=names):
                found |= {name.name for name in names}
    return {name for name in found if name.startswith("proxy.")}


@cache
def graph() -> Graph:
    """Part -> the parts that it imports."""
    found: dict[str, set[str]] = {}
    for path in modules():
        if path != PACKAGE / "__init__.py":
            own = part_of(path)
            theirs = {name.split(".")[1] for name in imported(path)}
            found.setdefault(own, set()).update(theirs - {own})
    return {part: frozenset(theirs) for part, theirs in sorted(found.items())}


def reachable(parts: Graph, start: str) -> set[str]:
    """What a part imports, and what that imports. Raises RecursionError in a circle."""
    return {far for near in parts[start] for far in {near, *reachable(parts, near)}}


def picture() -> str:
    """The graph as Mermaid draws it, without arrows that a longer way makes superfluous: whoever
    looks down from a part sees all that it may use."""
    parts = graph()
    lines = ["graph TD"]
    for part, theirs in parts.items():
        farther = {far for near in theirs for far in reachable(parts, near)}
        lines += [f"  {part} --> {near}" for near in sorted(theirs - farther)]
    return "\n".join(lines) + "\n"


def drawn(text: str) -> str:
    """The page with the picture as it is now."""
    return PICTURE.sub(lambda match: match[1] + picture() + match[2], text)


if __name__ == "__main__":
    ARCHITECTURE.write_text(drawn(ARCHITECTURE.read_text()))
