"""The command `bench`: checks that nobody else holds the devices, measures, shows."""

import asyncio
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from proxy.bench.curve import Curve, best_split, chart, floor_of
from proxy.bench.measure import Question, measure
from proxy.bench.plot import PlotError, need_matplotlib, plot
from proxy.client import Client, ClientError
from proxy.errors import ProxyError
from proxy.observe.log import setup
from proxy.startup import StartupError


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
        curve, stored = asyncio.run(measure(question, _say))
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
    return asdict(curve) | {"best": best_split(curve.points), "floor": floor_of(curve.points)}


def in_text(curve: Curve) -> str:
    sizes = f"{curve.prompt_tokens} tokens read, {curve.generated_tokens} generated"
    title = f"{curve.model} on {', '.join(curve.devices)} ({sizes}, medians of {curve.rounds})"
    return f"{title}\n\n{chart(curve)}"


def _nobody_else(client: Client) -> None:
    """A model that answers meanwhile would be measured too, and would be slowed down."""
    try:
        backends = client.get("/admin/state")["backends"]
    except (ClientError, KeyError, TypeError):
        return
    if backends:
        models = sorted({backend["model"] for backend in backends})
        raise BenchError(
            f"the proxy at {client.url} has {', '.join(models)} loaded: first run "
            + " and ".join(f"moe-proxy unload {model}" for model in models)
        )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - the command's own words
