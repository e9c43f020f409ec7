"""The step `moves`: same text as plain llama-server, memory returned, gap between tokens."""

import asyncio
import itertools
import json
import statistics
import time
from functools import partial
from typing import Any

from bench.gpu.bigmodel import path_of
from bench.gpu.rig import Rig, rig, still
from bench.gpu.texts import PROMPT, Said, compared, twice
from bench.gpu.work import Results, Settings, StepFailed
from proxy.engine.types import Layer
from proxy.pool.state import Backend
from tests.support.llama import Client
from tests.support.proxy import Proxy

STREAMED = 400
UNDER_WAY = 10  # tokens
# A cell loads the model four times, and repacks it; none is begun with less time left.
CELL_S, BYTES_A_SECOND = 30.0, 2e8


async def moves(settings: Settings, results: Results) -> None:
    """At the smallest and the largest cap: what each cell says is in Results."""
    for cap in sorted({settings.caps[0], settings.caps[-1]}):
        key = f"moves/{cap}"
        if key in results.cells:
            continue
        size = path_of(settings).stat().st_size
        settings.need(CELL_S + size / BYTES_A_SECOND, key)
        async with rig(settings, cap) as machine:
            await results.once(key, partial(_moves, machine))
        print(f"  {key}: {results.cells[key]}", flush=True)


async def _moves(machine: Rig) -> dict[str, Any]:
    async with machine.proxy() as (running, backend):
        layers = backend.engine.known().block_count
        lowest = await _go(running, backend, 0)
        texts, used = {}, {}
        async with Client(backend.engine.address) as client:
            for asked in sorted({lowest, (lowest + layers) // 2, layers}, reverse=True):
                await _go(running, backend, asked)
                split, said = await _said_at(backend, client)
                texts[split] = said
                used[split] = await machine.used_bytes()
        splits = list(texts)
        await _go(running, backend, layers)
        after = await _released(machine)
        gaps = await _gaps_while_moving(running, lowest, layers)
        moved = [layer for layer in backend.engine.known().layers if layer.index >= splits[-1]]
        history = running.app.services.desired.history(backend)
        confined = backend.engine.confined
    return {
        "confined": confined,
        "splits": splits,
        "texts": {split: await _beside_plain(machine, split, *texts[split]) for split in splits},
        "experts_moved_bytes": _size(moved),
        "used_with_experts_bytes": used[splits[-1]],
        "used_without_bytes": used[layers],
        "used_after_bytes": after,
        "longest_gate_s": max((move["gate_s"] for move in history), default=0.0),
        "staged_s": max((move["staged_s"] for move in history), default=0.0),
        **gaps,
    }


async def _said_at(backend: Backend, client: Client) -> tuple[int, tuple[list[Said], bool]]:
    """The split, and what was said with it. Where memory is short, the first prompt's own needs
    send layers back."""
    for _ in range(5):
        split = await still(backend)
        said = await twice(client)
        if await still(backend) == split:
            return split, said
    raise StepFailed("layers move to and fro while it is asked")


async def _beside_plain(
    machine: Rig, split: int, ours: list[Said], repeated: bool
) -> dict[str, Any]:
    """Plain llama-server with the same split; and where it says something else, what a worker says
    that was loaded with this split, and moved nothing."""
    arguments = ("--fit", "off", "-ngl", "999", "--n-cpu-moe", str(split))
    async with machine.plain(*arguments) as address, Client(address) as client:
        plain, plain_repeated = await twice(client)
    result = compared(ours, plain) | {"repeated": repeated, "plain_repeated": plain_repeated}
    if not result["same"]:
        async with machine.proxy(moe_cpu_layers=split) as (_, backend):
            async with Client(backend.engine.address) as client:
                held, (fresh, _) = await _said_at(backend, client)
        result |= {"fresh": compared(fresh, plain), "fresh_split": held}
    return result


async def _released(machine: Rig) -> int:
    """The bytes in use, once they have not become fewer for a while."""
    used, since = await machine.used_bytes(), time.monotonic()
    while time.monotonic() - since < 1.5 * machine.settings.settle_s:
        await asyncio.sleep(0.2)
        if (now := await machine.used_bytes()) < used:
            used, since = now, time.monotonic()
    return used


def _size(layers: list[Layer]) -> int:
    return sum(layer.experts_bytes for layer in layers)


async def _go(running: Proxy, backend: Backend, split: int) -> int:
    await running.put(f"/admin/backends/{backend.id}/split", {"moe_cpu_layers": split})
    return await still(backend)


async def _gaps_while_moving(running: Proxy, lowest: int, layers: int) -> dict[str, Any]:
    """Stream one answer, and meanwhile move all there is to the device and back, once and again."""
    arrived: list[float] = []
    under_way = asyncio.Event()
    body = {"model": "m", "prompt": PROMPT, "max_tokens": STREAMED, "ignore_eos": True}

    async def stream() -> None:
        async with running.session.post("/v1/completions", json=body | {"stream": True}) as answer:
            async for line in answer.content:
                if line.startswith(b"data: {") and json.loads(line[6:]).get("choices"):
                    arrived.append(time.perf_counter())
                    if len(arrived) == UNDER_WAY:
                        under_way.set()
        under_way.set()

    async def move() -> None:
        for split in (lowest, layers) * 2:
            await running.put("/admin/backends/b1/split", {"moe_cpu_layers": split})
            await asyncio.sleep(0.2)

    streaming = asyncio.ensure_future(stream())
    await under_way.wait()
    await move()
    moved_within = not streaming.done()
    await streaming
    gaps = [later - earlier for earlier, later in itertools.pairwise(arrived)]
    return {
        "tokens_streamed": len(arrived),
        "moves_ended_within_the_answer": moved_within,
        "usual_gap_s": round(statistics.median(gaps), 5) if gaps else None,
        "longest_gap_s": round(max(gaps), 5) if gaps else None,
    }
