"""Generation and prompt speed of the hosted worker against plain llama-server, at every split.

    python -m bench.generation [--layers 12] [--step 1] [--rounds 15] [--check 0.97]

Both are loaded at once, each with an RPC device of its own, and asked in turns, so that whatever
else the machine does falls on both. Each figure is hosted to plain: above 1 the worker is faster.
By wall clock it is the median of the rounds' ratios, of the speed that the server itself reports.
Beside it stands the work: processor time of server and device together, the least of all rounds,
since what others do can only add to it. In that the kernel's share counts too, which wakes server
and device for each other some dozens of times a token, and is luck to a few percent.
"""

import argparse
import asyncio
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

from proxy.observe.log import setup
from proxy.placement.assign import placement
from tests.support.hosted import hosted
from tests.support.llama import Client, plain_server, rpc_server
from tests.support.models import model

PROMPT = "one two three four five six seven eight nine ten " * 24
TOKENS = 64
# Large enough that it is computing which takes the time, not the way to the device: with half the
# width two thirds of it are the kernel's, waking one process for the other.
SIZES = {"width": 1024, "expert_width": 1024, "experts": 16}


@dataclass(frozen=True, slots=True)
class Speeds:
    """Tokens per second of wall clock, and answers per second of processor time."""

    generated: float
    read: float
    generated_cpu: float
    read_cpu: float


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two that are compared: where to ask, and the processes that do the work."""

    client: Client
    pids: tuple[int, ...]

    async def run(self) -> Speeds:
        """Read the prompt, then generate behind it, which is in the cache now."""
        start = self._cpu_s()
        reading = (await self.client.complete(PROMPT, 1))["timings"]
        middle = self._cpu_s()
        cached = await self.client.complete(PROMPT, TOKENS, cache_prompt=True)
        generating, end = cached["timings"], self._cpu_s()
        assert generating["prompt_n"] == 1 < reading["prompt_n"], "the cache was not used"
        return Speeds(
            generating["predicted_per_second"],
            reading["prompt_per_second"],
            1 / (end - middle),
            1 / (middle - start),
        )

    def _cpu_s(self) -> float:
        """Seconds that all threads of these processes have run; the kernel counts nanoseconds."""
        files = [f for pid in self.pids for f in Path(f"/proc/{pid}/task").glob("*/schedstat")]
        return sum(int(file.read_text().split()[0]) for file in files) / 1e9


async def compare(hosted: Side, plain: Side, rounds: int) -> Speeds:
    """Ratios hosted/plain, the first round not counted: medians by wall clock, each side's best by
    processor time."""
    seen: list[tuple[Speeds, Speeds]] = []
    for number in range(rounds + 1):
        sides = (hosted, plain) if number % 2 else (plain, hosted)
        speeds = {side is hosted: await side.run() for side in sides}
        if number:
            seen.append((speeds[True], speeds[False]))
    return Speeds(
        statistics.median(ours.generated / theirs.generated for ours, theirs in seen),
        statistics.median(ours.read / theirs.read for ours, theirs in seen),
        *(
            max(getattr(ours, name) for ours, _ in seen)
            / max(getattr(theirs, name) for _, theirs in seen)
            for name in ("generated_cpu", "read_cpu")
        ),
    )


async def bench(options: argparse.Namespace) -> float:
    worst = float("inf")
    print("The hosted worker's speed as a share of plain llama-server's")
    print(f"{'':12} {'by wall clock':>20} {'by processor time':>20}")
    print(f"{'weights':8} {'N':>3}" + 2 * f" {'generation':>12} {'prompt':>7}")
    for quant in options.quants:
        path = model(quant=quant, layers=options.layers, sizes=SIZES)
        async with (
            rpc_server() as rpc,
            rpc_server() as other_rpc,
            hosted(path, [rpc], parallel=1) as engine,
            Client(engine.address) as ours,
        ):
            for n in range(0, options.layers + 1, options.step):
                await engine.place(placement(engine.known(), n), settle_s=60)
                arguments = ("--rpc", other_rpc, "-ngl", "999", "--n-cpu-moe", str(n))
                more = ("-c", "2048", "-np", "1", "-t", "1")
                async with (
                    plain_server(path, *arguments, *more) as address,
                    Client(address) as plain,
                ):
                    ratios = await compare(
                        Side(ours, (engine.pid or 0, rpc.pid)),
                        Side(plain, (address.pid, other_rpc.pid)),
                        options.rounds,
                    )
                worst = min(worst, ratios.generated, ratios.read)
                print(
                    f"{quant:8} {n:3} {ratios.generated:12.3f} {ratios.read:7.3f}"
                    f" {ratios.generated_cpu:12.3f} {ratios.read_cpu:7.3f}",
                    flush=True,
                )
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--step", type=int, default=1, help="N goes from 0 to all in steps of this")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quants", nargs="+", default=["Q4_0", "Q8_0"])
    parser.add_argument("--check", type=float, help="fail if a ratio by wall clock is below")
    options = parser.parse_args()
    setup("console", "error")
    worst = asyncio.run(bench(options))
    print(f"worst ratio by wall clock {worst:.3f}")
    return int(options.check is not None and worst < options.check)


if __name__ == "__main__":
    sys.exit(main())
