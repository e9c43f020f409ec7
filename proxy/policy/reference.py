"""Writes `policies/default.toml` and the reference in `docs/policies.md` from the table of keys.

`python -m proxy.policy.reference toml|markdown` prints the one or the other.
"""

import json
import sys
import textwrap
from collections.abc import Iterator, Mapping
from typing import Final

from proxy.node.names import NODE_VARIABLE
from proxy.policy.fields import BY_KEY, FIELDS, NAME, fields_of
from proxy.policy.nodes import NODES
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
    return _HEAD + "".join(f"\n{_toml_table(table)}" for table in TABLES) + f"\n{_toml_node()}"


def markdown() -> str:
    """The reference page from MARKER on."""
    tables = "".join(f"\n{_markdown_table(table)}" for table in TABLES)
    return f"{MARKER}\n{tables}\n{_markdown_node()}"


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


# What one machine of a fleet overrides: tables as above, so an example says all.
_OF_A_NODE: Final[Mapping[str, Mapping[str, object]]] = {
    "catalog": {"dirs": ["/mnt/models"]},
    "devices": {"reserve": "2GiB"},
    'models."gpt-oss:120b"': {"moe_cpu_layers": "full"},
}
_NODE: Final = f"[{NODES}.attic]"
_ON_A_NODE: Final = (
    "In a fleet, where the files are the same on all machines: what differs on the node of this "
    "name. Every table of above may stand below it, and its keys count there in the place of the "
    "same keys outside of it; tables such as params merge. On other nodes they are checked and "
    f"have no effect. A machine is the node that ${NODE_VARIABLE} says, else its host's short name."
)


def _toml_node() -> str:
    lines = [f"# {line}" for line in textwrap.wrap(_ON_A_NODE, WIDTH, break_on_hyphens=False)]
    return "\n".join([*lines, *(f"#{line}" for line in _node_example())]) + "\n"


def _markdown_node() -> str:
    example = "\n".join(_node_example())
    return f"## `{_NODE}`\n\n{_ON_A_NODE}\n\n```toml\n{example}\n```\n"


def _node_example() -> Iterator[str]:
    for table, keys in _OF_A_NODE.items():
        yield f"{_NODE[:-1]}.{table}]"
        yield from (f"{key} = {literal(value)}" for key, value in keys.items())


if __name__ == "__main__":
    if sys.argv[1:] not in (["toml"], ["markdown"]):
        sys.exit("usage: python -m proxy.policy.reference toml|markdown")
    sys.stdout.write(toml() if sys.argv[1] == "toml" else markdown())
