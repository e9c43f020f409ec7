"""Attention on one device, experts on another, by the policy."""

import asyncio
from pathlib import Path

import pytest

from tests.support.guard import HANG_S
from tests.support.llama import rpc_server
from tests.support.models import model
from tests.support.proxy import Proxy, proxy

pytestmark = pytest.mark.llama

POLICIES = """
[devices]
rpc = ["{0}", "{1}"]
[devices.RPC0]
experts = false
[devices.RPC1]
attention = false
[engine]
threads = 1
[models.m]
path = "{path}"
moe_cpu_layers = 4
ctx = 512
parallel = 1
"""
WITH_A_STRANGER = """
[devices]
rpc = ["{0}"]
[devices.RPC0]
[devices.CUDA7]
attention = false
[engine]
threads = 1
[models.m]
path = "{path}"
moe_cpu_layers = "full"
ctx = 512
parallel = 1
"""
BODY = {"model": "m", "prompt": "the quick brown fox", "max_tokens": 12, "temperature": 0}


async def places(served: Proxy, count: int) -> dict[str, int]:
    """How many layers' experts are where, once `count` of them are on the CPU."""
    async with asyncio.timeout(HANG_S):
        while True:
            layers = (await served.backend("m"))["layers"]
            found = [layer["experts"] for layer in layers]
            if found.count("CPU") == count:
                return {place: found.count(place) for place in set(found)}
            await asyncio.sleep(0.05)


async def test_attention_and_experts_on_different_devices(tmp_path: Path) -> None:
    async with rpc_server(threads=1) as first, rpc_server(threads=1) as second:
        text = POLICIES.format(first, second, path=model())
        async with proxy(tmp_path, text) as served:
            mixed = (await served.post("/v1/completions", BODY))["choices"][0]["text"]
            assert await places(served, 4) == {"CPU": 4, "RPC1": 8}
            backend = await served.backend("m")
            assert {layer["home"] for layer in backend["layers"]} == {"RPC0"}
            assert backend["bytes"]["RPC1"]["kv"] == 0
            assert backend["bytes"]["RPC0"]["experts"] == 0

            await served.put("/admin/backends/b1/split", {"moe_cpu_layers": "full"})
            assert await places(served, 12) == {"CPU": 12}
            on_cpu = (await served.post("/v1/completions", BODY))["choices"][0]["text"]
            await served.put("/admin/backends/b1/split", {"moe_cpu_layers": "auto"})
            assert await places(served, 0) == {"RPC1": 12}

    assert on_cpu == mixed


async def test_experts_go_to_no_device_that_a_worker_does_not_have(tmp_path: Path) -> None:
    async with rpc_server(threads=1) as rpc:
        text = WITH_A_STRANGER.format(rpc, path=model())
        async with proxy(tmp_path, text) as served:
            await served.post("/v1/completions", BODY)
            backend = await served.backend("m")
            sizes = [layer["experts_bytes"] for layer in backend["layers"]]
            limit = sum(backend["bytes"]["RPC0"].values()) + sum(sizes) // 2
            served.edit(text.replace("[devices.RPC0]", f"[devices.RPC0]\nlimit = {limit}"))
            async with asyncio.timeout(HANG_S):
                while (await served.get("/admin/state"))["devices"][0]["limit_bytes"] != limit:
                    await asyncio.sleep(0.02)

            await served.put("/admin/backends/b1/split", {"moe_cpu_layers": 0})

            places = [layer["experts"] for layer in (await served.backend("m"))["layers"]]
            assert set(places) == {"CPU", "RPC0"}


async def test_experts_leave_a_device_when_its_policy_says_so(tmp_path: Path) -> None:
    """Also one whose memory nobody can read, where a number is tried."""
    async with rpc_server(threads=1) as rpc:
        text = WITH_A_STRANGER.format(rpc, path=model()).replace('"full"', "4")
        text = text.replace("[devices.RPC0]", '[devices.RPC0]\nmemory = "nvml:GPU-none"')
        async with proxy(tmp_path, text) as served:
            answer = (await served.post("/v1/completions", BODY))["choices"][0]["text"]
            assert await places(served, 4) == {"CPU": 4, "RPC0": 8}
            before = await served.backend("m")

            served.edit(text.replace("[devices.RPC0]", "[devices.RPC0]\nexperts = false"))
            assert await places(served, 12) == {"CPU": 12}
            await served.put("/admin/backends/b1/split", {"moe_cpu_layers": 0})
            assert await places(served, 12) == {"CPU": 12}
            assert (await served.post("/v1/completions", BODY))["choices"][0]["text"] == answer

            served.edit(text)
            assert await places(served, 0) == {"RPC0": 12}
            assert (await served.backend("m"))["pid"] == before["pid"]
