"""Attention on one device, experts on another, by the policy."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.guard import until
from tests.support.llama import rpc_server
from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import Proxy, proxy

pytestmark = pytest.mark.llama

BODY = {"model": "m", "prompt": "the quick brown fox", "max_tokens": 12, "temperature": 0}


def text(split: object, rpc: Sequence[str], **devices: object) -> str:
    of_m = {"path": model(), "moe_cpu_layers": split, "ctx": 512, "parallel": 1}
    return policies({"m": of_m}, devices={"rpc": rpc, **devices})


def with_a_stranger(split: object, rpc: str, **own: object) -> str:
    """The device, with rules of its own, and one that no worker has."""
    return text(split, [rpc], RPC0=own, CUDA7={"attention": False})


async def places(served: Proxy, count: int) -> dict[str, int]:
    """How many layers' experts are where, once `count` of them are on the CPU."""

    async def found() -> dict[str, int] | None:
        layers = (await served.backend("m"))["layers"]
        places = Counter(layer["experts"] for layer in layers)
        return places if places["CPU"] == count else None

    return dict(await until(found, f"{count} layers on the CPU"))


async def test_attention_and_experts_on_different_devices(tmp_path: Path) -> None:
    async with rpc_server() as first, rpc_server() as second:
        rules = {"RPC0": {"experts": False}, "RPC1": {"attention": False}}
        async with proxy(tmp_path, text(4, [first, second], **rules)) as served:
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
    async with rpc_server() as rpc:
        async with proxy(tmp_path, with_a_stranger("full", rpc)) as served:
            await served.post("/v1/completions", BODY)
            backend = await served.backend("m")
            sizes = [layer["experts_bytes"] for layer in backend["layers"]]
            limit = sum(backend["bytes"]["RPC0"].values()) + sum(sizes) // 2
            await served.apply(with_a_stranger("full", rpc, limit=limit))

            await served.put("/admin/backends/b1/split", {"moe_cpu_layers": 0})

            places = [layer["experts"] for layer in (await served.backend("m"))["layers"]]
            assert set(places) == {"CPU", "RPC0"}


async def test_experts_leave_a_device_when_its_policy_says_so(tmp_path: Path) -> None:
    """Also one whose memory nobody can read, where a number is tried."""
    async with rpc_server() as rpc:
        unknown = {"memory": "nvml:GPU-none"}
        async with proxy(tmp_path, with_a_stranger(4, rpc, **unknown)) as served:
            answer = (await served.post("/v1/completions", BODY))["choices"][0]["text"]
            assert await places(served, 4) == {"CPU": 4, "RPC0": 8}
            before = await served.backend("m")

            served.edit(with_a_stranger(4, rpc, **unknown, experts=False))
            assert await places(served, 12) == {"CPU": 12}
            await served.put("/admin/backends/b1/split", {"moe_cpu_layers": 0})
            assert await places(served, 12) == {"CPU": 12}
            assert (await served.post("/v1/completions", BODY))["choices"][0]["text"] == answer

            served.edit(with_a_stranger(4, rpc, **unknown))
            assert await places(served, 0) == {"RPC0": 12}
            assert (await served.backend("m"))["pid"] == before["pid"]
