"""Generation and prompt speed of the hosted worker against plain llama-server, at every split.

    python -m bench.generation [--layers 12] [--step 1] [--rounds 15] [--check 0.97] [--json FILE]

Both are loaded at once, each with an RPC device of its own, and asked in turns, so that whatever
else the machine does falls on both. Each figure is of the rounds' ratios of hosted to plain: above
1 the worker is faster. By wall clock it is the speed that the server itself reports. Beside it
stands the work: processor time of server and device together. In that the kernel's share counts
too, which wakes server and device for each other some dozens of times a token, and is luck to a few
percent.
"""

import argparse
import asyncio
import sys
from dataclasses import dataclass

from bench._options import count, parsed, result_file
from bench._process import cpu_s
from bench._report import figure, table
from bench._tell import tell, times_text
from proxy.observe.log import setup
from proxy.placement.assign import placement
from tests.support.hosted import hosted
from tests.support.llama import Client, plain_server, rpc_server
from tests.support.models import model

CAPTION = "The hosted worker's speed to that of plain llama-server with the same split."
HEAD = (
    "weights",
    "N",
    "generation, wall clock",
    "prompt, wall clock",
    "generation, processor time",
    "prompt, processor time",
)
COLUMNS = ("generated", "read", "generated_cpu", "read_cpu")
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
class Compared:
    """All rounds at one split: ours and theirs."""

    quant: str
    split: int
    rounds: list[tuple[Speeds, Speeds]]

    def column(self, name: str) -> tuple[list[float], list[float]]:
        ours, theirs = ([getattr(each[i], name) for each in self.rounds] for i in (0, 1))
        return ours, theirs

    def worst(self) -> float:
        """By wall clock."""
        sides = map(self.column, ("generated", "read"))
        return min(figure([a / b for a, b in zip(*both, strict=True)]).median for both in sides)

    def row(self) -> list[str]:
        ratios = [times_text(*self.column(name)) for name in COLUMNS]
        return [self.quant, str(self.split), *ratios]


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two that are compared: where to ask, and the processes that do the work."""

    client: Client
    pids: tuple[int, ...]

    async def run(self) -> Speeds:
        """Read the prompt, then generate behind it, which is in the cache now."""
        start = cpu_s(*self.pids)
        reading = (await self.client.complete(PROMPT, 1))["timings"]
        middle = cpu_s(*self.pids)
        cached = await self.client.complete(PROMPT, TOKENS, cache_prompt=True)
        generating, end = cached["timings"], cpu_s(*self.pids)
        assert generating["prompt_n"] == 1 < reading["prompt_n"], "the cache was not used"
        return Speeds(
            generating["predicted_per_second"],
            reading["prompt_per_second"],
            1 / (end - middle),
            1 / (middle - start),
        )


async def compare(hosted: Side, plain: Side, rounds: int) -> list[tuple[Speeds, Speeds]]:
    """(hosted, plain) of each round; the first one is not counted."""
    seen: list[tuple[Speeds, Speeds]] = []
    for number in range(rounds + 1):
        sides = (hosted, plain) if number % 2 else (plain, hosted)
        speeds = {side is hosted: await side.run() for side in sides}
        if number:
            seen.append((speeds[True], speeds[False]))
    return seen


async def bench(options: argparse.Namespace) -> list[Compared]:
    found: list[Compared] = []
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
                    rounds = await compare(
                        Side(ours, (engine.pid or 0, rpc.pid)),
                        Side(plain, (address.pid, other_rpc.pid)),
                        options.rounds,
                    )
                found.append(Compared(quant, n, rounds))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=count(), default=12)
    parser.add_argument(
        "--step", type=count(), default=1, help="N goes from 0 to all in steps of this"
    )
    parser.add_argument("--rounds", type=count(), default=15)
    parser.add_argument("--quants", nargs="+", default=["Q4_0", "Q8_0"])
    parser.add_argument("--check", type=float, help="fail if a ratio by wall clock is below")
    parser.add_argument("--json", type=result_file)
    options = parsed(parser)
    setup("console", "error")
    found = asyncio.run(bench(options))
    rows = [each.row() for each in found]
    tell({"generation": found}, CAPTION, table(HEAD, rows), file=options.json)
    worst = min(each.worst() for each in found)
    return int(options.check is not None and worst < options.check)


if __name__ == "__main__":
    sys.exit(main())
