"""A front's own numbers, beside those of its nodes."""

from collections import Counter as Count
from collections.abc import Iterable
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.metrics_core import Metric


class Counted(Protocol):
    """A node, as it is counted."""

    @property
    def answers(self) -> bool: ...

    @property
    def draining(self) -> bool: ...


def state_of(node: Counted) -> str:
    """In a word: "ready", "silent" or "draining"."""
    if not node.answers:
        return "silent"
    return "draining" if node.draining else "ready"


class FrontNumbers:
    """They count from the start of the front."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "moe_proxy_front_requests",
            "Requests that the front has passed to a node, by the status of the answer.",
            ("node", "status"),
            registry=self._registry,
        )
        self._retries = Counter(
            "moe_proxy_front_retries",
            "Requests that another node was asked, since this one gave no byte or refused.",
            ("node",),
            registry=self._registry,
        )
        self._nodes = Gauge(
            "moe_proxy_front_nodes",
            "Nodes of the fleet, by what they are for this front.",
            ("state",),
            registry=self._registry,
        )

    def passed_on(self, node: str, status: int) -> None:
        """A node has answered, or the client has left before (499)."""
        self._requests.labels(node, str(status)).inc()

    def retried(self, node: str) -> None:
        """`node` has failed before the first byte or refused, and another one is asked."""
        self._retries.labels(node).inc()

    def count_nodes(self, nodes: Iterable[Counted]) -> None:
        found = Count(map(state_of, nodes))
        for state in ("ready", "silent", "draining"):
            self._nodes.labels(state).set(found[state])

    def metrics(self) -> list[Metric]:
        return list(self._registry.collect())
