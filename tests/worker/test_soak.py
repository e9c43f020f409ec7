"""Random placements while eight clients are served: nothing fails, nothing grows."""

import asyncio
import random
from pathlib import Path

import pytest

from proxy.engine.hosted import HostedEngine
from proxy.engine.types import CPU
from tests.support.guard import HANG_S
from tests.support.llama import Client
from tests.support.models import model
from tests.worker.conftest import Hosted

pytestmark = pytest.mark.llama

CLIENTS = 8
# What a heap may still grow by, after it has seen every size: fragments, not layers. One layer has
# 1.5 MB here, and leaking one a placement would be 60 MB in half of the short run.
SLACK_BYTES = 24 << 20


def resident_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


async def sizes(engine: HostedEngine, device: int) -> tuple[int, int]:
    """Anonymous memory of worker and device, with all experts on the CPU and no compute going
    on."""
    layers = [layer.index for layer in engine.known().layers]
    await engine.place(dict.fromkeys(layers, CPU), settle_s=HANG_S)
    assert engine.pid is not None
    return resident_bytes(engine.pid), resident_bytes(device)


async def test_random_placements_under_load(hosted: Hosted, thorough: bool) -> None:
    placements = 1000 if thorough else 80
    async with (
        hosted(model(), parallel=CLIENTS, ctx=512) as engine,
        Client(engine.address) as client,
    ):
        expected = await client.text("hello", 32)
        layers = [layer.index for layer in engine.known().layers]
        answered = 0
        stop = asyncio.Event()

        async def ask(number: int) -> None:
            nonlocal answered
            while not stop.is_set():
                answer = await client.complete(f"client {number} says", 24)
                assert answer["tokens_predicted"] == 24
                answered += 1

        pick = random.Random(1)
        seen: list[tuple[int, int]] = []
        clients = [asyncio.ensure_future(ask(i)) for i in range(CLIENTS)]
        try:
            for number in range(1, placements + 1):
                chosen = pick.sample(layers, pick.randint(1, len(layers)))
                move = await engine.place({i: pick.choice((CPU, "RPC0")) for i in chosen})
                assert move.short_of_memory is None
                if number in (placements // 2, placements):
                    seen.append(await sizes(engine, engine_device(engine)))
                failed = [task.exception() for task in clients if task.done()]
                assert not failed, failed
        finally:
            stop.set()
            await asyncio.gather(*clients, return_exceptions=True)
        text = await client.text("hello", 32)

    (worker_half, device_half), (worker_end, device_end) = seen
    assert worker_end - worker_half < SLACK_BYTES
    assert device_end - device_half < SLACK_BYTES
    assert answered > CLIENTS
    assert text == expected


def engine_device(engine: HostedEngine) -> int:
    """The process id of the RPC server that this worker was given, found by its port."""
    argv = engine._child.argv
    port = argv[argv.index("--rpc") + 1].rpartition(":")[2]
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"-p" in words and words[words.index(b"-p") + 1] == port.encode():
                return int(entry.name)
    raise AssertionError("no such RPC server")
