"""Generation and prompt speed of the hosted worker against plain llama-server, at every split.

    python -m bench.generation [--layers 12] [--step 1] [--rounds 15] [--check 0.97]

Both are loaded at once, each with an RPC device of its own, and asked in turns, so that whatever
else the machine does falls on both. Each figure is hosted to plain: above 1 the worker is faster.
By wall clock it is the median of the rounds' ratios, of the speed that the server itself reports.
Where other machines share the processor that scatters by a fifth from run to run, so beside it
stands the work: processor time of server and device together, the least of all rounds, since what
others do can only add to it. With one thread each, and the two never computing at once, both are
the same thing on a quiet machine.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two that are compared: where to ask, and the processes that do the work."""

    client: Client
    pids: tuple[int, ...]

    async def run(self) -> tuple[float, float, float, float]:
        """Generated and read tokens per second by wall clock, then processor seconds of reading
        alone, and of reading and generating.

        Reading is asked for alone once more, so that its processor time can be told apart.
        """
        start = self._cpu_s()
        timings = (await self.client.complete(PROMPT, 1))["timings"]
        middle = self._cpu_s()
        both = (await self.client.complete(PROMPT, TOKENS))["timings"]
        reading, whole = middle - start, self._cpu_s() - middle
        assert timings["prompt_n"] == both["prompt_n"]
        return (
            both["predicted_per_second"],
            both["prompt_per_second"],
            reading,
            whole,
        )

    def _cpu_s(self) -> float:
        """Seconds that all threads of these processes have run; the kernel counts nanoseconds."""
        files = [f for pid in self.pids for f in Path(f"/proc/{pid}/task").glob("*/schedstat")]
        return sum(int(file.read_text().split()[0]) for file in files) / 1e9


async def compare(hosted: Side, plain: Side, rounds: int) -> list[float]:
    """Ratios hosted/plain of generation and prompt speed, the first round not counted: medians by
    wall clock, then by each side's least processor time."""
    rounds_seen = []
    for number in range(rounds + 1):
        sides = (hosted, plain) if number % 2 else (plain, hosted)
        seen = {side is hosted: await side.run() for side in sides}
        if number:
            rounds_seen.append(seen)
    medians = [statistics.median(s[True][i] / s[False][i] for s in rounds_seen) for i in (0, 1)]
    reading, whole = (
        {side: min(s[side][i] for s in rounds_seen) for side in (True, False)} for i in (2, 3)
    )
    generating = {side: whole[side] - reading[side] for side in (True, False)}
    return [*medians, generating[False] / generating[True], reading[False] / reading[True]]


async def bench(options: argparse.Namespace) -> float:
    worst = float("inf")
    print("The hosted worker's speed as a share of plain llama-server's")
    print(f"{'':12} {'by wall clock':>20} {'by processor time':>20}")
    print(f"{'weights':8} {'N':>3}" + 2 * f" {'generation':>12} {'prompt':>7}")
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
                                ratios = await compare(
                                    Side(hosted, (engine.pid or 0, rpc.pid)),
                                    Side(plain, (address.pid, other_rpc.pid)),
                                    options.rounds,
                                )
                            worst = min(worst, *ratios[2:])
                            figures = "".join(
                                f" {generated:12.3f} {read:7.3f}"
                                for generated, read in (ratios[:2], ratios[2:])
                            )
                            print(f"{quant:8} {n:3}{figures}", flush=True)
                finally:
                    await engine.stop()
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--step", type=int, default=1, help="N goes from 0 to all in steps of this")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quants", nargs="+", default=["Q4_0", "Q8_0"])
    parser.add_argument("--check", type=float, help="fail if a ratio of processor time is below")
    options = parser.parse_args()
    setup("console", "error")
    worst = asyncio.run(bench(options))
    print(f"worst ratio by processor time {worst:.3f}")
    return int(options.check is not None and worst < options.check)


if __name__ == "__main__":
    sys.exit(main())
