"""What a move costs while an answer streams: how long steps were held, and the longest gap between
two tokens.

    python -m bench.moves [--layers 12] [--layer-mb 4 54] [--rounds 5] [--check 50] [--json FILE]

For each size of layer: all experts to the device and back, several times, under one stream. Large
layers take longer to copy, beside the stream; the gate is held for as long as small ones.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from dataclasses import dataclass

import aiohttp

from bench._options import amount, count, parsed, result_file
from bench._report import Figure, figure, table
from bench._tell import tell
from proxy.engine.hosted import HostedEngine
from proxy.observe.log import setup
from proxy.placement.assign import placement
from tests.support.hosted import hosted
from tests.support.llama import rpc_server
from tests.support.models import model

CAPTION = "All experts to the device and back while an answer streams: how long steps were held."
HEAD = (
    "layer, MB",
    "moves",
    "steps held, ms",
    "longest",
    "usual gap, ms",
    "longest while moving",
    "longest else",
)


@dataclass(frozen=True, slots=True)
class Direction:
    """Moves one way, of layers of one size; all in seconds."""

    layer_mb: float
    moves: str
    held: Figure
    longest_s: float
    usual_gap_s: float
    longest_gap_s: float
    longest_gap_else_s: float

    def row(self) -> list[str]:
        gaps = (self.longest_s, self.usual_gap_s, self.longest_gap_s, self.longest_gap_else_s)
        words = [f"{1e3 * seconds:.1f}" for seconds in gaps]
        return [f"{self.layer_mb:.0f}", self.moves, self.held.text(1e3, 1), *words]


async def gaps(engine: HostedEngine, stop: asyncio.Event) -> list[tuple[float, float]]:
    """(when, how long) of each gap between two tokens of one stream, until `stop`."""
    found: list[tuple[float, float]] = []
    connector = aiohttp.UnixConnector(engine.address.socket or "")
    body = {"prompt": "one two three", "n_predict": 100_000, "stream": True, "ignore_eos": True}
    body |= {"temperature": 0}
    async with aiohttp.ClientSession("http://worker", connector=connector) as session:
        # One ends where its context is full, and what comes between two is no gap of either.
        while not stop.is_set():
            async with session.post("/completion", json=body, raise_for_status=True) as answer:
                last = None
                async for line in answer.content:
                    if stop.is_set():
                        break
                    if line.startswith(b"data: ") and json.loads(line[6:]).get("content"):
                        now = time.perf_counter()
                        if last is not None:
                            found.append((now, now - last))
                        last = now
    return found


async def bench(options: argparse.Namespace) -> list[Direction]:
    found: list[Direction] = []
    for size in options.layer_mb:
        experts = max(round(size * 1e6 / (3 * 512 * 512 * 34 / 32)), 4)
        sizes = {"width": 512, "expert_width": 512, "experts": experts}
        path = model(layers=options.layers, sizes=sizes)
        async with rpc_server() as rpc, hosted(path, [rpc], ctx=4096, parallel=1) as engine:
            found += await moves(engine, options.rounds, size)
    return found


async def moves(engine: HostedEngine, rounds: int, size: float) -> list[Direction]:
    """One for each direction."""
    stop = asyncio.Event()
    stream = asyncio.ensure_future(gaps(engine, stop))
    held: dict[str, list[float]] = {"promote": [], "demote": []}
    spans: dict[str, list[tuple[float, float]]] = {"promote": [], "demote": []}
    layers = engine.known().block_count
    for _ in range(rounds):
        for name, n in (("promote", 0), ("demote", layers)):
            await asyncio.sleep(0.5)
            started = time.perf_counter()
            move = await engine.place(placement(engine.known(), n))
            held[name].append(move.gate_s)
            spans[name].append((started, time.perf_counter() + 0.1))
    stop.set()
    seen = await stream
    usual = statistics.median(gap for _, gap in seen)
    found = []
    for name, seconds in held.items():
        inside = [g for at, g in seen if any(a <= at <= b for a, b in spans[name])]
        every = [span for each in spans.values() for span in each]
        outside = [g for at, g in seen if not any(a <= at <= b for a, b in every)]
        found.append(
            Direction(
                size,
                f"{layers} layers, {name}",
                figure(seconds),
                max(seconds),
                usual,
                max(inside, default=0.0),
                max(outside, default=0.0),
            )
        )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=count(), default=12)
    parser.add_argument("--layer-mb", type=amount(), nargs="+", default=[4, 54])
    parser.add_argument("--rounds", type=count(), default=5)
    parser.add_argument("--check", type=float, help="fail if steps were held for more ms than this")
    parser.add_argument("--json", type=result_file)
    options = parsed(parser)
    setup("console", "error")
    found = asyncio.run(bench(options))
    rows = [each.row() for each in found]
    tell({"moves": found}, CAPTION, table(HEAD, rows), file=options.json)
    worst_ms = 1e3 * max(each.longest_s for each in found)
    return int(options.check is not None and worst_ms > options.check)


if __name__ == "__main__":
    sys.exit(main())
