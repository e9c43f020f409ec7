"""What the proxy costs: first event and tokens per second, through it and straight from the
worker's socket; short requests a second, and its processor time for each.

All ways take turns within one run, against the same worker, so that whatever else the machine does
hits all of them. Two more ways are what any process in between costs on this machine: a relay that
only copies bytes, and nginx, where that is installed. `--check` judges by what the proxy adds to
what the relay does.

With `--llama-swap PROGRAM`, that takes its turns, with a plain llama-server of its own behind it;
what it adds is over that one. With `--before`, the proxy of another checkout takes its turns too:
whether a change made requests slower, at one and the same time.

    python -m bench.passthrough [--rounds N] [--streams N ...] [--check] [--before CHECKOUT]
        [--llama-swap PROGRAM]
"""

import argparse
import asyncio
import contextlib
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from bench._asking import Kept, Times, ask, request
from bench._llama_swap import through_llama_swap
from bench._options import checkout, count, model_file, parsed, program, result_file
from bench._process import cpu_s
from bench._report import figure, table
from bench._tell import more_text, spread, tell, times_text
from bench._ways import THREADS, Way, relayed, served, through_nginx
from tests.support.models import model

MOST_ADDED_S = 0.0005  # more than the relay does
LEAST_RATE = 0.95
WARM_UP_ROUNDS = 5
BEFORE = "the proxy before"
AT_ONCE = (1, 16)
Over = Mapping[str, str]  # way -> the one that it is compared with, where that is another server
NONE: Over = {}


@dataclass(frozen=True, slots=True)
class Rates:
    """One way's rounds of so many streams at once: tokens a second, seconds to the first event."""

    tokens: list[float] = field(default_factory=list)
    first_event_s: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Shorts:
    """One way's rounds of short requests: how many a second, and the processor time for each of who
    stands in between."""

    per_second: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)


async def firsts(ways: Sequence[Way], rounds: int) -> dict[str, list[Times]]:
    """One-token answers, one request at a time."""
    taken: dict[str, list[Times]] = {way.name: [] for way in ways}
    kept = {way.name: await way.connect() for way in ways if way.keeps}
    for number in range(-WARM_UP_ROUNDS, rounds):
        # Who goes first takes turns too: the next one finds warmer caches.
        for way in ways if number % 2 else reversed(ways):
            connection = kept.get(way.name) or await way.connect()
            times = await ask(connection, request(1, "hi", lines=way.lines))
            if not way.keeps:
                connection[1].close()
            if number >= 0:
                taken[way.name].append(times)
    for _, writer in kept.values():
        writer.close()
    return taken


async def rates(ways: Sequence[Way], rounds: int, streams: int, tokens: int) -> dict[str, Rates]:
    """`streams` answers at once: tokens over all of them, the middle one of their first events."""
    found = {way.name: Rates() for way in ways}
    for number in range(rounds):
        for way in ways if number % 2 else reversed(ways):
            connections = [await way.connect() for _ in range(streams)]
            started_s = time.perf_counter()
            answers = await asyncio.gather(
                *(
                    ask(connection, request(tokens, f"story {stream}", lines=way.lines))
                    for stream, connection in enumerate(connections)
                )
            )
            wall_s = time.perf_counter() - started_s
            rated = found[way.name]
            rated.tokens.append(sum(answer.tokens for answer in answers) / wall_s)
            rated.first_event_s.append(figure([a.first_event_s for a in answers]).median)
            for _, writer in connections:
                writer.close()
    return found


