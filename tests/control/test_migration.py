"""The moves of one backend's experts, on a real worker with a device."""

from pathlib import Path

import pytest

from proxy.engine.types import CPU
from proxy.placement.assign import placed
from tests.support.control import controller_of, desired_of
from tests.support.llama import rpc_server
from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import proxy

pytestmark = pytest.mark.llama

# One that names a split waits until it is known what devices there are.
BODY = {"model": "m", "prompt": "the quick brown fox", "max_tokens": 1, "moe_cpu_layers": "full"}


async def test_what_the_worker_refuses_is_not_on_its_way(tmp_path: Path) -> None:
    m = {"path": model(layers=4), "moe_cpu_layers": "full", "ctx": 512, "parallel": 1}
    async with (
        rpc_server() as rpc,
        proxy(tmp_path, policies({"m": m}, devices={"rpc": [rpc]})) as served,
    ):
        await served.post("/v1/completions", BODY)
        controller = controller_of(served.app.services)
        desired = desired_of(served.app.services)
        (backend,) = served.app.services.pool.backends()

        controller.set_targets(backend, {2: "nowhere", 3: "RPC0"}, "free")
        await desired.wait_idle([backend])
        assert desired.goal(backend) == placed(backend.engine.known())

        controller.set_targets(backend, {3: "RPC0"}, "free")
        await desired.wait_idle([backend])
        assert placed(backend.engine.known()) == {0: CPU, 1: CPU, 2: CPU, 3: "RPC0"}
