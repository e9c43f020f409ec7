"""The house keeps to its plan: who may import whom, how large a room is, and the ways through it
that docs/architecture.md describes."""

import ast
import re
import statistics
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support import parts
from tests.support.parts import ARCHITECTURE, PACKAGE, ROOT

# What each part may import of the others. Nobody imports the worker, which is started as a program
# of its own; `policy`, `catalog` and `memory` do not know each other.
MAY_IMPORT = {
    "api": "catalog dialect engine errors files hub memory node observe policy pool routing "
    "split tasks text threads upstream version",
    "app": "api catalog clock control engine fleet memory observe policy pool routing "
    "slots startup tasks upstream",
    "bench": "api app catalog control engine errors placement policy pool routing text",
    "catalog": "clock errors files kernel split threads",
    "cli": "app bench catalog control demo engine errors files fleet hub node observe policy "
    "routing service split startup tasks text threads version",
    "clock": "",
    "control": "catalog clock engine errors files memory observe placement policy pool routing "
    "split tasks text threads upstream",
    "demo": "engine",
    "dialect": "catalog errors policy split",
    "engine": "catalog errors files tasks threads",
    "errors": "",
    "files": "",
    "fleet": "api catalog clock dialect engine errors files memory node observe policy pool "
    "service tasks text threads upstream version",
    "hub": "catalog engine errors files tasks threads",
    "kernel": "clock threads",
    "memory": "clock engine kernel tasks text",
    "node": "files",
    "observe": "clock errors text version",
    "placement": "catalog engine split text",
    "policy": "engine errors files kernel node observe split threads",
    "pool": "clock engine errors observe tasks",
    "routing": "catalog engine errors files placement policy pool split tasks threads",
    "slots": "catalog engine errors memory observe placement pool tasks threads upstream",
    "split": "errors",
    "service": "",
    "startup": "engine errors node observe policy service threads",
    "tasks": "clock",
    "text": "",
    "threads": "errors",
    "upstream": "engine errors",
    "version": "",
    "worker": "engine errors memory",
}
MOST_LOOSE, MOST_LINES, MEDIAN_LINES = 10, 350, 110
# Of ctypes' functions, of the C struct that it has fields of, and of the context of a TLS
# connection, which has no other way to be told.
C_TYPES = {"restype", "argtypes", "buffer", "data", "extra", "verify_mode", "check_hostname"}


def plan() -> dict[str, set[str]]:
    return {part: set(theirs.split()) for part, theirs in MAY_IMPORT.items()}


# --- who knows whom ---


def test_nobody_imports_what_it_may_not() -> None:
    found = {part: theirs - plan().get(part, set()) for part, theirs in parts.graph().items()}

    assert {part: theirs for part, theirs in found.items() if theirs} == {}


def test_the_plan_allows_nothing_that_is_not_used() -> None:
    unused = {
        part: theirs - parts.graph().get(part, frozenset()) for part, theirs in plan().items()
    }

    assert {part: theirs for part, theirs in unused.items() if theirs} == {}


def test_imports_run_one_way() -> None:
    allowed = {part: frozenset(theirs) for part, theirs in plan().items()}

    for part in allowed:
        assert part not in parts.reachable(allowed, part)


def test_a_part_that_imports_what_it_may_not_is_found(tmp_path: Path) -> None:
    module = tmp_path / "m.py"
    module.write_text("def f():\n    from proxy.worker.gate import Gate\nfrom proxy import app\n")

    assert parts.imported(module) == {"proxy.worker.gate", "proxy.app"}


def test_nothing_is_plugged_into_another_part() -> None:
    """What assigns to an attribute of another object is in the package that declares it."""
    declared = {part: set(C_TYPES) for part in parts.graph()}
    for path in parts.modules():
        declared.setdefault(parts.part_of(path), set()).update(_declared(path))
    foreign = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
        for path in parts.modules()
        for node in _assigned(path)
        if node.attr not in declared[parts.part_of(path)]
    ]

    assert foreign == []


def _assigned(path: Path) -> Iterator[ast.Attribute]:
    """Attributes of others than `self` that are assigned to."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if not (isinstance(node.value, ast.Name) and node.value.id == "self"):
                yield node


def _declared(path: Path) -> Iterator[str]:
    """The attributes of a module's classes: by annotation, or on `self`."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                yield name


# --- how large a room is ---


def test_rooms_are_of_a_size_that_can_be_overlooked() -> None:
    lines = {path: len(path.read_text().splitlines()) for path in parts.modules()}

    assert {str(path): n for path, n in lines.items() if n > MOST_LINES} == {}
    assert statistics.median(n for n in lines.values() if n) <= MEDIAN_LINES


def test_few_modules_lie_loose() -> None:
    loose = [path.name for path in PACKAGE.glob("*.py") if path.name != "__init__.py"]

    assert len(loose) <= MOST_LOOSE, loose


# --- what the page says of it ---


def test_the_picture_is_drawn_from_the_imports() -> None:
    text = ARCHITECTURE.read_text()

    assert parts.PICTURE.search(text)
    assert text == parts.drawn(text), "python -m tests.support.parts draws it anew"


STEP = re.compile(r"^\d+\. `(proxy/[\w/]+\.py)`: `([\w.]+)`", re.MULTILINE)


def ways() -> dict[str, list[tuple[Path, str]]]:
    """The numbered lists of functions on the page, by their headings."""
    sections = re.split(r"^### ", ARCHITECTURE.read_text(), flags=re.MULTILINE)[1:]
    found = {
        s.splitlines()[0]: [(ROOT / file, name) for file, name in STEP.findall(s)] for s in sections
    }
    return {title: steps for title, steps in found.items() if title.startswith("The way of")}


@cache
def definition(path: Path, name: str) -> ast.AST:
    """The function or class of this name, "Class.method" or "outer"."""
    node: ast.AST = ast.parse(path.read_text())
    for part in name.split("."):
        node = next(
            child
            for child in ast.iter_child_nodes(node)
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and child.name == part
        )
    return node


def named_in(node: ast.AST) -> set[str]:
    """All that is named in a definition, in code or as a word over a socket."""
    found = set()
    for child in ast.walk(node):
        match child:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.Constant(value=str(name)):
                found.add(name.strip("_"))
    return found


def test_there_are_three_ways() -> None:
    assert [len(steps) >= 10 for steps in ways().values()] == [True, True, True]


@pytest.mark.parametrize("title", ways())
def test_each_step_of_a_way_is_taken_by_one_before_it(title: str) -> None:
    """By name, or on another thread of the same object."""
    first, *others = ways()[title]
    named, before = named_in(definition(*first)), first
    for path, name in others:
        owner, _, last = name.rpartition(".")
        same_object = owner and (path, owner) == (before[0], before[1].rpartition(".")[0])
        assert last.strip("_") in named or same_object, f"{name} is named by no step before it"
        named, before = named | named_in(definition(path, name)), (path, name)
