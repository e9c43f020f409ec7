"""The command `bench`: checks that nobody else holds the devices, measures, shows."""

import asyncio
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from proxy.bench.measure import Question, measure
from proxy.bench.plot import PlotError, need_matplotlib, plot
from proxy.cli.bars import painted
from proxy.cli.client import Client, ClientError
from proxy.cli.progress import Steps
from proxy.control.speed_curve import NOISE, Curve, best_share, best_split, floor_of
from proxy.errors import ProxyError
from proxy.observe.log import setup
from proxy.startup import StartupError
from proxy.text import gib, table

BAR: Final = 32
BEST: Final = "\033[32m"


class BenchError(Exception):
    """Why nothing was measured, for people."""


def bench(question: Question, client: Client, *, picture: Path | None = None) -> Curve:
    """Measure, store, draw; progress goes to standard error. `client`: a proxy that may be running.

    Raises BenchError.
    """
    setup("console", "error")
    _nobody_else(client)
    try:
        if picture is not None:
            need_matplotlib()
        steps = Steps()
        curve, stored = asyncio.run(measure(question, steps.say, steps.step))
        if picture is not None:
            plot(curve, picture)
    except ProxyError as error:
        raise BenchError(error.message) from error
    except (StartupError, PlotError, OSError) as error:
        raise BenchError(str(error)) from error
    _say(f"stored in {stored}")
    return curve


def in_json(curve: Curve) -> dict[str, Any]:
    """The curve with what follows from it."""
    return asdict(curve) | {
        "best": best_split(curve.points),
        "floor": floor_of(curve.points),
        "cache_share": best_share(curve),
    }


def in_text(curve: Curve, *, colours: bool = False) -> str:
    sizes = f"{curve.prompt_tokens} tokens read, {curve.generated_tokens} generated"
    title = f"{curve.model} on {', '.join(curve.devices)} ({sizes}, medians of {curve.rounds})"
    caches = f"\n\n{_caches(curve)}" if curve.caches else ""
    return f"{title}\n\n{chart(curve, colours=colours)}{caches}"


def chart(curve: Curve, *, colours: bool = False) -> str:
    """The curve for a terminal: a row and a bar for each split, and what follows. The best one's
    bar is green."""
    best = best_split(curve.points)
    top = max((point.generation for point in curve.points), default=0.0) or 1.0
    rows = [
        [
            point.moe_cpu_layers,
            f"{point.generation:.1f}",
            f"±{point.spread * 50:.0f} %",
            f"{point.prompt:.1f}",
            painted(
                "█" * max(round(point.generation / top * BAR), 1),
                BEST,
                colours=colours and point.moe_cpu_layers == best,
            ),
        ]
        for point in curve.points
    ]
    drawn = table(["N", "GENERATION TOK/S", "", "PROMPT TOK/S", ""], rows)
    return f"{drawn}\n\n{_in_words(curve)}"


def _caches(curve: Curve) -> str:
    rows = [
        [
            gib(point.cache_bytes),
            curve.block_count - point.cached_layers,
            f"{point.generation:.1f}",
            f"±{point.spread * 50:.0f} %",
            f"{point.prompt:.1f}",
        ]
        for point in curve.caches
    ]
    drawn = table(
        ["EXPERT CACHE", "WHOLE LAYERS", "GENERATION TOK/S", "", "PROMPT TOK/S"],
        rows,
    )
    share = best_share(curve)
    if not share:
        words = 'no expert cache is faster, so moe_cache = "auto" is none'
    else:
        room = "all of" if share == 1 else f"{share * 100:.0f} % of"
        words = (
            f'faster with an expert cache: moe_cache = "auto" gives it {room} the experts\' room'
        )
    return f"{drawn}\n\n{words}"


def _in_words(curve: Curve) -> str:
    best, floor = best_split(curve.points), floor_of(curve.points)
    if best is None:
        return "nothing was measured"
    if floor is None:
        return f"best: moe_cpu_layers = {best}; auto keeps as many experts on the device as fit"
    return (
        f"best: moe_cpu_layers = {best}; more experts on the device are not faster by more than "
        f"{NOISE * 100:.0f} %, so auto stops there"
    )


def _nobody_else(client: Client) -> None:
    """A model that answers meanwhile would be measured too, and would be slowed down."""
    try:
        backends = client.get("/admin/state")["backends"]
    except (ClientError, KeyError, TypeError):
        return
    # One that failed is listed, and computes nothing.
    if models := sorted({b["model"] for b in backends if b["state"] != "gone"}):
        raise BenchError(
            f"the proxy at {client.url} has {', '.join(models)} loaded: first run "
            + " and ".join(f"moe-proxy unload {model}" for model in models)
        )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - the command's own words
