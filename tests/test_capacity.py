"""What of the devices' memory can be ours."""

import asyncio
from contextlib import suppress
from pathlib import Path

from proxy.capacity import capacity
from proxy.engine.types import Device
from proxy.memory.ledger import Ledger
from proxy.memory.watch import MemoryWatch
from proxy.placement.budget import Budget
from proxy.policy.load import load

GIB = 1 << 30
POLICIES = """
[devices]
reserve = "1GiB"
[devices.Vulkan0]
limit = "4GiB"
experts = false
"""


async def test_what_is_free_or_ours_within_the_policies(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(POLICIES)
    policies = load(tmp_path / "p.toml", {"HOME": str(tmp_path)}).policies
    assert policies is not None
    watch, ledger = MemoryWatch(setting=lambda _: "ggml", patience_s=20), Ledger()
    assert capacity(watch, ledger, policies, ()) == []
    watch.set_devices(
        [
            Device("CUDA0", "RTX", "gpu", 8 * GIB, 3 * GIB),
            Device("Vulkan0", "Arc", "gpu", 16 * GIB, 15 * GIB),
            Device("CUDA1", "hidden", "gpu", None, None),
            Device("RPC0", "10.0.0.2:1", "gpu", 8 * GIB, 8 * GIB),
            Device("RPC1", "10.0.0.3:1", "gpu", 8 * GIB, 8 * GIB),
        ]
    )
    ledger.hold("b1", {"CUDA0": {"weights": 2 * GIB}}, at_s=0.0)
    task = asyncio.create_task(watch.run())
    await watch.fresh()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task

    assert capacity(watch, ledger, policies, ["10.0.0.3:1"]) == [
        Budget("CUDA0", 4 * GIB),
        Budget("Vulkan0", 4 * GIB, experts=False),
        Budget("RPC1", 7 * GIB, streams_weights=False),
    ]
