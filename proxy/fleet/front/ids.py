"""What has an id on its node has one in the fleet: the node's name before it. Pure.

A node's name has no dot in it, so what is before the first one is the node.
"""

from collections.abc import Mapping
from typing import Any, Final

from proxy.node.names import USABLE_NAME

# Where one of the node's backends is named in what it tells.
_NAMES_BACKEND: Final = ("backend", "unloads")


def of_fleet(node: str, its: str) -> str:
    """`b1` of `attic` is `attic.b1`."""
    return f"{node}.{its}"


def apart(text: str) -> tuple[str, str] | None:
    """The node and the id there; None for what is no id of a fleet."""
    node, dot, its = text.partition(".")
    return (node, its) if dot and its and USABLE_NAME.fullmatch(node) else None


def marked(node: str, told: Mapping[str, Any]) -> dict[str, Any]:
    """What a node told of one of its backends, requests, devices or of what happened: with the
    node's name, and with ids that are the fleet's."""
    found = {**told, "node": node}
    for key in _NAMES_BACKEND:
        if isinstance(its := told.get(key), str) and its:
            found[key] = of_fleet(node, its)
    return found


def marked_with_id(node: str, told: Mapping[str, Any]) -> dict[str, Any]:
    """The same of what has an `id` itself."""
    return {**marked(node, told), "id": of_fleet(node, str(told["id"]))}
