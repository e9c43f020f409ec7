"""Writes `policies/default.toml` and the reference in `docs/policies.md` from the table of keys.

`python -m proxy.policy.reference toml|markdown` prints the one or the other.
"""

import json
import sys
import textwrap
from collections.abc import Iterator
from typing import Final

from proxy.policy.fields import BY_KEY, FIELDS, NAME, fields_of
from proxy.policy.problems import dotted, quoted
from proxy.policy.schema import Effect, Field

MARKER: Final = "<!-- From here on written by python -m proxy.policy.reference markdown -->"
WIDTH: Final = 96

TABLES: Final = tuple(dict.fromkeys(field.key.rpartition(".")[0] for field in FIELDS))
_EXAMPLE_NAMES: Final = {"devices": "CUDA1", "models": "gpt-oss:120b"}
_EFFECTS: Final = {
    Effect.LIVE: "at once",
    Effect.RELOAD: "with a new backend",
    Effect.RESTART: "at the next start",
}
LOCAL: Final = "not over HTTP"
_HEAD: Final = """\
# Every policy with its default. All of them are commented out: this file changes nothing.
# Take the # away in front of what you want to change, or put it into a file of your own.
# A running proxy sees it when you save, and it applies at once where nothing else is said.
# docs/policies.md has more. Written by: python -m proxy.policy.reference toml
"""


def toml() -> str:
    """The text of `policies/default.toml`. "# " is a comment, "#" alone is before TOML."""
    return _HEAD + "".join(f"\n{_toml_table(table)}" for table in TABLES)


def markdown() -> str:
    """The reference page from MARKER on."""
    return f"{MARKER}\n" + "".join(f"\n{_markdown_table(table)}" for table in TABLES)


def header(table: str) -> str:
    """`[devices.CUDA1]` for "devices.*": the table as an example would head it."""
    first, _, rest = table.partition(".")
    return f"[{dotted((first, _EXAMPLE_NAMES[first]) if rest == NAME else (first,))}]"


def literal(value: object) -> str:
    """`value` in TOML."""
    if isinstance(value, dict):
        pairs = ", ".join(f"{dotted((key,))} = {literal(item)}" for key, item in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    return quoted(value) if isinstance(value, str) else json.dumps(value)


def _toml_table(table: str) -> str:
    # An empty table sets nothing, but an empty table with a name is a device or model of that name.
    lines = [f"{'#' if NAME in table else ''}{header(table)}"]
    for field in fields_of(table):
        text = f"{field.help}{_note(field)}"
        lines += [f"# {line}" for line in textwrap.wrap(text, WIDTH, break_on_hyphens=False)]
        lines.append(f"#{field.path[-1]} = {literal(_sample(field))}")
    return "\n".join(lines) + "\n"


def _note(field: Field) -> str:
    default = "" if _sample(field) == field.default else f" Default: {_default(field)}."
    applies = "" if field.effect is Effect.LIVE else f" Applies {_EFFECTS[field.effect]}."
    return default + applies + (f" N{LOCAL[1:]}." if field.local else "")


def _sample(field: Field) -> object:
    """The default, or where that says nothing, something to start from."""
    if field.inherits:
        return _sample(BY_KEY[field.inherits]) if field.example is None else field.example
    return field.default if field.example is None else field.example


def _default(field: Field) -> str:
    if field.inherits:
        return f"as in {field.inherits}"
    if field.default is None:
        return "not set"
    return literal(field.default)


def _markdown_table(table: str) -> str:
    heading = header(table)
    lines = [
        f"## `{heading}`",
        "",
        "| Key | Meaning | Value | Default | Applies |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| {' | '.join(_cells(field))} |" for field in fields_of(table)]
    return "\n".join(lines) + "\n"


def _cells(field: Field) -> Iterator[str]:
    unit = f" ({field.unit})" if field.unit else ""
    default = _default(field)
    yield f"`{field.path[-1]}`"
    yield field.help.replace("*.gguf", "`*.gguf`")
    yield f"{field.allowed}{unit}"
    yield default if field.default is None else f"`{default}`"
    yield f"{_EFFECTS[field.effect]}; {LOCAL}" if field.local else _EFFECTS[field.effect]


if __name__ == "__main__":
    if sys.argv[1:] not in (["toml"], ["markdown"]):
        sys.exit("usage: python -m proxy.policy.reference toml|markdown")
    sys.stdout.write(toml() if sys.argv[1] == "toml" else markdown())
