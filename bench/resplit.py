"""Another split while an answer streams: experts that move live, against a plain llama-server that
is ended, started with the other `--n-cpu-moe`, and asked the same again.

    python -m bench.resplit [--size small|medium|large|huge|FILE ...] [--rounds 7] [--json FILE]

All experts go to the device and back. The sides take turns; each has an RPC server of its own as
the device. Times are from the moment at which somebody wants the other split: for a live move, that
of the request to the proxy; for a restart, that at which llama-server is ended, with what it has
written. The next token does not wait for a live move, which goes on beside the answer: so what is
compared is the longest time without a token until the last expert is there. No prompt begins as one
before.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp

from bench._options import count, model_size, parsed, result_file
from bench._plain import FOREVER, Token, answered, llama_server
from bench._report import figure, table
from bench._tell import tell, times_text
from proxy.catalog.parts import parts_of
from proxy.catalog.summary import summarise
from proxy.observe.log import setup
from tests.support.llama import rpc_server
from tests.support.models import model
from tests.support.policies import policies
from tests.support.serving import serving

SIZES: dict[str, dict[str, Any]] = {
    "small": {"layers": 4},
    "medium": {"sizes": {"width": 512, "expert_width": 512, "experts": 16}},
    "large": {"layers": 16, "sizes": {"width": 512, "expert_width": 512, "experts": 32}},
    "huge": {"layers": 30, "sizes": {"width": 1024, "expert_width": 512, "experts": 64}},
}
OURS, PLAIN = "moved live", "llama-server, started again"
WRITTEN = 16  # tokens before somebody wants another split
POLL_S = 0.02
HANG_S = 600.0
CTX = 4096
MOST_TOKENS = 3000


@dataclass(frozen=True, slots=True)
class Change:
    """One change of the split, in seconds from when it was wanted: the next token, and the end of
    the moves; the longest time without a token until then; what was done again, in tokens."""

    next_token_s: float
    longest_gap_s: float
    all_there_s: float
    written_again: int
    read_again: int


class Ours:
    """A proxy in a process of its own, with the model loaded."""

    def __init__(self, url: str, layers: int) -> None:
        self._url, self._layers = url, layers

    async def change(self, split: int, prompt: str) -> Change:
        answer = answered(self._url, "m", prompt, MOST_TOKENS)
        counts = [token.timings async for token in _first(answer, WRITTEN)]
        started = time.perf_counter()
        moving = asyncio.ensure_future(self._move(split))
        tokens: list[Token] = []
        async for token in answer:
            tokens.append(token)
            # What came before it was wanted may still have been on its way.
            if moving.done() and token.at_s > moving.result():
                break
        await answer.aclose()  # type: ignore[attr-defined]
        there_s = await moving - started
        assert not any(counts), "the answer ended before"
        times = [started, *(token.at_s for token in tokens)]
        longest_s = max(after - before for before, after in pairwise(times))
        return Change(times[1] - started, longest_s, there_s, 0, 0)

    async def _move(self, split: int) -> float:
        """When all experts were where they are wanted."""
        async with aiohttp.ClientSession(self._url, timeout=FOREVER) as session:
            async with session.put("/admin/models/m/split", json={"moe_cpu_layers": split}) as put:
                if put.status != 200:
                    raise SystemExit(await put.text())
            async with asyncio.timeout(HANG_S):
                while True:
                    async with session.get("/admin/state") as answer:
                        (backend,) = (await answer.json())["backends"]
                    if sum(layer["experts"] == "CPU" for layer in backend["layers"]) == split:
                        return time.perf_counter()
                    await asyncio.sleep(POLL_S)


class Plain:
    """llama-server, which is started again for each split."""

    def __init__(self, path: Path, stack: AsyncExitStack, rpc: str) -> None:
        self._path, self._rpc = path, rpc
        self._stack = stack
        self._url = ""

    async def start(self, split: int) -> None:
        own = ("--rpc", self._rpc, "-ngl", "999", "--n-cpu-moe", str(split), "-c", str(CTX))
        await self._stack.aclose()
        server = llama_server(self._path, *own, "-np", "1", "-t", "1")
        self._url = await self._stack.enter_async_context(server)

    async def change(self, split: int, prompt: str) -> Change:
        answer = answered(self._url, "m", prompt, MOST_TOKENS)
        written = len([token async for token in _first(answer, WRITTEN)])
        started = time.perf_counter()
        await answer.aclose()  # type: ignore[attr-defined]
        await self.start(split)
        first, *_, last = [token async for token in answered(self._url, "m", prompt, 2)]
        next_s = first.at_s - started
        return Change(next_s, next_s, next_s, written, (last.timings or {})["prompt_n"])


async def _first(answer: AsyncIterator[Token], count: int) -> AsyncIterator[Token]:
    for _ in range(count):
        yield await anext(answer)


@asynccontextmanager
async def ours(path: Path, rpc: str, layers: int) -> AsyncIterator[Ours]:
    with tempfile.TemporaryDirectory(prefix="mp") as name:
        folder = Path(name)
        table = {"path": path, "moe_cpu_layers": layers, "ctx": CTX, "parallel": 1}
        file = folder / "policies.toml"
        file.write_text(policies({"m": table | {"keep_alive": -1}}, devices={"rpc": [rpc]}))
        async with serving(folder, "--port", "0", "--policies", str(file)) as process:
            url = await process.url()
            async for _ in answered(url, "m", "hi", 1):
                pass
            yield Ours(url, layers)


async def measure(path: Path, rounds: int, words: int) -> dict[str, dict[str, list[Change]]]:
    """By where the experts go, and side; the first round is not counted."""
    layers = summarise(path).layers
    ways = {"to the device": 0, "back": layers}
    seen: dict[str, dict[str, list[Change]]] = {way: {OURS: [], PLAIN: []} for way in ways}
    async with (
        rpc_server() as mine,
        rpc_server() as other,
        ours(path, mine, layers) as live,
        AsyncExitStack() as stack,
    ):
        plain = Plain(path, stack, other)
        await plain.start(layers)
        for number in range(-1, rounds):
            for way, split in ways.items():
                prompt = f"{number} {way} " + "one two three four " * (words // 4)
                sides: list[tuple[str, Ours | Plain]] = [(OURS, live), (PLAIN, plain)]
                for name, side in sides if number % 2 else reversed(sides):
                    change = await side.change(split, prompt)
                    if number >= 0:
                        seen[way][name].append(change)
    return seen


def rows_of(path: Path, seen: dict[str, dict[str, list[Change]]]) -> list[list[str]]:
    megabytes = f"{sum(part.stat().st_size for part in parts_of(path)) / 1e6:.0f} MB"
    rows = []
    for way, sides in seen.items():
        theirs = [change.longest_gap_s for change in sides[PLAIN]]
        for name, changes in sides.items():
            first, gap, there, written, read = _columns(changes)
            compared = times_text(gap, theirs) if name == OURS else ""
            times = [figure(each).text(1000) for each in (first, gap, there)]
            again = [f"{figure(each).median:.0f}" for each in (written, read)]
            rows.append([megabytes, way, name, *times[:2], compared, times[2], *again])
    return rows


def _columns(changes: Sequence[Change]) -> tuple[list[float], ...]:
    names = ("next_token_s", "longest_gap_s", "all_there_s", "written_again", "read_again")
    return tuple([float(getattr(change, name)) for change in changes] for name in names)


async def bench(paths: dict[str, Path], rounds: int, words: int) -> dict[str, Any]:
    return {size: await measure(path, rounds, words) for size, path in paths.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--size", type=model_size(SIZES), nargs="+", default=["small", "large", "huge"]
    )
    parser.add_argument("--rounds", type=count(), default=7)
    parser.add_argument("--words", type=count(), default=200, help="of the prompt")
    parser.add_argument("--json", type=result_file)
    options = parsed(parser)
    setup("console", "error")
    paths = {
        size: model(**SIZES[size]) if size in SIZES else Path(size).resolve()
        for size in options.size
    }
    results = asyncio.run(bench(paths, options.rounds, options.words))
    rows = [row for size, seen in results.items() for row in rows_of(paths[size], seen)]
    caption = (
        f"Another split {WRITTEN} tokens into an answer to a prompt of {options.words} words: "
        "milliseconds from when it is wanted, and tokens that were written and read again."
    )
    times = ("next token", "longest gap", "ratio", "all there")
    head = ("model", "experts", "", *times, "written again", "read again")
    tell({"resplit": results}, caption, table(head, rows), file=options.json)


if __name__ == "__main__":
    main()
