"""What nodes had that cannot be asked now. A model that only they have is no name that nobody
knows: who asks for it is to come again, and not to be told that there is none."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from proxy.errors import Busy
from proxy.fleet.front.picture import Models

# A node that is started again, or whose connection was cut, is back by then: its requests wait.
SOON_S: Final = 3.0
# What one had that is no member any more: it may be one again once its machine is up.
LEFT_S: Final = 600.0
RETRY_AFTER_S: Final = 2.0
SHOWN: Final = 80


@dataclass(frozen=True, slots=True)
class _Gone:
    since_s: float
    models: Models


class Away:
    """By name, the nodes that cannot be asked. Times are those of the loop, in seconds."""

    def __init__(self) -> None:
        # What changes:
        self._gone: dict[str, _Gone] = {}

    def went(self, node: str, models: Models, now_s: float) -> None:
        """It cannot be asked, as it may be known already."""
        self._gone.setdefault(node, _Gone(now_s, models))

    def is_back(self, node: str) -> None:
        self._gone.pop(node, None)

    def forget(self, members: Collection[str], now_s: float) -> None:
        """Those that have left long ago."""
        for node, gone in list(self._gone.items()):
            if node not in members and now_s - gone.since_s >= LEFT_S:
                del self._gone[node]

    def has(self, node: str) -> bool:
        """Whether a node of this name is away, or was there lately."""
        return node in self._gone

    def having(self, model: str) -> list[str]:
        """Those that had a model of this name."""
        return sorted(node for node, gone in self._gone.items() if gone.models.find(model))

    def went_just_now(self, node: str, now_s: float) -> bool:
        gone = self._gone.get(node)
        return gone is not None and now_s - gone.since_s < SOON_S

    def may_be_back_soon(self, models: Iterable[str], now_s: float) -> bool:
        """Whether one went just now that had one of these."""
        lately = [gone for gone in self._gone.values() if now_s - gone.since_s < SOON_S]
        return bool(lately) and any(gone.models.find(name) for gone in lately for name in models)


def has_left(node: str) -> Busy:
    """What a client is told who names one that was a member a moment ago."""
    return Busy(
        f"the node {node!r} has left this fleet lately, and may be back; try again in a moment",
        retry_after_s=RETRY_AFTER_S,
    )


def comes_again(model: str, nodes: Collection[str]) -> Busy:
    """What a client is told whose model is on these alone."""
    there, verb = ", ".join(nodes), "takes" if len(nodes) == 1 else "take"
    return Busy(
        f"the model {model[:SHOWN]!r} is on {there}, which {verb} no requests now; try again in a "
        "moment",
        retry_after_s=RETRY_AFTER_S,
    )
