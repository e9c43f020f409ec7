"""What of the devices' memory can be ours."""

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from proxy.control.capacity import capacity
from proxy.engine.types import Device
from proxy.memory.ledger import Ledger
from proxy.memory.watch import MemoryWatch
from proxy.placement.budget import Budget
from proxy.policy.load import load
from proxy.routing.request import ModelRequest
from tests.support.guard import HANG_S
from tests.support.models import model
from tests.support.nvml import StandInCard, StandInNvml
from tests.support.policies import policies
from tests.support.proxy import proxy

GIB = 1 << 30
POLICIES = """
[devices]
reserve = "1GiB"
[devices.Vulkan0]
limit = "4GiB"
experts = false
"""


@pytest.mark.parametrize(("total", "ubatch"), [(32 * GIB, 2048), (GIB // 4, 512)])
async def test_the_very_first_load_knows_the_cards(tmp_path: Path, total: int, ubatch: int) -> None:
    """Nothing was loaded yet, so no device has a name: a batch is chosen for the card all the
    same."""
    driver = StandInNvml(tmp_path, StandInCard(total=total))
    models = {"m": {"path": model()}}
    with driver.loaded():
        async with proxy(tmp_path, policies(models)) as served, asyncio.timeout(HANG_S):
            services = served.app.services
            while not any(card.at_s for card in services.memory.latest().cards.values()):
                await services.memory.fresh()

            async def chosen() -> int | None:
                found = services.resolver.resolve("m")
                request = ModelRequest("m")
                return (await services.planner.load_options(found, request, "generation")).ubatch

            assert await chosen() == ubatch
            await served.apply(policies(models, devices={"CUDA0": {"limit": "200MiB"}}))
            assert await chosen() == 512


async def test_what_is_free_or_ours_within_the_policies(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(POLICIES)
    loaded = load(tmp_path / "p.toml", {"HOME": str(tmp_path)}).policies
    assert loaded is not None
    watch, ledger = MemoryWatch(setting=lambda _: "ggml", patience_s=20), Ledger()
    assert capacity(watch, ledger, loaded, ()) == []
    watch.set_devices(
        [
            Device("CUDA0", "RTX", "gpu", 8 * GIB, 3 * GIB),
            Device("Vulkan0", "Arc", "gpu", 16 * GIB, 15 * GIB),
            Device("CUDA1", "hidden", "gpu", None, None),
            Device("RPC0", "10.0.0.2:1", "gpu", 8 * GIB, 8 * GIB),
            Device("RPC1", "10.0.0.3:1", "gpu", 8 * GIB, 8 * GIB),
        ]
    )
    ledger.record("b1", {"CUDA0": {"weights": 2 * GIB}}, at_s=0.0)
    task = asyncio.create_task(watch.run())
    await watch.fresh()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task

    assert capacity(watch, ledger, loaded, ["10.0.0.3:1"]) == [
        Budget("CUDA0", 4 * GIB),
        Budget("Vulkan0", 4 * GIB, experts=False),
        Budget("RPC1", 7 * GIB, streams_weights=False),
    ]
