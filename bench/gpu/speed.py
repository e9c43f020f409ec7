"""The step `speed`: the proxy against `llama-server --fit on` and whole-layer offload, at the same
cap, at an empty context and deep in one."""

import asyncio
import itertools
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from bench.gpu.bigmodel import path_of
from bench.gpu.rig import Rig, rig, still
from bench.gpu.work import Results, Settings, StepFailed
from proxy.catalog.gguf_reader import read_header
from proxy.engine.types import Address
from proxy.placement.estimate import Settings as LoadSettings
from proxy.placement.estimate import estimate
from tests.support.llama import Client

READ, GENERATED, ROUNDS = 512, 64, 3
WORDS = ("river", "mill", "stone", "letter", "engine", "garden", "silver", "window", "lantern")
# A CUDA context and its libraries' own memory, which no estimate of a model knows.
CONTEXT_BYTES = 700 << 20
# A cell loads the model once, and reads the deep prompt; none is begun with less time left.
CELL_S, BYTES_A_SECOND, TOKENS_A_SECOND = 30.0, 5e8, 300


async def speed(settings: Settings, results: Results) -> None:
    """Every cap with every way to place the model; what each cell says is in Results."""
    ways: dict[str, Callable[[Rig], Awaitable[dict[str, Any]]]] = {
        "moe-proxy": _by_proxy,
        "llama-server --fit on": _by_fit,
        "whole layers": _by_layers,
    }
    for cap, way in itertools.product(settings.caps, ways):
        key = f"speed/{cap}/{way}"
        if key in results.cells:
            continue
        settings.need(CELL_S + machine_s(settings), key)
        async with rig(settings, cap) as machine:
            await results.once(key, partial(ways[way], machine))
        print(f"  {key}: {results.cells[key]}", flush=True)


def machine_s(settings: Settings) -> float:
    """What loading and reading may take, in seconds."""
    size = path_of(settings).stat().st_size
    return size / BYTES_A_SECOND + settings.depth / TOKENS_A_SECOND


async def _by_proxy(machine: Rig) -> dict[str, Any]:
    async with machine.proxy() as (_, backend):
        split, since = await still(backend), time.monotonic()
        while time.monotonic() - since < 2 * machine.settings.settle_s:  # "auto" goes step by step
            await asyncio.sleep(0.2)
            if (now := await still(backend)) != split:
                split, since = now, time.monotonic()
        measured = await _measure(machine, backend.engine.address)
        return {"placement": f"N = {await still(backend)}"} | measured


async def _by_fit(machine: Rig) -> dict[str, Any]:
    target = str(machine.fit_target_mib())
    placement = await machine.fitted(target)
    async with machine.plain("--fit", "on", "--fit-target", target) as address:
        return {"placement": placement} | await _measure(machine, address)


async def _by_layers(machine: Rig) -> dict[str, Any]:
    """As many whole layers as fit; one less where loading says so."""
    most = await asyncio.to_thread(whole_layers, machine)
    for layers in range(most, max(most - 4, -1), -1):
        # The output counts as one more layer.
        ngl = str(layers + 1 if layers else 0)
        try:
            async with machine.plain("--fit", "off", "-ngl", ngl) as address:
                return {"placement": f"-ngl {ngl}"} | await _measure(machine, address)
        except StepFailed:
            continue
    return {"placement": "does not fit", "speeds": {}}


def whole_layers(machine: Rig) -> int:
    """How many of the last layers, experts and all, fit under the cap with their caches."""
    settings = machine.settings
    made = estimate(read_header(machine.model), LoadSettings(ctx=settings.ctx))
    room = machine.cap - settings.reserve - (0 if settings.cpu else CONTEXT_BYTES)
    count = 0
    for number in range(1, len(made.layers) + 1):
        last = range(len(made.layers) - number, len(made.layers))
        held = sum(made.layers[i].dense + made.layers[i].experts + made.layers[i].kv for i in last)
        if held + made.output_bytes + made.compute_bytes(list(last), ()) > room:
            break
        count = number
    return count


async def _measure(machine: Rig, address: Address) -> dict[str, Any]:
    """Medians of prompt and generation speed in tokens per second, and the memory in use."""
    depths = [0, machine.settings.depth] if machine.settings.depth else [0]
    speeds = {}
    async with Client(address) as client:
        tokens = await _tokens(client, machine.settings.depth + READ)
        await client.complete("warm up", 4)
        for depth in depths:
            seen = []
            if depth:
                await client.complete(tokens[:depth], 1, cache_prompt=True)  # type: ignore[arg-type]
            for number in range(ROUNDS):
                # Another end each time, or the cache would have all of it.
                end = tokens[depth + number : depth + READ] + tokens[:number]
                whole: Any = tokens[:depth] + end
                answer = await client.complete(whole, GENERATED, cache_prompt=bool(depth))
                timings = answer["timings"]
                seen.append((timings["prompt_per_second"], timings["predicted_per_second"]))
            read, generated = (statistics.median(s[i] for s in seen) for i in (0, 1))
            speeds[str(depth)] = {"prompt": round(read, 2), "generation": round(generated, 2)}
    return {"speeds": speeds, "used_bytes": await machine.used_bytes()}


async def _tokens(client: Client, count: int) -> list[int]:
    text = " ".join(random.Random(0).choices(WORDS, k=count))
    tokens: list[int] = (await client.post("/tokenize", {"content": text}))["tokens"]
    return tokens[:count]