async def shorts(
    ways: Sequence[Way], rounds: int, at_once: int, requests: int
) -> dict[str, Shorts]:
    """`requests` of one token each round, so many at once on connections that are kept."""
    found = {way.name: Shorts() for way in ways}
    message = request(1, "hi", stream=False)

    async def work(client: Kept) -> None:
        for _ in range(requests // at_once):
            await client.ask(message)

    for number in range(-1, rounds):
        for way in ways if number % 2 else reversed(ways):
            # No longer than its turn: llama-server has a thread for each connection, not for more.
            clients = [Kept(way.connect) for _ in range(at_once)]
            await asyncio.gather(*(client.ask(message) for client in clients))
            before_s, started_s = cpu_s(way.pid) if way.pid else 0.0, time.perf_counter()
            await asyncio.gather(*map(work, clients))
            wall_s = time.perf_counter() - started_s
            count = requests // at_once * at_once
            if number >= 0:
                found[way.name].per_second.append(count / wall_s)
                if way.pid:
                    found[way.name].cpu_s.append((cpu_s(way.pid) - before_s) / count)
            for client in clients:
                client.close()
    return found


def base_of(names: Iterable[str], over: Over) -> dict[str, str]:
    """What each way is compared with; itself, where it is compared with none."""
    straight, *_ = known = list(names)
    return {name: name if name in over.values() else over.get(name, straight) for name in known}


def firsts_table(taken: Mapping[str, list[Times]], over: Over = NONE) -> str:
    bases = base_of(taken, over)
    rows = []
    for name, times in taken.items():
        row = [name]
        for key in ("first_byte_s", "first_event_s"):
            own, base = ([getattr(each, key) for each in of] for of in (times, taken[bases[name]]))
            added = more_text(own, base, 1000, 3) if name != bases[name] else ""
            row += [figure(own).text(1000, 2), added]
        rows.append(row)
    head = ("one request at a time", "first byte, ms", "added, ms", "first event, ms", "added, ms")
    return table(head, rows)


def rates_table(found: Mapping[int, Mapping[str, Rates]], over: Over = NONE) -> str:
    rows = []
    for streams, ways in found.items():
        bases = base_of(ways, over)
        for name, rated in ways.items():
            base = ways[bases[name]]
            kept = times_text(rated.tokens, base.tokens) if name != bases[name] else ""
            later = more_text(rated.first_event_s, base.first_event_s, 1000, 1)
            first = figure(rated.first_event_s).text(1000, 1)
            rows.append(
                [
                    str(streams),
                    name,
                    figure(rated.tokens).text(),
                    kept,
                    first,
                    later if kept else "",
                ]
            )
    return table(("streams", "", "tokens/s", "ratio", "first event, ms", "added, ms"), rows)


def shorts_table(found: Mapping[int, Mapping[str, Shorts]], over: Over = NONE) -> str:
    rows = []
    for at_once, ways in found.items():
        bases = base_of(ways, over)
        for name, seen in ways.items():
            base = ways[bases[name]].per_second
            kept = times_text(seen.per_second, base) if name != bases[name] else ""
            own = spread(seen.cpu_s, 1000, 3) if seen.cpu_s else ""
            rows.append([str(at_once), name, figure(seen.per_second).text(), kept, own])
    return table(("at once", "", "requests a second", "ratio", "processor time of each, ms"), rows)


def compared(now: list[Times], before: list[Times]) -> str:
    """What a change did to the first event, pair by pair, and how sure that is."""
    ours, theirs = ([each.first_event_s for each in times] for times in (now, before))
    return (
        f"Against the proxy before, the first event comes later by ms: "
        f"{more_text(ours, theirs, 1000, 3)}; ratio: {times_text(ours, theirs)}."
    )


def median_added_s(slow: list[Times], fast: list[Times]) -> float:
    """Neighbours in time are compared, so that what slows the machine for a while is in both."""
    pairs = zip(slow, fast, strict=True)
    return figure([a.first_event_s - b.first_event_s for a, b in pairs]).median


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=count(), default=300, help="requests each way, first byte")
    parser.add_argument("--rate-rounds", type=count(), default=7, help="rounds each way, tokens/s")
    parser.add_argument(
        "--short-rounds", type=count(), default=7, help="rounds each way, requests/s"
    )
    parser.add_argument("--requests", type=count(), default=320, help="short ones of each round")
    parser.add_argument("--streams", type=count(), nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--tokens", type=count(), default=96, help="tokens of each stream")
    parser.add_argument("--layers", type=count(), default=12, help="of the generated model")
    parser.add_argument("--model", type=model_file, help="another GGUF than the generated one")
    parser.add_argument("--json", type=result_file)
    parser.add_argument(
        "--check",
        action="store_true",
        help=f"fail above {MOST_ADDED_S * 1000} ms more than the relay, below {LEAST_RATE} of the "
        "tokens/s of any number of streams",
    )
    parser.add_argument(
        "--before", type=checkout, metavar="CHECKOUT", help="another checkout, to compare with"
    )
    parser.add_argument(
        "--llama-swap", type=program, metavar="PROGRAM", help="its program, where it was built"
    )
    options = parsed(parser)
    path = options.model or model(layers=options.layers)
    slots = max(*options.streams, *AT_ONCE)
    async with contextlib.AsyncExitStack() as stack:
        here = served(path, slots, Path.cwd(), "proxy, connection kept")
        straight, through = await stack.enter_async_context(here)
        bare = await stack.enter_async_context(relayed(straight.path or ""))
        nginx = await stack.enter_async_context(through_nginx(straight.path or ""))
        ways = [straight, through, bare, *([nginx] if nginx else [])]
        if options.before:
            old = served(path, slots, options.before.resolve(), BEFORE)
            ways.append((await stack.enter_async_context(old))[1])
        swap = through_llama_swap(options.llama_swap, path, slots, THREADS)
        if (found := await stack.enter_async_context(swap)) is not None:
            ways += found
        over = {way.name: way.over for way in ways if way.over}
        taken = await firsts(ways, options.rounds)
        rate_rounds, short_rounds = options.rate_rounds, options.short_rounds
        rated = {n: await rates(ways, rate_rounds, n, options.tokens) for n in options.streams}
        short = {n: await shorts(ways, short_rounds, n, options.requests) for n in AT_ONCE}
    parts = [
        "What a process between client and worker adds, pair by pair.",
        firsts_table(taken, over),
        f"Streams of {options.tokens} tokens at once.",
        rates_table(rated, over),
        "Short requests, one token each, on connections that are kept.",
        shorts_table(short, over),
    ]
    if nginx is None:
        parts.append("nginx is not installed here, so that side is left out.")
    if options.before:
        parts.append(compared(taken[through.name], taken[BEFORE]))
    tell({"firsts": taken, "streams": rated, "shorts": short}, *parts, file=options.json)
    # The head waits for the first event, so that is what a client waits for.
    added_s, floor_s = (
        median_added_s(taken[way.name], taken[straight.name]) for way in (through, bare)
    )
    pairs = [(of[through.name].tokens, of[straight.name].tokens) for of in rated.values()]
    kept = min(
        figure([a / b for a, b in zip(ours, theirs, strict=True)]).median for ours, theirs in pairs
    )
    missed = added_s - floor_s > MOST_ADDED_S or kept < LEAST_RATE
    return int(options.check and missed)


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
