"""The first token of a model that is not loaded: from the request, through a proxy that runs, and
from the start of a plain llama-server that is asked as soon as it is ready.

    python -m bench.cold [--size small|large|huge|MODEL.gguf ...] [--rounds 15]
    python -m bench.cold --device --size huge      all of it on an RPC device in the end
    python -m bench.cold --uncached --long         with a file that is on the disk only

The sides take turns within one run; times are in milliseconds, with the middle half of them in
brackets, ratios are of pairs. `--json FILE` has every single time. `--check` fails where a ratio is
above what is wanted.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench._cold_sides import Plain, Side, Times, drop_from_memory, proxied, rpc_device
from bench._options import count, model_size, parsed, result_file
from bench._report import circumstances, figure, ratio, ratio_text, table, write
from proxy.catalog.parts import parts_of
from tests.support.models import model

# The proxy's time to that of plain llama-server.
WANTED = {"small": 1.2, "large": 1.0}
SIZES: dict[str, dict[str, Any]] = {
    "small": {"layers": 4},
    "large": {"layers": 16, "sizes": {"width": 512, "expert_width": 512, "experts": 32}},
    "huge": {"layers": 30, "sizes": {"width": 1024, "expert_width": 512, "experts": 64}},
}
PLAIN, OURS = "llama-server", "moe-proxy"
SHORT = "hi"
LONG = " ".join(["the old story of the hill and the water"] * 220)  # some 2,000 tokens


def path_of(size: str) -> Path:
    return model(**SIZES[size]) if size in SIZES else Path(size).resolve()


def turns(
    sides: Sequence[Side], rounds: int, prompt: str, drop: Path | None
) -> dict[str, list[Times]]:
    """What each side takes, one value for each round, the first not counted."""
    seen: dict[str, list[Times]] = {side.name: [] for side in sides}
    for number in range(rounds + 1):
        # Who goes first takes turns too.
        for side in sides if number % 2 else reversed(sides):
            side.rest()
            if drop is not None:
                drop_from_memory(parts_of(drop))
            times = side.cold(prompt)
            if number:
                seen[side.name].append(times)
    return seen


def measure(path: Path, options: argparse.Namespace) -> dict[str, list[Times]]:
    """First tokens of all sides."""
    prompt, threads = LONG if options.long else SHORT, options.threads
    with contextlib.ExitStack() as stack:
        on_device: tuple[str, ...] = ()
        devices: dict[str, Any] = {}
        if options.device:
            # Such a device has one client at a time.
            mine, other = (stack.enter_context(rpc_device(threads)) for _ in range(2))
            on_device, devices = ("--rpc", mine, "-ngl", "999"), {"rpc": [other]}
        sides: list[Side] = [Plain(PLAIN, path, threads, on_device)]
        if options.uncached:
            sides += [
                Plain(
                    f"{PLAIN} --load-mode none", path, threads, (*on_device, "--load-mode", "none")
                ),
                Plain(f"{PLAIN}, file read ahead", path, threads, on_device, read_ahead=True),
            ]
        for name, count in ((OURS, 1), (f"{OURS}, warm_workers = 0", 0)):
            server = {"warm_workers": count}
            sides.append(
                stack.enter_context(
                    proxied(name, path, threads=threads, server=server, devices=devices)
                )
            )
        return turns(sides, options.rounds, prompt, path if options.uncached else None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=count(), default=15)
    parser.add_argument("--size", type=model_size(SIZES), nargs="+", default=["small", "large"])
    parser.add_argument("--threads", type=count(), default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--device", action="store_true", help="an RPC device takes all of it")
    parser.add_argument("--uncached", action="store_true", help="the file's pages are dropped")
    parser.add_argument("--long", action="store_true", help="a prompt of 2,000 tokens")
    parser.add_argument("--json", type=result_file)
    parser.add_argument("--check", action="store_true")
    options = parsed(parser)
    results, rows, failed = {}, [], False
    for size in options.size:
        path = path_of(size)
        seen = results[size] = measure(path, options)
        first = {name: [each.first_token_s for each in times] for name, times in seen.items()}
        megabytes = f"{sum(part.stat().st_size for part in parts_of(path)) / 1e6:.0f} MB"
        for name, taken in first.items():
            compared = None if name == PLAIN else ratio(taken, first[PLAIN])
            words = "" if name == PLAIN else ratio_text(compared)
            rows.append([megabytes, name, figure(taken).text(1000), words])
            wanted = WANTED.get(size)
            if name == OURS and wanted is not None and compared is not None:
                failed |= compared.median > wanted
    print(", ".join(f"{key}: {value}" for key, value in circumstances().items()))
    print(table(["model", "side", "first token, ms", f"to {PLAIN}'s"], rows))
    if options.json:
        write(options.json, {"cold": results})
    return int(options.check and failed)


if __name__ == "__main__":
    sys.exit(main())
