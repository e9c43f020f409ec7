"""Generation and prompt speed of the hosted worker against plain llama-server, at every split.

    python bench/generation.py [--layers 12] [--step 3] [--rounds 9] [--check 0.97]

Both are loaded at once, each with an RPC device of its own, and asked in turns, so that whatever
else the machine does falls on both. The figures are ratios of medians, hosted to plain: above 1 the
worker is faster.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
from pathlib import Path

from proxy.engine.hosted import HostedEngine
from proxy.engine.logbook import LogBook
from proxy.engine.types import LoadOptions
from proxy.observe.log import setup
from proxy.placement.split import placement
from tests.support.llama import Client, plain_server, rpc_server
from tests.support.models import model

PROMPT = "one two three four five six seven eight nine ten " * 24
TOKENS = 64
SIZES = {"width": 512, "expert_width": 512, "experts": 16}


async def speeds(client: Client) -> tuple[float, float]:
    """(generated, read) tokens per second of one completion, as the server itself measured."""
    timings = (await client.complete(PROMPT, TOKENS))["timings"]
    return timings["predicted_per_second"], timings["prompt_per_second"]


async def compare(hosted: Client, plain: Client, rounds: int) -> tuple[float, float]:
    """Ratios hosted/plain of generation and prompt speed: medians over `rounds` turns, the first
    not counted."""
    seen: dict[str, list[tuple[float, float]]] = {"hosted": [], "plain": []}
    for number in range(rounds + 1):
        sides = [("hosted", hosted), ("plain", plain)]
        for name, client in sides if number % 2 else reversed(sides):
            measured = await speeds(client)
            if number:
                seen[name].append(measured)
    generated, read = (
        statistics.median(s[i] for s in seen["hosted"])
        / statistics.median(s[i] for s in seen["plain"])
        for i in (0, 1)
    )
    return generated, read


async def bench(options: argparse.Namespace) -> float:
    worst = float("inf")
    print(
        f"{'weights':8} {'N':>3} {'generation':>11} {'prompt':>7}   (hosted / plain llama-server)"
    )
    for quant in options.quants:
        path = model(quant=quant, layers=options.layers, sizes=SIZES)
        async with rpc_server(threads=1) as rpc, rpc_server(threads=1) as other_rpc:
            with tempfile.TemporaryDirectory(prefix="moe-") as folder:
                loaded = LoadOptions("bench", path, ctx=2048, parallel=1, rpc=(rpc,), threads=1)
                engine = HostedEngine("b1", loaded, runtime_dir=Path(folder), logbook=LogBook())
                await engine.start()
                try:
                    async with Client(engine.address) as hosted:
                        for n in range(0, options.layers + 1, options.step):
                            await engine.place(placement(engine.known(), n), settle_s=60)
                            arguments = ("--rpc", other_rpc, "-ngl", "999", "--n-cpu-moe", str(n))
                            more = ("-c", "2048", "-np", "1", "-t", "1")
                            async with (
                                plain_server(path, *arguments, *more) as address,
                                Client(address) as plain,
                            ):
                                generated, read = await compare(hosted, plain, options.rounds)
                            worst = min(worst, generated, read)
                            print(f"{quant:8} {n:3} {generated:11.3f} {read:7.3f}", flush=True)
                finally:
                    await engine.stop()
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--step", type=int, default=3, help="N goes from 0 to all in steps of this")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quants", nargs="+", default=["Q4_0", "Q8_0"])
    parser.add_argument("--check", type=float, help="fail if any ratio is below this")
    options = parser.parse_args()
    setup("console", "error")
    worst = asyncio.run(bench(options))
    print(f"worst ratio {worst:.3f}")
    return int(options.check is not None and worst < options.check)


if __name__ == "__main__":
    sys.exit(main())
