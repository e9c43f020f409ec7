"""A plan as a person reads it, and as `plan --json` prints it. Pure."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from proxy.placement.plan import Plan
from proxy.text import gib, table


def plan_text(plan: Plan, model: str, sizes: Mapping[str, int], args: Sequence[str]) -> str:
    """The plan as a table. `sizes` has the whole of each device, of which some stays free."""
    asked = plan.settings
    usable = {budget.name: budget.size_bytes for budget in plan.budgets}
    rows = [
        [
            held.name,
            gib(held.weights_bytes),
            gib(held.kv_bytes),
            gib(held.compute_bytes),
            gib(held.experts_bytes),
            gib(held.total_bytes),
            gib(sizes[held.name] - usable[held.name]),
            _left(usable[held.name] - held.total_bytes),
        ]
        for held in plan.devices
    ]
    text = [
        f"{model}: {_what_moves(plan)}",
        f"context {asked.ctx} for each of {asked.parallel} conversations, {_kv(plan)}, "
        f"ubatch {asked.ubatch}",
        "",
        table(_head(plan), rows),
        "RESERVE is what the policies keep free (devices.reserve, limit)" + _next_layer(plan),
        "",
        f"{_key(plan)} {plan.moe_cpu_layers}: {gib(plan.host_experts_bytes)} of {_movable(plan)} "
        f"on the CPU, {gib(plan.host_bytes)} of RAM for weights",
    ]
    text += [f"! {problem}" for problem in plan.problems]
    text += [f"- {advice}" for advice in plan.advice]
    return "\n".join([*text, "", "llama-server " + shlex.join(args)])


def _kv(plan: Plan) -> str:
    kinds = (plan.settings.key_type, plan.settings.value_type)
    each = plan.estimate.kv_bytes // plan.settings.parallel
    return f"KV {'/'.join(dict.fromkeys(kinds))} of {gib(each)} each"


def _head(plan: Plan) -> list[str]:
    moving = "FFN" if plan.settings.dense else "EXPERTS"
    return ["DEVICE", "WEIGHTS", "KV", "COMPUTE", moving, "TOTAL", "RESERVE", "LEFT"]


def _key(plan: Plan) -> str:
    return "dense_cpu_layers" if plan.settings.dense else "moe_cpu_layers"


def _movable(plan: Plan) -> str:
    return "feed-forward weights" if plan.settings.dense else "experts"


def _what_moves(plan: Plan) -> str:
    made = plan.estimate
    layers = len(made.layers)
    movable = sum(1 for layer in made.layers if layer.experts)
    if not movable:
        return (
            f"{layers} layers without experts ({gib(made.weights_bytes)}), loaded as a whole; with "
            "dense_cpu_layers in its policy, feed-forward weights can stay on the CPU"
        )
    return (
        f"{layers} layers, {movable} with {_movable(plan)} that move "
        f"({gib(made.experts_bytes)} of {gib(made.weights_bytes)})"
    )


def _next_layer(plan: Plan) -> str:
    """Why what is left is left: the layer that would come next is larger."""
    if not plan.moe_cpu_layers or not plan.fits:
        return ""
    largest = max(layer.experts for layer in plan.estimate.layers[: plan.moe_cpu_layers])
    return f"; one more layer takes {gib(largest)}, and scratch memory"


def plan_json(plan: Plan, model: str, args: Sequence[str]) -> dict[str, Any]:
    return {
        "model": model,
        "fits": plan.fits,
        "moe_cpu_layers": plan.moe_cpu_layers,
        "ubatch": plan.settings.ubatch,
        "devices": [
            {
                "name": held.name,
                "weights_bytes": held.weights_bytes,
                "kv_bytes": held.kv_bytes,
                "compute_bytes": held.compute_bytes,
                "experts_bytes": held.experts_bytes,
            }
            for held in plan.devices
        ],
        "host_bytes": plan.host_bytes,
        "problems": list(plan.problems),
        "advice": list(plan.advice),
        "args": list(args),
    }


def _left(size_bytes: int) -> str:
    return gib(size_bytes) if size_bytes >= 0 else f"-{gib(-size_bytes)}"
