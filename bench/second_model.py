"""A second model that fits only if the first one shrinks: the time to its first token, and then to
the next one of the first model, against unloading the first one for it.

    python -m bench.second_model [--rounds 7]

Both ways take turns in one run. The card is the stand-in driver of the tests, which pynvml really
loads; what fills it is the memory of two real RPC servers that hold the experts of real workers.
"""

import argparse
import asyncio
import contextlib
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from proxy.observe.log import setup
from tests.support.llama import rpc_server
from tests.support.models import model
from tests.support.nvml import RETURNS_MEMORY, StandInCard, StandInNvml
from tests.support.proxy import Proxy, proxy

MIB = 1 << 20
SIZES = {"width": 512, "expert_width": 512, "experts": 16}
POLICIES = """
[devices]
reserve = "64MiB"
low = "32MiB"
settle = "100ms"
[devices.RPC0]
memory = "nvml:GPU-0"
[devices.RPC1]
memory = "nvml:GPU-0"
[engine]
threads = 1
[defaults]
ctx = 512
parallel = 2
[models.a]
path = "{a}"
rpc = ["{rpc_a}"]
[models.b]
path = "{b}"
rpc = ["{rpc_b}"]
"""


class Card:
    """The stand-in card: what of it the RPC servers fill is shown as the workers' own."""

    def __init__(self, nvml: StandInNvml, served: Proxy, servers: dict[str, int]) -> None:
        self._nvml, self._served, self._servers = nvml, served, servers
        self._shown_as: dict[str, int] = {}

    async def show_workers(self) -> None:
        for backend in (await self._served.get("/admin/state"))["backends"]:
            if backend["state"] == "ready":
                name, pid = backend["model"], backend["pid"]
                before = self._shown_as.get(name, 0)
                self._nvml.process(pid, follows=self._servers[name], instead_of=before)
                self._shown_as[name] = pid

    async def leave(self, free: int) -> None:
        """Let others take all but this much of what is free."""
        now = (await self._served.get("/admin/state"))["devices"][0]["free_bytes"]
        self._nvml.change(others=max(self._nvml.cards[0].others + now - free, 0))
        while (await self._served.get("/admin/state"))["devices"][0]["free_bytes"] > free + MIB:
            await asyncio.sleep(0.05)

    def empty(self) -> None:
        self._nvml.change(others=0)


async def first_token(served: Proxy, name: str) -> float:
    """Seconds from asking a model to the first piece of its answer."""
    body = {"model": name, "prompt": "the quick brown fox", "max_tokens": 4, "stream": True}
    started = time.perf_counter()
    async with served.session.post("/v1/completions", json=body) as answer:
        assert answer.status == 200, await answer.text()
        await answer.content.readline()
        took = time.perf_counter() - started
        await answer.read()
    return took


async def whole_on_device(served: Proxy, name: str) -> None:
    while any(layer["experts"] == "CPU" for layer in (await served.backend(name))["layers"]):
        await asyncio.sleep(0.05)


async def turn(card: Card, served: Proxy, *, unload_first: bool) -> tuple[float, float]:
    """(seconds to the first token of b, then of a), from a state in which a fills the card."""
    for name in "ab":
        await served.post(f"/admin/models/{name}/unload")
    card.empty()
    await first_token(served, "a")
    await card.show_workers()
    await whole_on_device(served, "a")
    await card.leave(70 * MIB)
    if unload_first:
        started = time.perf_counter()
        await served.post("/admin/models/a/unload")
        second = time.perf_counter() - started + await first_token(served, "b")
        await card.show_workers()
        started = time.perf_counter()
        await served.post("/admin/models/b/unload")
        return second, time.perf_counter() - started + await first_token(served, "a")
    second = await first_token(served, "b")
    await card.show_workers()
    ready = [b for b in (await served.get("/admin/state"))["backends"] if b["state"] == "ready"]
    assert len(ready) == 2, "nothing was unloaded"
    return second, await first_token(served, "a")


async def bench(rounds: int) -> None:
    with tempfile.TemporaryDirectory(prefix="moe-") as folder:
        nvml = StandInNvml(Path(folder), StandInCard(total=1024 * MIB))
        async with contextlib.AsyncExitStack() as stack:
            name, _, value = RETURNS_MEMORY.partition("=")
            a, b = [
                await stack.enter_async_context(rpc_server(threads=1, **{name: value}))
                for _ in "ab"
            ]
            stack.enter_context(nvml.loaded())
            paths = {"a": model(sizes=SIZES), "b": model(sizes=SIZES, seed=1)}
            text = POLICIES.format(rpc_a=a, rpc_b=b, **paths)
            served = await stack.enter_async_context(proxy(Path(folder), text))
            card = Card(nvml, served, {"a": a.pid, "b": b.pid})
            await first_token(served, "b")  # what devices there are is known from a worker
            seen: dict[bool, list[tuple[float, float]]] = defaultdict(list)
            for number in range(2 * rounds):
                unload_first = bool(number % 2)
                seen[unload_first].append(await turn(card, served, unload_first=unload_first))
    print("seconds to the first token (median)   of the second model   then of the first again")
    middle = {
        way: [statistics.median(times[i] for times in seen[way]) for i in (0, 1)] for way in seen
    }
    for way, label in ((False, "the first one shrinks"), (True, "the first one is unloaded")):
        print(f"{label:37} {middle[way][0]:19.3f} {middle[way][1]:24.3f}")
    ratios = [middle[False][i] / middle[True][i] for i in (0, 1)]
    print(f"{'ratio':37} {ratios[0]:19.2f} {ratios[1]:24.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    setup("console", "error")
    asyncio.run(bench(options.rounds))


if __name__ == "__main__":
    main()
