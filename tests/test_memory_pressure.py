"""Memory taken and given by others while a real worker serves: a card of a stand-in driver that
pynvml really loads, filled by a real RPC server's memory."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.llama import rpc_server
from tests.support.models import model
from tests.support.nvml import RETURNS_MEMORY, StandInCard, StandInNvml
from tests.support.proxy import Proxy, proxy

MIB = 1 << 20
TOTAL, RESERVE, LOW = 1024 * MIB, 64 * MIB, 32 * MIB
# About 13 MiB of experts a layer.
SIZES = {"width": 512, "expert_width": 512, "experts": 16}
POLICIES = """
[devices]
reserve = "64MiB"
low = "32MiB"
settle = "{settle}"
[devices.RPC0]
memory = "nvml:GPU-0"
[devices.RPC1]
memory = "nvml:GPU-0"
[engine]
threads = 1
[defaults]
ctx = 512
parallel = 2
repack = "off"
[models.a]
path = "{a}"
rpc = ["{rpc_a}"]
moe_cpu_layers = {split}
[models.b]
path = "{b}"
rpc = ["{rpc_b}"]
"""
BODY = {"prompt": "the quick brown fox", "max_tokens": 8, "temperature": 0}


class Rig:
    """A proxy, two RPC servers that fill one card, and the hand that changes what others take of
    it."""

    def __init__(self, nvml: StandInNvml, proxy: Proxy, devices: dict[str, int]) -> None:
        self.nvml, self.proxy, self._devices = nvml, proxy, devices

    async def ask(self, name: str, **more: object) -> str:
        answer = await self.proxy.post("/v1/completions", BODY | {"model": name} | more)
        await self.follow()
        return str(answer["choices"][0]["text"])

    async def follow(self) -> None:
        """Let the card show the memory of the RPC servers as that of the workers that use them."""
        for backend in (await self.proxy.get("/admin/state"))["backends"]:
            if backend["state"] == "ready":
                self.nvml.process(backend["pid"], follows=self._devices[backend["model"]])

    async def know_both(self) -> None:
        """What devices there are is known from the workers that used them."""
        await self.ask("b")
        await self.proxy.post("/admin/models/b/unload")

    async def device(self) -> dict[str, Any]:
        devices = (await self.proxy.get("/admin/state"))["devices"]
        return dict(next(d for d in devices if d["name"] == "RPC0"))

    async def on_device(self, name: str) -> int:
        layers = (await self.proxy.backend(name))["layers"]
        return sum(layer["experts"] != "CPU" for layer in layers)

    async def until(self, true: Callable[[], Any], what: str) -> None:
        try:
            async with asyncio.timeout(60):
                while not await true():
                    await asyncio.sleep(0.05)
        except TimeoutError:
            state = await self.proxy.get("/admin/state")
            raise AssertionError(f"{what}: {state['devices']} {state['backends']}") from None

    async def all_of(self, name: str) -> None:
        async def there() -> bool:
            return await self.on_device(name) == 12

        await self.until(there, f"all experts of {name} are on the device")


@pytest.fixture
async def rig(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    options = {"settle": "300ms", "split": '"auto"'} | getattr(request, "param", {})
    nvml = StandInNvml(tmp_path, StandInCard(total=TOTAL))
    async with contextlib.AsyncExitStack() as stack:
        name, _, value = RETURNS_MEMORY.partition("=")
        servers = [
            await stack.enter_async_context(rpc_server(threads=1, **{name: value})) for _ in "ab"
        ]
        stack.enter_context(nvml.loaded())
        text = POLICIES.format(
            a=model(sizes=SIZES),
            b=model(sizes=SIZES, seed=1),
            rpc_a=servers[0],
            rpc_b=servers[1],
            **options,
        )
        devices = {name: server.pid for name, server in zip("ab", servers, strict=True)}
        yield Rig(nvml, await stack.enter_async_context(proxy(tmp_path, text)), devices)


async def test_auto_fills_the_device_and_shrinks_when_others_take_memory(rig: Rig) -> None:
    text = await rig.ask("a")
    await rig.all_of("a")

    rig.nvml.change(others=(await rig.device())["free_bytes"] - 10 * MIB)

    async def back_at_reserve() -> bool:
        shrunk = await rig.on_device("a") < 12
        return shrunk and (await rig.device())["free_bytes"] >= RESERVE

    await rig.until(back_at_reserve, "the reserve is free again")
    shrunk = await rig.on_device("a")
    assert 0 < shrunk < 12
    assert (await rig.device())["free_bytes"] < RESERVE + 30 * MIB, "no more than was needed"
    assert (await rig.proxy.backend("a"))["migrations"][-1]["why"] == "pressure"
    assert await rig.ask("a") == text

    rig.nvml.change(others=0)
    await rig.all_of("a")
    assert await rig.ask("a") == text
    assert (await rig.proxy.backend("a"))["pid"], "it was never reloaded"


@pytest.mark.parametrize("rig", [{"split": "4"}], indirect=True)
async def test_an_explicit_number_is_kept_unless_memory_runs_out(rig: Rig) -> None:
    await rig.ask("a")

    async def eight() -> bool:
        return await rig.on_device("a") == 8

    await rig.until(eight, "8 layers are on the device")
    rig.nvml.change(others=(await rig.device())["free_bytes"] - 10 * MIB)

    async def fewer() -> bool:
        return await rig.on_device("a") < 8

    await rig.until(fewer, "some have left")
    backend = await rig.proxy.backend("a")
    assert backend["asked"] == 4
    assert backend["moe_cpu_layers"] > 4
    rig.nvml.change(others=0)
    await rig.until(eight, "they are back, and no more of them")


async def test_a_second_model_makes_the_first_one_shrink_not_leave(rig: Rig) -> None:
    """Room for one with all its experts, but for two only without some of them."""
    await rig.know_both()
    text_a = await rig.ask("a")
    await rig.all_of("a")
    rig.nvml.change(others=(await rig.device())["free_bytes"] - RESERVE - 5 * MIB)
    first = await rig.proxy.backend("a")

    text_b = await rig.ask("b")

    backends = (await rig.proxy.get("/admin/state"))["backends"]
    assert [(b["model"], b["state"]) for b in backends] == [("a", "ready"), ("b", "ready")]
    assert (await rig.proxy.backend("a"))["pid"] == first["pid"]
    assert await rig.on_device("a") < 12
    assert "room" in {m["why"] for m in (await rig.proxy.backend("a"))["migrations"]}
    assert (await rig.ask("a"), await rig.ask("b")) == (text_a, text_b)


async def test_a_model_that_is_not_used_leaves_where_shrinking_is_not_enough(rig: Rig) -> None:
    await rig.know_both()
    await rig.ask("a")
    await rig.all_of("a")
    # Even without any of its experts, the first one leaves too little.
    experts = sum(x["experts_bytes"] for x in (await rig.proxy.backend("a"))["layers"])
    free = (await rig.device())["free_bytes"]
    rig.nvml.change(others=free + experts - RESERVE - 8 * MIB)

    await rig.ask("b")

    backends = (await rig.proxy.get("/admin/state"))["backends"]
    assert [b["model"] for b in backends if b["state"] == "ready"] == ["b"]


async def test_random_pressure_while_two_models_stream(rig: Rig) -> None:
    """200 changes: no failed request, both alive at the end, the same text as without pressure."""
    texts = {name: await rig.ask(name) for name in "ab"}
    pids = {name: (await rig.proxy.backend(name))["pid"] for name in "ab"}
    failed: list[BaseException] = []
    served = 0

    async def stream(name: str) -> None:
        nonlocal served
        while True:
            assert await rig.ask(name, max_tokens=16)
            served += 1

    tasks = [asyncio.ensure_future(stream(name)) for name in "abab"]
    pick = random.Random(7)
    try:
        for _ in range(200):
            rig.nvml.change(others=pick.randrange(0, TOTAL - 400 * MIB))
            await asyncio.sleep(pick.choice((0.01, 0.05, 0.1)))
            failed += [task.exception() or AssertionError() for task in tasks if task.done()]
            assert not failed
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    rig.nvml.change(others=0)

    assert served > 4
    assert {name: (await rig.proxy.backend(name))["pid"] for name in "ab"} == pids
    assert {name: await rig.ask(name) for name in "ab"} == texts
