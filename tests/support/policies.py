"""Policies for tests: the models that a test wants, and what should differ from usual."""

import json
import re
from collections.abc import Mapping
from typing import Any

from tests.support.llama import libdir

Table = Mapping[str, Any]


def policies(models: Mapping[str, Table], **tables: Table) -> str:
    """The text of a policy file. `models` has their tables by name, `tables` the others'.

    Unless `tables` say otherwise, models that Ollama has on this machine are not served, a worker
    computes with one thread, and none is started before there is something to load.
    """
    usual: dict[str, Table] = {
        "catalog": {"ollama": False},
        "engine": {"threads": 1, "libdir": libdir()},
        "server": {"warm_workers": 0},
    }
    merged = {name: {**usual.get(name, {}), **tables.get(name, {})} for name in usual | tables}
    return toml({**merged, "models": models})


def toml(values: Table, *path: str) -> str:
    """TOML of nested tables. What is None is left out; what JSON has no word for, such as a path,
    is written as text."""
    lines = [f"[{'.'.join(map(_key, path))}]"] if path else []
    below = ""
    for key, value in values.items():
        if isinstance(value, Mapping):
            below += toml(value, *path, key)
        elif value is not None:
            lines.append(f"{_key(key)} = {json.dumps(value, default=str)}")
    return "".join(line + "\n" for line in lines) + below


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)
