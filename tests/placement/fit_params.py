"""llama.cpp's own tool for the same question, `llama-fit-params`, and its answers."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from proxy.catalog.gguf import Header
from proxy.placement.work import by_block, is_expert
from tests.support.guard import HANG_S
from tests.support.llama import program

MIB = 1 << 20
FREE = re.compile(r"vs\. (\d+) MiB of free device memory")


@dataclass(frozen=True, slots=True)
class Measured:
    """What llama.cpp would allocate on a device, in whole MiB rounded down."""

    weights: int
    kv: int
    compute: int


def run(model: Path, rpc: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [program("llama-fit-params"), "--model", str(model), "--rpc", rpc, *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=HANG_S)


def measure(model: Path, rpc: str, *arguments: str) -> dict[str, Measured]:
    """Weights, KV cache and compute buffer on each RPC device for these llama-server arguments."""
    found = {}
    for line in run(model, rpc, "--fit-print", "on", *arguments).stdout.splitlines():
        if line.startswith("RPC"):
            weights, kv, compute = map(int, line.split()[-3:])
            found[line.partition("[")[0].split()[0]] = Measured(weights, kv, compute)
    return found


def free_mib(model: Path, rpc: str) -> int:
    """The memory that the tool believes the device to have."""
    found = run(model, rpc, "--ctx-size", "256", "--verbose")
    match = FREE.search(found.stdout + found.stderr)
    assert match
    return int(match[1])


def fitted_experts_bytes(
    header: Header, model: Path, rpc: str, margin_mib: int, *arguments: str
) -> int:
    """The bytes of experts that the tool puts on the device, leaving this margin."""
    found = run(model, rpc, "--fit-target", str(margin_mib), *arguments).stdout
    patterns = re.findall(r"(blk\\\.[^,\"]*)=CPU", found)
    layers = re.search(r"-ngl (-?\d+)", found)
    assert layers
    blocks = by_block(header.tensors)
    first = 0 if int(layers[1]) < 0 else max(header.layers + 1 - int(layers[1]), 0)
    return sum(
        tensor.size_bytes
        for index, tensors in blocks.items()
        for name, tensor in tensors.items()
        if index is not None and index >= first and is_expert(name)
        if not any(re.search(pattern, tensor.name) for pattern in patterns)
    )
