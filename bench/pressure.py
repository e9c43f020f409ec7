"""How soon memory is free again when somebody else takes it: from the change on the card to the
reserve being free.

    python -m bench.pressure [--rounds 20]

The card is the stand-in driver of the tests, which pynvml really loads; what fills it is the memory
of a real RPC server that holds the experts of a real worker.
"""

import argparse
import asyncio
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from proxy.memory.nvml import Nvml
from proxy.observe.log import setup
from tests.support.llama import rpc_server
from tests.support.models import model
from tests.support.nvml import RETURNS_MEMORY, StandInCard, StandInNvml
from tests.support.proxy import Proxy, proxy

MIB = 1 << 20
RESERVE = 64 * MIB
POLICIES = """
[devices]
reserve = "64MiB"
low = "32MiB"
settle = "100ms"
rpc = ["{rpc}"]
RPC0.memory = "nvml:GPU-0"
[engine]
threads = 1
[models.m]
path = "{path}"
ctx = 512
parallel = 2
"""


async def bench(rounds: int) -> None:
    took: dict[int, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="moe-") as folder:
        nvml = StandInNvml(Path(folder), StandInCard(total=1024 * MIB))
        async with contextlib.AsyncExitStack() as stack:
            name, _, value = RETURNS_MEMORY.partition("=")
            rpc = await stack.enter_async_context(rpc_server(threads=1, **{name: value}))
            stack.enter_context(nvml.loaded())
            sizes = {"width": 512, "expert_width": 512, "experts": 16}
            text = POLICIES.format(rpc=rpc, path=model(sizes=sizes))
            served = await stack.enter_async_context(proxy(Path(folder), text))
            await served.post("/v1/completions", {"model": "m", "prompt": "hi", "max_tokens": 1})
            nvml.process((await served.backend("m"))["pid"], follows=rpc.pid)
            reader = Nvml()
            card = reader.cards()[0].id
            for number in range(rounds):
                await until(lambda: reader.read(card).used_bytes or 0, served, 12)
                before = len(await on_device(served))
                free = reader.read(card).free_bytes or 0
                nvml.change(others=max(free - (8, 20, 30)[number % 3] * MIB, 0))
                started = time.perf_counter()
                while (reader.read(card).free_bytes or 0) < RESERVE:
                    await asyncio.sleep(0.002)
                seconds = time.perf_counter() - started
                took.setdefault(before - len(await on_device(served)), []).append(seconds)
                nvml.change(others=0)
    print("layers demoted: ms from the change to the reserve being free (poll interval 250 ms)")
    for layers, times in sorted(took.items()):
        middle = statistics.median(times) * 1000
        print(
            f"{layers:3}: median {middle:.0f}, longest {max(times) * 1000:.0f}, {len(times)} times"
        )


async def on_device(served: Proxy) -> list[int]:
    layers = (await served.backend("m"))["layers"]
    return [layer["index"] for layer in layers if layer["experts"] != "CPU"]


async def until(used: Callable[[], int], served: Proxy, count: int) -> None:
    """Wait until `count` layers are on the device, and the card shows it."""
    while len(await on_device(served)) < count:
        await asyncio.sleep(0.05)
    last = -1
    while (now := used()) != last:
        last = now
        await asyncio.sleep(0.4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    setup("console", "error")
    asyncio.run(bench(options.rounds))


if __name__ == "__main__":
    main()
