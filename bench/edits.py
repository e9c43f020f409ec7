"""From saving `policies.toml` to the first layer moved, and to a broken file being reported.

python -m bench.edits [--rounds 10] [--check 500] [--json FILE]
"""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from bench._options import count, parsed, result_file
from bench._report import figure, table
from bench._tell import tell
from proxy.observe.log import setup
from tests.support.llama import rpc_server
from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import Proxy, proxy

CAPTION = "From saving the policies to what comes of it."


async def moved(served: Proxy, text: str) -> float:
    """Seconds from saving `text` until the worker has told of the first layer that it swapped."""
    backend = served.app.services.pool.backends()[0]
    before = backend.engine.known().layers
    started = time.perf_counter()
    served.edit(text)
    while backend.engine.known().layers == before:
        await asyncio.sleep(0.002)
    return time.perf_counter() - started


async def reported(served: Proxy, text: str) -> float:
    """Seconds from saving a broken file until its problem is known."""
    policies = served.app.services.policies
    started = time.perf_counter()
    served.edit(text)
    while not policies.problems:
        await asyncio.sleep(0.002)
    return time.perf_counter() - started


async def bench(rounds: int) -> dict[str, list[float]]:
    """Seconds of each edit, by what came of it."""
    first_layer, problem = [], []
    async with rpc_server(threads=1) as rpc:
        with tempfile.TemporaryDirectory(prefix="moe-") as folder:

            def text(split: int) -> str:
                m = {"path": model(), "moe_cpu_layers": split, "ctx": 512, "parallel": 1}
                return policies({"m": m}, devices={"rpc": [rpc]})

            async with proxy(Path(folder), text(12)) as served:
                body = {"model": "m", "prompt": "hi", "max_tokens": 1}
                await served.post("/v1/completions", body)
                for number in range(rounds):
                    first_layer.append(await moved(served, text(0 if number % 2 else 11)))
                    await asyncio.sleep(0.5)
                    problem.append(await reported(served, text(7).replace("ctx", "cxt")))
                    await asyncio.sleep(0.3)
    return {"the first layer moved": first_layer, "a broken file reported": problem}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=count(), default=10)
    parser.add_argument("--check", type=float, help="fail if the median is above this many ms")
    parser.add_argument("--json", type=result_file)
    options = parsed(parser)
    setup("console", "error")
    seen = asyncio.run(bench(options.rounds))
    rows = [
        [name, figure(seconds).text(1e3), f"{1e3 * max(seconds):.0f}", str(len(seconds))]
        for name, seconds in seen.items()
    ]
    head = ("", "ms", "longest", "edits")
    tell({"edits": seen}, CAPTION, table(head, rows), file=options.json)
    middle_ms = 1e3 * figure(seen["the first layer moved"]).median
    return int(options.check is not None and middle_ms > options.check)


if __name__ == "__main__":
    sys.exit(main())
