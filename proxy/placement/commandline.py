"""llama-server's arguments that do what a plan says. Pure."""

from collections import defaultdict
from pathlib import Path
from typing import Final

from proxy.engine.build_options import EXPERT_CACHE
from proxy.engine.tensor_names import EXPERT_TENSORS, FEED_FORWARD_TENSORS
from proxy.engine.types import CPU
from proxy.placement.plan import Plan

DEFAULT_BATCH: Final = 2048


def server_args(plan: Plan, model: Path, *, rpc: tuple[str, ...] = ()) -> list[str]:
    """Arguments for plain llama-server. It divides its context among its slots, and `--fit off`
    keeps it from changing any of this."""
    asked = plan.settings
    on_cpu = "--n-cpu-ffn" if asked.dense else "--n-cpu-moe"
    args = [
        *("--model", str(model)),
        *("--ctx-size", str(asked.ctx * asked.parallel), "--parallel", str(asked.parallel)),
        *("--n-gpu-layers", "999", on_cpu, str(plan.moe_cpu_layers)),
        *("--ubatch-size", str(asked.ubatch)),
        *("--fit", "off"),
    ]
    if cache := sum(held.cache_bytes for held in plan.devices):
        args += [EXPERT_CACHE, str(cache >> 20)]
    if asked.ubatch > DEFAULT_BATCH:
        args += ["--batch-size", str(asked.ubatch)]
    if asked.key_type != "f16" or asked.value_type != "f16":
        args += ["--cache-type-k", asked.key_type, "--cache-type-v", asked.value_type]
    if rpc:
        args += ["--rpc", ",".join(rpc)]
    if len(plan.devices) > 1:
        args += ["--device", ",".join(held.name for held in plan.devices)]
        args += ["--tensor-split", ",".join(map(str, plan.layout.split))]
    if elsewhere := _elsewhere(plan, rpc):
        args += ["--override-tensor", elsewhere]
    return args


def _elsewhere(plan: Plan, rpc: tuple[str, ...]) -> str:
    """Experts that are on another device than their layer's attention."""
    # Named by its memory: the first (and only) device of the RPC server with this address.
    memory = {f"RPC{place}": f"RPC0[{address}]" for place, address in enumerate(rpc)}
    tensors = FEED_FORWARD_TENSORS if plan.settings.dense else EXPERT_TENSORS
    by_device: dict[str, list[int]] = defaultdict(list)
    for index, place in enumerate(plan.layout.experts):
        if place not in (CPU, plan.layout.attention[index]):
            by_device[place].append(index)
    return ",".join(
        rf"blk\.({'|'.join(map(str, indexes))})\.{tensors}={memory.get(device, device)}"
        for device, indexes in by_device.items()
    )
