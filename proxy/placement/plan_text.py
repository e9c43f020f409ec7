"""A plan as a person reads it, and as `plan --json` prints it. Pure."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from proxy.placement.plan import Plan
from proxy.tables import gib, table


def plan_text(plan: Plan, model: str, sizes: Mapping[str, int], args: Sequence[str]) -> str:
    """The plan as a table. `sizes` has the whole of each device, of which some stays free."""
    layers = len(plan.estimate.layers)
    movable = sum(1 for layer in plan.estimate.layers if layer.experts)
    asked = plan.settings
    rows = [
        [
            held.name,
            gib(held.weights_bytes),
            gib(held.kv_bytes),
            gib(held.compute_bytes),
            gib(held.experts_bytes),
            gib(held.total_bytes),
            _left(sizes[held.name] - held.total_bytes),
        ]
        for held in plan.devices
    ]
    text = [
        f"{model}: {layers} layers, {movable} with experts ({gib(plan.estimate.experts_bytes)} of "
        f"{gib(plan.estimate.weights_bytes)})",
        f"context {asked.ctx} for each of {asked.parallel}, KV {asked.key_type}, "
        f"ubatch {asked.ubatch}",
        "",
        table(["DEVICE", "WEIGHTS", "KV", "COMPUTE", "EXPERTS", "TOTAL", "LEFT"], rows),
        "",
        f"moe_cpu_layers {plan.moe_cpu_layers}: {gib(plan.host_experts_bytes)} of experts on the "
        f"CPU, {gib(plan.host_bytes)} of RAM for weights",
    ]
    text += [f"! {problem}" for problem in plan.problems]
    text += [f"- {advice}" for advice in plan.advice]
    return "\n".join([*text, "", "llama-server " + shlex.join(args)])


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
