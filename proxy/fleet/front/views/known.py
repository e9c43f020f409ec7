"""The nodes as they are shown: what each tells of itself, what it is for this front, and since
when."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from proxy.fleet.front.nodes import FleetNode, Nodes
from proxy.fleet.front.numbers import state_of
from proxy.fleet.front.views.live import State

TOPICS: Final = ("proxy", "memory", "backends", "requests")


class KnownNodes:
    """`proxy.fleet.front.views.live.Known`, of the nodes that a front follows."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        # What changes: what each is, and since when.
        self._since: dict[str, tuple[str, str]] = {}
        nodes.subscribe(self._look)
        for node in nodes:
            self._look(node.name)

    def states(self) -> Mapping[str, State]:
        return {
            node.name: node.state
            for node in self._nodes.answering()
            if all(isinstance(node.state.get(topic), dict) for topic in TOPICS)
        }

    def about(self) -> Mapping[str, Mapping[str, Any]]:
        return {node.name: self._about(node) for node in self._nodes}

    def listed(self) -> list[dict[str, Any]]:
        """The same for who asks once, with each machine's main memory."""
        return [
            {"name": node.name, **self._about(node), "host": _host(node) if node.answers else None}
            for node in self._nodes
        ]

    def _about(self, node: FleetNode) -> dict[str, Any]:
        proxy = node.state.get("proxy")
        return {
            "url": node.member.url,
            "state": state_of(node),
            "since": self._since[node.name][1] if node.name in self._since else None,
            "version": proxy.get("version") if isinstance(proxy, dict) else None,
        }

    def _look(self, name: str) -> None:
        node = self._nodes.get(name)
        if node is None:
            self._since.pop(name, None)
            return
        state = state_of(node)
        if self._since.get(name, ("", ""))[0] != state:
            self._since[name] = state, datetime.now(UTC).isoformat()


def _host(node: FleetNode) -> Any:
    memory = node.state.get("memory")
    return memory.get("host") if isinstance(memory, dict) else None
