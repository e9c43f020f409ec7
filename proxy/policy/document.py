"""One policy file: from its bytes to entries, each a known key with its raw value and its line."""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import tomli

from proxy.node.names import USABLE_NAME
from proxy.policy.fields import FIELDS, NAME, TREE, Tree
from proxy.policy.lines import TooDeepError, find_lines
from proxy.policy.nodes import NAME_ALLOWED, NODES, parted
from proxy.policy.problems import KeyPath, Problem, dotted, quoted, shown
from proxy.policy.schema import Field
from proxy.policy.values import refusal
from proxy.split import OPTION_NAMES

_PLACE: Final = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
# A name as people write it first, gpt-oss:120b or org/model, which TOML takes only in quotes.
_UNQUOTED: Final = re.compile(
    r"""\s*\[\s*((?:nodes\.[^"'.\[\]\s]+\.)?models)\.([^"'\[\]\s]*[^"'\[\]\s\w.-][^"'\[\]\s]*)\s*\]"""
)
# On top there are the tables of single machines beside the others; within them are the same again.
_ROOT: Final[Tree] = {**TREE, NODES: {NAME: TREE}}
_KNOWN_ELSEWHERE: Final = dict.fromkeys(OPTION_NAMES, "moe_cpu_layers")


@dataclass(frozen=True, slots=True)
class Entry:
    """A key that is set: `value` is what TOML gives, not yet checked."""

    path: KeyPath
    field: Field
    value: object


@dataclass(slots=True)
class Document:
    """A file's entries and the tables that users named in it (`("models", "gpt-oss:120b")`), those
    of single machines with the path that they have there (`("nodes", "attic", "models", "x")`)."""

    file: Path
    lines: dict[KeyPath, int] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    named: list[KeyPath] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def unreadable(self) -> bool:
        """Whether nothing is known of what it sets."""
        return bool(self.problems) and not self.lines

    def problem(self, path: KeyPath, message: str) -> Problem:
        """A problem at `path`, on its line or on that of what it is in."""
        line = next(
            (self.lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in self.lines),
            None,
        )
        return Problem(str(self.file), line, dotted(path), message)


def parse_document(file: Path, data: bytes) -> Document:
    """Read one file as far as it can be read; never raises."""
    document = Document(file)
    try:
        # Some Windows editors start a file with a byte order mark.
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
        content = tomli.loads(text)
        document.lines = find_lines(text)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        document.problems.append(Problem(str(file), line, "", "the text is not UTF-8"))
    except TooDeepError as error:
        document.problems.append(Problem(str(file), error.line, "", str(error)))
    except RecursionError:
        document.problems.append(Problem(str(file), None, "", "nested too deep"))
    except ValueError as error:  # TOMLDecodeError, and integers longer than Python reads
        document.problems.append(_syntax_problem(file, text, str(error)))
    else:
        _walk(document, content, _ROOT, ())
    return document


def _syntax_problem(file: Path, text: str, message: str) -> Problem:
    line: int | None = None
    if place := _PLACE.search(message):
        line = int(place[1]) if place[1] else text.rstrip("\n").count("\n") + 1
        message = message[: place.start()]
        if unquoted := _UNQUOTED.match((*text.split("\n"), "")[line - 1]):
            message += f"; put the name in quotes: [{unquoted[1]}.{quoted(unquoted[2])}]"
    return Problem(str(file), line, "", f"not valid TOML: {message}")


def _walk(document: Document, table: dict[str, Any], known: Tree, path: KeyPath) -> None:
    own_names = known.get(NAME)
    for key, value in table.items():
        here = (*path, key)
        below = known.get(key) if key != NAME else None
        if isinstance(below, Field):
            document.entries.append(Entry(here, below, value))
        elif below is None and not (own_names and (isinstance(value, dict) or len(known) == 1)):
            message = _unknown(here, known)
            node, inside = parted(here)
            if inside == (NODES,):
                message = f"{NODES} cannot be within {NODES}"
            elif isinstance(value, dict) and inside[0] == "models":
                # [models.qwen3.5], in which TOML sees a table "5" of a model "qwen3".
                name = quoted(".".join(map(str, inside[1:])))
                above = "" if node is None else f"{dotted(here[:2])}."
                message += f"; a name with a dot needs quotes: [{above}models.{name}]"
            document.problems.append(document.problem(here, message))
        elif not isinstance(value, dict):
            document.problems.append(document.problem(here, refusal(value, "a table")))
        elif below is not None:
            _walk(document, value, below, here)
        else:
            if path == (NODES,) and not USABLE_NAME.fullmatch(key):
                message = f"{shown(key)} cannot be a node's name; use {NAME_ALLOWED}"
                document.problems.append(document.problem(here, message))
            elif key in ("", NAME) or "?" in key:
                message = f"{shown(key)} cannot be a name"
                document.problems.append(document.problem(here, message))
            assert isinstance(own_names, dict)
            document.named.append(here)
            _walk(document, value, own_names, here)


def _unknown(path: KeyPath, known: Tree) -> str:
    """The sentence for a key that is not known, with the name that was probably meant."""
    key = str(path[-1])
    siblings = [name for name in known if name != NAME]
    meant = _nearest(_KNOWN_ELSEWHERE.get(key, key), siblings)
    if not meant:
        elsewhere = [field.key for field in FIELDS if field.path[-1] == key]
        meant = elsewhere[0].replace(NAME, "NAME") if elsewhere else ""
    if meant:
        return f"unknown key; did you mean {meant}?"
    return f"unknown key; known here: {', '.join(siblings)}"


def _nearest(key: str, names: Iterable[str]) -> str:
    matches = difflib.get_close_matches(key[:80].lower().replace("-", "_"), list(names), n=1)
    return matches[0] if matches else ""
