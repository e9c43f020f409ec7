"""Counts how backends' starts came out and why they ended, and what moved, from the events that say
so."""

import re
from collections.abc import Mapping
from typing import Any, Final

from proxy.observe.events import Event
from proxy.observe.tally import Spread, Tally

# Why a backend was told to go -> the reason of its unload.
UNLOADS: Final[Mapping[str, str]] = {
    "keep_alive": "idle",
    "unload": "requested",
    "room": "made_way",
    "rpc": "made_way",
    "replaced": "replaced",
    "drain": "shutdown",
    "abort": "shutdown",
}
UNWANTED: Final = "unwanted"
_NO_MEMORY: Final = re.compile(r"out of (\w+ )?memory|(failed|unable) to allocate", re.IGNORECASE)
# A pause is one to a hundred milliseconds; a device of another machine takes longer.
PAUSE_BUCKETS_S: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 5)


def unload_reason(told: str | None, message: str) -> str:
    """`told`: why it was to go, before it was gone, if it was told so; `message`: what became of
    it."""
    if (reason := UNLOADS.get(told or "")) is not None:
        return reason
    return "out_of_memory" if _NO_MEMORY.search(message) else "crashed"


class Lives:
    """Listens to an event log."""

    def __init__(self) -> None:
        self._loads = Tally(
            "moe_proxy_loads",
            "Starts of backends, by what came of them: loaded, failed, unwanted.",
            ("model", "outcome"),
        )
        self._unloads = Tally(
            "moe_proxy_unloads",
            "Loaded backends that went, by reason: idle, requested, made_way, replaced, shutdown, "
            "crashed, out_of_memory.",
            ("model", "reason"),
        )
        self._restarts = Tally(
            "moe_proxy_worker_restarts",
            "Workers that were started in place of one that ended by its own fault.",
            ("model",),
        )
        labels = ("model", "reason")
        self._moves = Tally("moe_proxy_moves", "Times that experts moved, by reason.", labels)
        self._layers = Tally("moe_proxy_moved_layers", "Layers whose experts moved.", labels)
        self._bytes = Tally("moe_proxy_moved_bytes", "Bytes of experts that moved.", labels)
        self._pauses = Spread(
            "moe_proxy_pause_seconds",
            "The longest time that a move held the next token.",
            labels,
            PAUSE_BUCKETS_S,
        )
        self.tallies: tuple[Tally | Spread, ...] = (
            *(self._loads, self._unloads, self._restarts),
            *(self._moves, self._layers, self._bytes, self._pauses),
        )
        # What changes: why those are going that are not gone yet, and the models whose worker
        # ended by its own fault and has no successor yet.
        self._told: dict[tuple[str, int], str] = {}
        self._fell: set[str] = set()

    def __call__(self, event: Event) -> None:
        fields = event.fields
        match event.kind:
            case "backend_starting" if fields["model"] in self._fell:
                self._fell.discard(fields["model"])
                self._restarts.add((fields["model"],))
            case "backend_ready" if fields["was"] == "starting":
                self._loads.add((fields["model"], "loaded"))
            case "backend_draining" | "backend_stopping":
                unwanted = fields["was"] == "starting"  # it was never loaded
                why = UNWANTED if unwanted else fields["why"]
                self._told.setdefault((fields["backend"], fields["generation"]), why)
                if unwanted:
                    self._loads.add((fields["model"], UNWANTED))
            case "backend_gone":
                self._gone(fields)
            case "moved":
                self._moved(fields)

    def _gone(self, fields: Mapping[str, Any]) -> None:
        model, told = (
            fields["model"],
            self._told.pop((fields["backend"], fields["generation"]), None),
        )
        if fields["was"] == "starting":
            self._loads.add((model, "failed"))
        if fields["was"] == "starting" or told == UNWANTED:
            return
        reason = unload_reason(told, f"{told} {fields['why']}")
        self._unloads.add((model, reason))
        if reason in ("crashed", "out_of_memory"):
            self._fell.add(model)

    def _moved(self, fields: Mapping[str, Any]) -> None:
        labels = fields["model"], fields["why"]
        self._moves.add(labels)
        self._layers.add(labels, fields["layers"])
        self._bytes.add(labels, fields["bytes"])
        self._pauses.add(labels, fields["gate_s"])
