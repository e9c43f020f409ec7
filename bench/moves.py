"""What a move costs while an answer streams: how long steps were held, and the longest gap between
two tokens.

    python -m bench.moves [--layers 12] [--layer-mb 4 54] [--rounds 5] [--check 50]

For each size of layer: all experts to the device and back, several times, under one stream. Large
layers take longer to copy, beside the stream; the gate is held for as long as small ones.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time

import aiohttp

from proxy.engine.hosted import HostedEngine
from proxy.observe.log import setup
from proxy.placement.assign import placement
from tests.support.hosted import hosted
from tests.support.llama import rpc_server
from tests.support.models import model


async def gaps(engine: HostedEngine, stop: asyncio.Event) -> list[tuple[float, float]]:
    """(when, how long) of each gap between two tokens of one stream, until `stop`."""
    found: list[tuple[float, float]] = []
    connector = aiohttp.UnixConnector(engine.address.socket or "")
    body = {"prompt": "one two three", "n_predict": 100_000, "stream": True, "ignore_eos": True}
    body |= {"temperature": 0}
    async with (
        aiohttp.ClientSession("http://worker", connector=connector) as session,
        session.post("/completion", json=body) as answer,
    ):
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


async def bench(options: argparse.Namespace) -> float:
    worst = 0.0
    print(
        "layer MB   moves        gate ms (median, longest)   gap ms: usual, longest in moves, else"
    )
    for size in options.layer_mb:
        experts = max(round(size * 1e6 / (3 * 512 * 512 * 34 / 32)), 4)
        sizes = {"width": 512, "expert_width": 512, "experts": experts}
        path = model(layers=options.layers, sizes=sizes)
        async with rpc_server() as rpc, hosted(path, [rpc], ctx=4096, parallel=1) as engine:
            held = await moves(engine, options.rounds, size)
        worst = max(worst, held)
    return worst


async def moves(engine: HostedEngine, rounds: int, size: float) -> float:
    """Prints one line for each direction; returns the longest hold in seconds."""
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
    for name, seconds in held.items():
        inside = [g for at, g in seen if any(a <= at <= b for a, b in spans[name])]
        every = [span for each in spans.values() for span in each]
        outside = [g for at, g in seen if not any(a <= at <= b for a, b in every)]
        print(
            f"{size:8.0f}   {name:8} x{layers:<3} {statistics.median(seconds) * 1e3:8.1f} "
            f"{max(seconds) * 1e3:8.1f}         {usual * 1e3:8.1f} "
            f"{max(inside, default=0) * 1e3:8.1f} {max(outside, default=0) * 1e3:8.1f}",
            flush=True,
        )
    return max(max(seconds) for seconds in held.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--layer-mb", type=float, nargs="+", default=[4, 54])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--check", type=float, help="fail if steps were held for more ms than this")
    options = parser.parse_args()
    setup("console", "error")
    worst_ms = asyncio.run(bench(options)) * 1e3
    print(f"longest hold {worst_ms:.1f} ms")
    return int(options.check is not None and worst_ms > options.check)


if __name__ == "__main__":
    sys.exit(main())
