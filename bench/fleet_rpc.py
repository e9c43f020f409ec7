"""What lies between a backend and a device that another node lends it: an RPC server straight, the
same through taker and giver, and that with TLS, in turns.

    python -m bench.fleet_rpc [--rounds 5] [--tokens 300] [--layer-mb 13] [--json FILE]

All on one machine, where each of them takes of the same cores: over a network there is less to see.
"""

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from bench._report import figure, ratio_text, table
from bench._tell import ratio, tell
from proxy.observe.log import setup
from tests.support.hosted import hosted
from tests.support.llama import Client, rpc_server
from tests.support.models import model
from tests.support.rpc_loan import HERE, certificate, relayed

CAPTION = "Experts on a device that another process lends: tokens a second, and bytes to it."
HEAD = ("way", "tokens a second", "to straight", "moved there, GB/s", "to straight")
LAYERS = 12

Way = Callable[[], AbstractAsyncContextManager[str]]


@asynccontextmanager
async def straight() -> AsyncIterator[str]:
    async with rpc_server() as address:
        yield address


@asynccontextmanager
async def lent(env: Mapping[str, str] | None) -> AsyncIterator[str]:
    async with relayed(env) as (port, _):
        yield f"{HERE}:{port}"


async def measure(way: Way, path: Path, tokens: int) -> tuple[float, float]:
    """Tokens a second with all experts there, and the bytes a second of having them there."""
    async with way() as address, hosted(path, [address], ctx=1024) as engine:
        layers = engine.known().layers
        size = sum(layer.experts_bytes for layer in layers)
        places = {layer.index: "RPC0" for layer in layers}
        await engine.place(places)  # memory is new to both sides
        await engine.place(dict.fromkeys(places, "CPU"))
        move = await engine.place(places)
        async with Client(engine.address) as client:
            await client.complete("Once", 16)
            timings = (await client.complete("Once upon a time", tokens))["timings"]
        return float(timings["predicted_per_second"]), size / move.staged_s


async def run(rounds: int, tokens: int, layer_mb: float) -> dict[str, list[tuple[float, float]]]:
    # 32 experts of three matrices, in 8.5 bits a weight: what a layer has is their width's doing.
    inner = max(64, round(layer_mb * 1e6 / (32 * 3 * 256 * 34 / 32) / 64) * 64)
    path = model(layers=LAYERS, sizes={"experts": 32, "expert_width": inner})
    with tempfile.TemporaryDirectory() as folder:
        tls = os.environ | certificate(Path(folder), "bench")
        ways: dict[str, Way] = {
            "straight": straight,
            "lent": lambda: lent(None),
            "lent, TLS": lambda: lent(tls),
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                found[name].append(await measure(way, path, tokens))
    return found


def rows(found: Mapping[str, list[tuple[float, float]]]) -> list[list[str]]:
    """Each way's figures, and their ratio to those of the first."""
    first, made = next(iter(found.values())), []
    for name, results in found.items():
        row = [name]
        for place, scale, digits in ((0, 1.0, 0), (1, 1e-9, 2)):
            ours = [result[place] for result in results]
            theirs = [result[place] for result in first]
            row += [figure(ours).text(scale, digits), ratio_text(ratio(ours, theirs))]
        made.append(row)
    made[0][2] = made[0][4] = ""
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=CAPTION)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=300)
    parser.add_argument("--layer-mb", type=float, default=13)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    setup("console", "error")
    found = asyncio.run(run(arguments.rounds, arguments.tokens, arguments.layer_mb))
    tell({"ways": found}, CAPTION, table(HEAD, rows(found)), file=arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
