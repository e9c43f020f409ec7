"""The machine's own memory: what is said before a model is mapped that RAM cannot hold, and while
memory is short."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.control.host_pressure import HostPressure
from proxy.engine.types import LoadOptions
from proxy.memory.readings import HostReading
from proxy.memory.watch import MemoryWatch
from proxy.observe.events import EventLog
from proxy.placement.budget import Budget
from proxy.pool.state import Backend
from proxy.split import AUTO, Layers, Split
from tests.support.models import model

GIB, MIB = 1 << 30, 1 << 20


class Rig:
    """A machine whose memory the test decides, and a watch that reads it."""

    def __init__(self) -> None:
        self.host = HostReading(available_bytes=8 * GIB, pressure=0.0)
        self.split: Split = AUTO
        self.budgets: Sequence[Budget] = [Budget("CUDA0", 8 * GIB)]
        self.watch = MemoryWatch(host=lambda: self.host, patience_s=20)
        self.events = EventLog()
        self.memory = HostPressure(
            memory=self.watch,
            events=self.events,
            split_of=lambda _: self.split,
            capacity=lambda _: self.budgets,
        )
        self.watch.subscribe(self.memory.look)

    async def check(self, **options: Any) -> Backend:
        backend = Backend("b1", replace(LoadOptions("m", model(), ctx=512), **options))
        await self.watch.fresh()
        await self.memory.check(backend)
        return backend

    def told(self, kind: str) -> list[dict[str, Any]]:
        return [dict(event.fields) for event in self.events.since(0) if event.kind == kind]


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    task = asyncio.create_task(rig.watch.run())
    yield rig
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_a_model_that_ram_cannot_hold_is_told_with_the_numbers(rig: Rig) -> None:
    rig.split = -1
    rig.host = replace(rig.host, available_bytes=5 * MIB)

    backend = await rig.check()

    (event,) = rig.told("host_memory_short")
    assert (event["backend"], event["model"], event["available_bytes"]) == ("b1", "m", 5 * MIB)
    assert 5 * MIB < event["cpu_bytes"] < model().stat().st_size
    assert backend.warnings == (event["message"],)
    assert "5 MiB of RAM are available: it will read from disk" in event["message"]
    assert event["message"].endswith("for every token")


async def test_only_what_stays_on_the_cpu_counts(rig: Rig) -> None:
    rig.split = -1
    rig.host = replace(rig.host, available_bytes=0)
    await rig.check()
    rig.split = Layers(((1, 1), (7, 8)))
    await rig.check()
    rig.split = AUTO
    await rig.check()

    # What an expert cache has stays on the CPU whatever else does.
    await rig.check(cache_mib=8, cached_layers=6)

    every, three, none, cached = (e["cpu_bytes"] for e in rig.told("host_memory_short"))
    embeddings = none
    assert cached - embeddings == (every - embeddings) // 2
    assert three - embeddings == (every - embeddings) * 3 // 12


async def test_of_a_model_without_experts_counts_what_is_left_on_the_cpu(rig: Rig) -> None:
    rig.host = replace(rig.host, available_bytes=0)
    options = {"path": model("qwen3", layers=6), "dense": True}
    for rig.split in (-1, 3, 0):
        await rig.check(**options)

    every, half, embeddings = (event["cpu_bytes"] for event in rig.told("host_memory_short"))
    assert half - embeddings == (every - embeddings) // 2 > 0


async def test_before_any_device_is_known_it_says_so(rig: Rig) -> None:
    rig.budgets = []
    rig.host = replace(rig.host, available_bytes=5 * MIB)

    assert "none is known yet" in (await rig.check()).warnings[0]


@pytest.mark.parametrize("available", [8 * GIB, None])
async def test_nothing_is_said_where_it_fits_or_nothing_is_known(
    rig: Rig, available: int | None
) -> None:
    rig.split = -1
    rig.host = replace(rig.host, available_bytes=available)

    assert (await rig.check()).warnings == ()
    assert not rig.told("host_memory_short")


async def test_what_cannot_be_judged_is_loaded_all_the_same(rig: Rig, tmp_path: Path) -> None:
    rig.host = replace(rig.host, available_bytes=0)

    assert (await rig.check(path=tmp_path / "missing.gguf")).warnings == ()
    assert (await rig.check(engine="command")).warnings == ()


async def test_pressure_is_told_once(rig: Rig) -> None:
    await rig.watch.fresh()
    assert not rig.told("host_pressure")
    rig.host = replace(rig.host, pressure=0.4)
    for _ in range(3):
        await rig.watch.fresh()

    (event,) = rig.told("host_pressure")
    assert (event["pressure"], event["available_bytes"]) == (0.4, 8 * GIB)
    assert "40%" in event["message"]
