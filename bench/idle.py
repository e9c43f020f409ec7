"""What the proxy costs while nobody asks for anything: its share of a core with nothing loaded and
with an idle model on a device, each with and without an open page; who wakes it; how soon it
listens after a start, and its memory.

Each share is that of the proxy's own process (and, beside it, its worker's), over so many seconds
in rounds. With `--before`, the proxy of another checkout takes its turns. Who makes each wake-up is
counted in proxies of their own, whose loop is asyncio's (`bench/_wakes.py`).

    python -m bench.idle [--seconds S] [--rounds N] [--starts N] [--json FILE] [--check]
                         [--before CHECKOUT]
"""

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench._options import amount, checkout, count, parsed, result_file
from bench._report import write
from bench._served import Served, cpu_s, memory_mib, served, switches, worker_of
from tests.support.llama import rpc_server
from tests.support.models import model
from tests.support.policies import policies

# What `--check` holds it to, as shares of a core, seconds and MiB.
MOST: Mapping[str, float] = {"nothing loaded": 0.001, "one idle model": 0.002}
MOST_START_S, MOST_MIB = 0.35, 45.0
# Until a proxy that has just started or loaded is at rest.
REST_S = 6.0
SIDES = ("this proxy", "the proxy before")
STATES = ("nothing loaded", "nothing loaded, a page", "one idle model", "one idle model, a page")


@dataclass(frozen=True, slots=True)
class Seen:
    """One stretch of time: shares of a core, and how often threads woke, a second."""

    share: float
    wakes: float
    worker_share: float | None = None
    worker_wakes: float | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """One start: until it listened and answered, what it had computed by then, and its memory at
    rest, resident and divided."""

    listens_s: float
    answers_s: float
    cpu_s: float
    rss_mib: float
    pss_mib: float


async def watched(proxy: Served, seconds: float, *, loaded: bool) -> Seen:
    pids = [proxy.pid, *([worker_of(proxy.pid)] if loaded else [])]
    before = [(cpu_s(pid), switches(pid)) for pid in pids]
    await asyncio.sleep(seconds)
    found: list[float] = []
    for pid, (cpu, switched) in zip(pids, before, strict=True):
        found += [(cpu_s(pid) - cpu) / seconds, (switches(pid) - switched) / seconds]
    return Seen(*found)


@contextlib.asynccontextmanager
async def state(proxy: Served, name: str) -> AsyncIterator[None]:
    async with contextlib.AsyncExitStack() as stack:
        if name.endswith("a page"):
            await stack.enter_async_context(proxy.page())
            await asyncio.sleep(REST_S / 2)
        yield


@contextlib.asynccontextmanager
async def one(checkout: Path, *, counts_wakes: bool = False) -> AsyncIterator[Served]:
    """A proxy with a model that it may load, and a device of its own for it."""
    with tempfile.TemporaryDirectory(prefix="idle-") as folder:
        async with rpc_server(threads=1) as rpc:
            moe = {"path": model(), "ctx": 512, "parallel": 1, "keep_alive": -1}
            text = policies({"moe": moe}, devices={"rpc": [rpc]})
            async with served(Path(folder), text, checkout, counts_wakes=counts_wakes) as proxy:
                yield proxy


async def shares(checkouts: Sequence[Path], seconds: float, rounds: int) -> dict[Any, list[Seen]]:
    """By side and state. Sides take turns, each beginning as often as the other."""
    found: dict[Any, list[Seen]] = {}
    async with contextlib.AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(one(checkout)) for checkout in checkouts]
        for name in STATES:
            if name == "one idle model":
                for proxy in proxies:
                    await proxy.load("moe")
            await asyncio.sleep(REST_S)
            for number in range(rounds):
                for side in range(len(proxies))[:: -1 if number % 2 else 1]:
                    async with state(proxies[side], name):
                        loaded = name.startswith("one")
                        seen = await watched(proxies[side], seconds / rounds, loaded=loaded)
                    found.setdefault((side, name), []).append(seen)
    return found


async def starts(checkouts: Sequence[Path], number: int) -> list[list[Started]]:
    """By side; in turns. The first one, which may write byte code, does not count."""
    found: list[list[Started]] = [[] for _ in checkouts]
    for turn in range(-1, number):
        for side in range(len(checkouts))[:: -1 if turn % 2 else 1]:
            with tempfile.TemporaryDirectory(prefix="idle-") as folder:
                async with served(Path(folder), policies({}), checkouts[side]) as proxy:
                    await asyncio.sleep(REST_S / 4)
                    times = (proxy.listens_s, proxy.answers_s, proxy.start_cpu_s)
                    started = Started(*times, *memory_mib(proxy.pid))
            if turn >= 0:
                found[side].append(started)
    return found


