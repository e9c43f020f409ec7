"""What the front of a fleet costs: first event and tokens per second, through it and asked of the
node itself, in turns within one run.

Three nodes on this machine, of which one has the model; the front chooses it among them.

    python -m bench.fleet [--rounds N] [--streams N ...] [--check] [--json FILE]
"""

import argparse
import asyncio
import contextlib
import os
import sys

import uvloop

from bench._asking import ask, request
from bench._fleet_nodes import fleet
from bench._options import count, parsed, result_file
from bench._report import figure
from bench._tell import tell
from bench.passthrough import firsts, firsts_table, median_added_s, rates, rates_table
from tests.support.models import model
from tests.support.policies import policies

MOST_ADDED_S = 0.015
LEAST_RATE = 0.97
KNOWN_S = 30.0


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--rounds", type=count(), default=200, help="requests each way, first event"
    )
    parser.add_argument("--rate-rounds", type=count(), default=9, help="rounds each way, tokens/s")
    parser.add_argument("--streams", type=count(), nargs="+", default=[1, 16])
    parser.add_argument("--tokens", type=count(), default=96, help="tokens of each stream")
    parser.add_argument("--json", type=result_file)
    parser.add_argument(
        "--check",
        action="store_true",
        help=f"fail above {MOST_ADDED_S * 1000:.0f} ms more than the node itself at the median, "
        f"below {LEAST_RATE} of its tokens/s",
    )
    options = parsed(parser)
    bench = {"path": model(), "parallel": max(options.streams), "ctx": 512, "keep_alive": -1}
    threads = {"threads": max(1, (os.cpu_count() or 2) - 1)}
    texts = [policies({"bench": bench}, engine=threads), *[policies({}, engine=threads)] * 2]
    async with contextlib.AsyncExitStack() as stack:
        all_of_it = await stack.enter_async_context(fleet(texts))
        node, front = all_of_it.nodes[0], all_of_it.front
        await ask(await node.connect(), request(1, "hi", lines=node.lines))
        await _until_known(front.port)
        ways = [node, front]
        taken = await firsts(ways, options.rounds)
        rated = {
            n: await rates(ways, options.rate_rounds, n, options.tokens) for n in options.streams
        }
    parts = [
        "What a front adds to a node of the fleet, pair by pair.",
        firsts_table(taken),
        f"Streams of {options.tokens} tokens at once.",
        rates_table(rated),
    ]
    tell({"firsts": taken, "streams": rated}, *parts, file=options.json)
    added_s = median_added_s(taken[front.name], taken[node.name])
    kept = min(
        figure(
            [a / b for a, b in zip(of[front.name].tokens, of[node.name].tokens, strict=True)]
        ).median
        for of in rated.values()
    )
    return int(options.check and (added_s > MOST_ADDED_S or kept < LEAST_RATE))


async def _until_known(port: int | None) -> None:
    """Until the front knows who has the model."""
    async with asyncio.timeout(KNOWN_S):
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            said = await reader.read()
            writer.close()
            if b'"bench"' in said:
                return
            await asyncio.sleep(0.05)


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
