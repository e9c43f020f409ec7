"""A plan as a person reads it. Pure."""

import shlex
from dataclasses import replace
from typing import Any

from proxy.cli.bars import WIDTH, Kind, bar, legend
from proxy.text import gib, table

Json = dict[str, Any]


DENSE = Kind("dense weights", "▓", "\033[34m")
KV = Kind("KV", "▒", "\033[36m")
EXPERTS = Kind("experts", "█", "\033[32m")
CACHE = Kind("expert cache", "▚", "\033[92m")
COMPUTE = Kind("compute", "░", "\033[33m")
RESERVE = Kind("reserve", "/", "\033[35m")
FREE = Kind("free", "·", "\033[2m")
OVER = Kind("too much", "!", "\033[31m")


def plan_text(plan: Json, *, colours: bool = False) -> str:
    """The plan as a table and as a bar for each device. `plan` is in the shape of `plan_json`."""
    rows = [
        [
            held["name"],
            *(gib(held[f"{kind}_bytes"]) for kind in ("weights", "kv", "compute", "experts")),
            *([gib(held["cache_bytes"])] if cached(plan) else ()),
            gib(total(held)),
            gib(held["size_bytes"] - held["usable_bytes"]),
            _left(held["usable_bytes"] - total(held)),
        ]
        for held in plan["devices"]
    ]
    kinds = "/".join(plan["kv_types"])
    key = "dense_cpu_layers" if plan["dense"] else "moe_cpu_layers"
    text = [
        f"{plan['model']}: {_what_moves(plan)}",
        f"context {plan['ctx']} for each of {plan['parallel']} conversations, "
        f"KV {kinds} of {gib(plan['kv_bytes'] // plan['parallel'])} each, ubatch {plan['ubatch']}",
        "",
        table(_head(plan), rows),
        "RESERVE is what the policies keep free (devices.reserve, limit)" + _next_layer(plan),
        "",
        plan_chart(plan, colours=colours),
        "",
        f"{key} {plan['moe_cpu_layers']}: {gib(plan['host_experts_bytes'])} of {_movable(plan)} "
        f"on the CPU, {gib(plan['host_bytes'])} of RAM for weights",
    ]
    if layers := cached(plan):
        text.append(f"of these, {layers} are in the expert cache, and never move")
    text += [f"! {problem}" for problem in plan["problems"]]
    text += [f"- {advice}" for advice in plan["advice"]]
    return "\n".join([*text, "", "llama-server " + shlex.join(plan["args"])])


def plan_chart(plan: Json, *, colours: bool = False) -> str:
    """A bar for each device, as long as its share of the largest one's memory (or of what would be
    needed, where that is more)."""
    experts = replace(EXPERTS, name=_movable(plan))
    kinds = [DENSE, KV, experts, CACHE, COMPUTE, RESERVE, FREE, OVER]
    parts = {held["name"]: dict(zip(kinds, _parts(held), strict=True)) for held in plan["devices"]}
    longest = max((sum(sizes.values()) for sizes in parts.values()), default=0)
    names = max(map(len, parts), default=0)
    rows = [
        f"{name.ljust(names)}  "
        + bar(
            [*sizes.items()],
            width=max(round(WIDTH * sum(sizes.values()) / longest), 1) if longest else 0,
            colours=colours,
        )
        for name, sizes in parts.items()
    ]
    shown = [kind for kind in kinds if any(sizes[kind] for sizes in parts.values())]
    return "\n".join([*rows, f"{' ' * names}  {legend(shown, colours=colours)}"])


def _parts(held: Json) -> list[int]:
    """Bytes of dense weights, KV, experts, their cache, compute, reserve, what is free, and what is
    too much."""
    kinds = ("weights", "kv", "experts", "cache", "compute")
    left = held["usable_bytes"] - total(held)
    reserve = held["size_bytes"] - held["usable_bytes"]
    return [
        *(int(held.get(f"{kind}_bytes", 0)) for kind in kinds),
        reserve,
        max(left, 0),
        max(-left, 0),
    ]


def total(held: Json) -> int:
    """The bytes of a device that the model would hold."""
    kinds = ("weights", "kv", "compute", "experts", "cache")
    return sum(int(held.get(f"{kind}_bytes", 0)) for kind in kinds)


def cached(plan: Json) -> int:
    """How many layers an expert cache has; an older proxy knows of none."""
    return int(plan.get("cached_layers", 0))


def _head(plan: Json) -> list[str]:
    moving = "FFN" if plan["dense"] else "EXPERTS"
    cache = ["CACHE"] if cached(plan) else []
    return ["DEVICE", "WEIGHTS", "KV", "COMPUTE", moving, *cache, "TOTAL", "RESERVE", "LEFT"]


def _movable(plan: Json) -> str:
    return "feed-forward weights" if plan["dense"] else "experts"


def _what_moves(plan: Json) -> str:
    layers, movable = plan["layers"], plan["movable_layers"]
    if not movable:
        return (
            f"{layers} layers without experts ({gib(plan['weights_bytes'])}), loaded as a whole; "
            "with dense_cpu_layers in its policy, feed-forward weights can stay on the CPU"
        )
    return (
        f"{layers} layers, {movable} with {_movable(plan)} that move "
        f"({gib(plan['experts_bytes'])} of {gib(plan['weights_bytes'])})"
    )


def _next_layer(plan: Json) -> str:
    """Why what is left is left: the layer that would come next is larger."""
    if not plan["next_layer_bytes"]:
        return ""
    return f"; one more layer takes {gib(plan['next_layer_bytes'])}, and scratch memory"


def _left(size_bytes: int) -> str:
    return gib(size_bytes) if size_bytes >= 0 else f"-{gib(-size_bytes)}"