async def who(checkout: Path, seconds: float) -> dict[str, dict[str, dict[str, list[float]]]]:
    """By state and kind, who made how many a second; of the loop's wakes, with microseconds each
    second as well."""
    found = {}
    async with one(checkout, counts_wakes=True) as proxy:
        for name in STATES:
            if name == "one idle model":
                await proxy.load("moe")
            async with state(proxy, name):
                await asyncio.sleep(REST_S)
                before = await proxy.counted()
                await asyncio.sleep(seconds)
                after = await proxy.counted()
            more = {
                kind: {who: n - before[kind].get(who, 0) for who, n in after[kind].items()}
                for kind in ("wakes", "spent_ns", "handed")
            }
            loop = {
                who: [more["wakes"].get(who, 0) / seconds, ns / 1000 / seconds]
                for who, ns in more["spent_ns"].items()
                if ns
            }
            handed = {who: [n / seconds] for who, n in more["handed"].items() if n}
            found[name] = {"loop": loop, "threads": handed}
    return found


def middle(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.4g} ({min(values):.3g} to {max(values):.3g})"


def print_shares(found: Mapping[Any, list[Seen]], sides: Sequence[str]) -> None:
    print("percent of a core, and wake-ups of threads a second: median (least to most)\n")
    print("| | | proxy, % | wakes | its worker, % | wakes |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in STATES:
        for side, title in enumerate(sides):
            rows = found[side, name]
            cells = [middle([100 * row.share for row in rows]), middle([row.wakes for row in rows])]
            if rows[0].worker_share is not None:
                cells.append(middle([100 * (row.worker_share or 0) for row in rows]))
                cells.append(middle([row.worker_wakes or 0 for row in rows]))
            print("|", " | ".join([name, title, *cells, *["-"] * (4 - len(cells))]), "|")


def print_starts(found: Sequence[Sequence[Started]], sides: Sequence[str]) -> None:
    print("\n| | start to listening, s | to an answer, s | of it computing, s | resident, MiB |")
    print("| --- | --- | --- | --- | --- |")
    for rows, title in zip(found, sides, strict=True):
        columns = [
            [getattr(row, name) for row in rows]
            for name in ("listens_s", "answers_s", "cpu_s", "rss_mib")
        ]
        print("|", " | ".join([title, *map(middle, columns)]), "|")


def print_who(found: Mapping[str, Any], title: str) -> None:
    print(f"\n{title}: who wakes the loop, how often a second, and its µs of each second")
    for name, kinds in found.items():
        loop = kinds["loop"]
        print(f"  {name}: {sum(n for n, _ in loop.values()):.2f} wakes of the loop a second")
        for owner, (wakes, us) in sorted(loop.items(), key=lambda item: -item[1][1])[:12]:
            print(f"    {wakes:6.2f}  {us:7.1f} µs  {owner}")
        for what, (times,) in sorted(kinds["threads"].items(), key=lambda item: -item[1][0]):
            print(f"    {times:6.2f}  on a thread  {what}")


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=amount(), default=20.0, help="of each state and side")
    parser.add_argument("--rounds", type=count(), default=4)
    parser.add_argument("--starts", type=count(0), default=5)
    parser.add_argument(
        "--who", type=amount(zero=True), default=10.0, help="seconds of counting; 0: not"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help=f"fail above {MOST}, {MOST_START_S} s and {MOST_MIB:g} MiB",
    )
    parser.add_argument(
        "--before", type=checkout, metavar="CHECKOUT", help="another checkout, to compare with"
    )
    parser.add_argument("--json", type=result_file)
    arguments = parsed(parser)
    checkouts = [Path.cwd(), *([arguments.before.resolve()] if arguments.before else [])]
    sides = SIDES[: len(checkouts)]
    began = await starts(checkouts, arguments.starts) if arguments.starts else []
    found = await shares(checkouts, arguments.seconds, arguments.rounds)
    print_shares(found, sides)
    if began:
        print_starts(began, sides)
    makers = [await who(checkout, arguments.who) for checkout in checkouts if arguments.who]
    for title, made in zip(sides, makers, strict=False):
        print_who(made, title)
    if arguments.json:
        seen = [
            {"side": sides[side], "state": name, "rounds": rows}
            for (side, name), rows in found.items()
        ]
        write(arguments.json, {"idle": {"shares": seen, "starts": began, "who": makers}})
    missed = [
        name
        for name, most in MOST.items()
        if statistics.median(row.share for row in found[0, name]) > most
    ]
    if began:
        missed += ["start"] * (statistics.median(s.answers_s for s in began[0]) > MOST_START_S)
        missed += ["memory"] * (statistics.median(s.rss_mib for s in began[0]) > MOST_MIB)
    for name in missed:
        print(f"more than wanted: {name}", file=sys.stderr)
    return int(arguments.check and bool(missed))


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
