"""A plan as `plan --json` prints it, and as the proxy tells it. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from proxy.placement.plan import Plan


def plan_json(
    plan: Plan, model: str, sizes: Mapping[str, int], args: Sequence[str]
) -> dict[str, Any]:
    """`sizes` has the whole of each device, of which some stays free. Sizes in bytes."""
    asked, made = plan.settings, plan.estimate
    usable = {budget.name: budget.size_bytes for budget in plan.budgets}
    away = [layer.experts for layer in made.layers if layer.index < plan.moe_cpu_layers]
    return {
        "model": model,
        "fits": plan.fits,
        "moe_cpu_layers": plan.moe_cpu_layers,
        "ctx": asked.ctx,
        "parallel": asked.parallel,
        "kv_types": [*dict.fromkeys((asked.key_type, asked.value_type))],
        "kv_bytes": made.kv_bytes,
        "ubatch": asked.ubatch,
        # Whether it is feed-forward weights of a model without experts that move.
        "dense": asked.dense,
        "layers": len(made.layers),
        "movable_layers": sum(1 for layer in made.layers if layer.experts),
        "weights_bytes": made.weights_bytes,
        "experts_bytes": made.experts_bytes,
        "devices": [
            {
                "name": held.name,
                "weights_bytes": held.weights_bytes,
                "kv_bytes": held.kv_bytes,
                "compute_bytes": held.compute_bytes,
                "experts_bytes": held.experts_bytes,
                "cache_bytes": held.cache_bytes,
                "size_bytes": sizes[held.name],
                "usable_bytes": usable[held.name],
            }
            for held in plan.devices
        ],
        # The first ones, which an expert cache has: they never move.
        "cached_layers": plan.moe_cpu_layers if any(x.cache_bytes for x in plan.devices) else 0,
        "host_bytes": plan.host_bytes,
        "host_experts_bytes": plan.host_experts_bytes,
        # The largest of those that have no room.
        "next_layer_bytes": max(away, default=0) if plan.fits else 0,
        "problems": list(plan.problems),
        "advice": list(plan.advice),
        "args": list(args),
    }
