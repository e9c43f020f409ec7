"""The lists of models of all nodes as one: by name, or each with its node. Pure.

`Told` is what each node answered, decoded. Raises KeyError and TypeError for what no node says.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, TypeVar

from proxy.fleet.front.ids import marked

Told = Mapping[str, Mapping[str, Any]]
K = TypeVar("K", int, datetime)


def models(told: Told) -> dict[str, Any]:
    """`/v1/models`: each name once, the youngest first, in OpenAI's and Anthropic's shape."""
    entries = _by_name(told, "data", "id", "created")
    entries.sort(key=lambda entry: -int(entry["created"]))
    names = [entry["id"] for entry in entries]
    ends = {"first_id": names[0] if names else None, "last_id": names[-1] if names else None}
    return {"object": "list", "data": entries, "has_more": False, **ends}


def tags(told: Told) -> dict[str, Any]:
    """`/api/tags`: each name once, the youngest first."""
    entries = _by_name(told, "models", "name", "modified_at")
    entries.sort(key=lambda entry: _time(entry["modified_at"]), reverse=True)
    return {"models": entries}


def ps(told: Told) -> dict[str, Any]:
    """`/api/ps`: all that is loaded, the one that stays longest first."""
    entries = [marked(node, entry) for node, entry in _all(told, "models")]
    entries.sort(key=lambda entry: _time(entry["expires_at"]), reverse=True)
    return {"models": entries}


def running(told: Told) -> dict[str, Any]:
    """`/running`: all, node by node."""
    return {"running": [marked(node, entry) for node, entry in _all(told, "running")]}


def _by_name(told: Told, key: str, name: str, age: str) -> list[dict[str, Any]]:
    """Each name once, in the order of names, as the node says that has the youngest file of it;
    with `nodes`, all that have one."""
    found: dict[str, dict[str, Any]] = {}
    for node, entry in _all(told, key):
        if not isinstance(entry[name], str):
            raise TypeError(f"no name: {entry[name]!r}")
        known = found.get(entry[name])
        nodes = [*(known["nodes"] if known else ()), node]
        older = known is not None and _age(entry[age]) <= _age(known[age])
        found[entry[name]] = {**(known if known and older else entry), "nodes": nodes}
    return [found[each] for each in sorted(found)]


def _all(told: Told, key: str) -> Iterable[tuple[str, Mapping[str, Any]]]:
    return ((node, entry) for node, said in told.items() for entry in said[key] or ())


def _age(value: Any) -> float:
    return _time(value).timestamp() if isinstance(value, str) else float(value)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
