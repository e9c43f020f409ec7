"""The book against a device, with a real worker whose experts really move to it and back.

The device is a ggml-rpc-server; the stand-in of NVIDIA's driver shows its memory as a card's.
"""

import asyncio
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from proxy.engine.hosted import HostedEngine
from proxy.engine.log_buffer import LogBuffer
from proxy.engine.ports import free_port
from proxy.engine.types import CPU, LoadOptions
from proxy.memory.ledger import Ledger
from proxy.memory.watch import MemoryWatch
from tests.support.guard import HANG_S
from tests.support.llama import child, program
from tests.support.models import model
from tests.support.nvml import RETURNS_MEMORY, StandInCard, StandInNvml

pytestmark = pytest.mark.llama
MIB = 1 << 20
DEVICE = "RPC0"


@pytest.mark.parametrize("by_process", [True, False], ids=["by process", "sums only"])
async def test_the_book_agrees_with_a_device_while_experts_move(
    tmp_path: Path, by_process: bool
) -> None:
    port = free_port()
    driver = StandInNvml(tmp_path, StandInCard(total=512 * MIB, others=100 * MIB))
    rpc_server = (program("ggml-rpc-server"), "-H", "127.0.0.1", "-p", str(port), "-t", "2")
    options = LoadOptions(
        model="test",
        path=await asyncio.to_thread(model, sizes={"experts": 32}),
        ctx=512,
        parallel=1,
        rpc=(f"127.0.0.1:{port}",),
        threads=2,
    )
    async with asyncio.timeout(HANG_S), child("env", RETURNS_MEMORY, *rpc_server) as rpc:
        await listening(port)
        with driver.loaded(), tempfile.TemporaryDirectory(prefix="moe-") as folder:
            engine = HostedEngine("b1", options, runtime_dir=Path(folder), log_buffer=LogBuffer())
            watch = MemoryWatch(setting=lambda _: "nvml:GPU-0", poll_s=0.05)
            polling = asyncio.create_task(watch.run())
            try:
                await engine.start()
                assert engine.pid is not None
                shown_as = engine.pid if by_process else 1
                driver.process(shown_as, follows=rpc.pid)
                watch.set_devices(await engine.devices())
                watch.set_pids([engine.pid])
                await follow(engine, watch)
            finally:
                polling.cancel()
                with suppress(asyncio.CancelledError):
                    await polling
                await engine.stop()


async def follow(engine: HostedEngine, watch: MemoryWatch) -> None:
    ledger, layers = Ledger(), engine.known().layers
    size = sum(layer.experts_bytes for layer in layers)
    ledger.observe((await watch.fresh()).devices.values())
    ledger.record("b1", engine.known().held, at_s=0.0)
    # Where the driver does not tell processes apart, the RPC server's own memory is others'.
    first, others = ledger.free(DEVICE), ledger.others(DEVICE)
    assert first is not None
    assert others is not None

    for device, change in ((DEVICE, -size), (CPU, size)):
        before, began = ledger.free(DEVICE), watch.latest().at_s
        assert before is not None
        await engine.place({layer.index: device for layer in layers})
        ledger.record("b1", engine.known().held, at_s=began)
        # An RPC server gets its weights, and frees its buffers, after the worker has said so, one
        # by one: for a while the book may promise less, which `shown` allows, but not more.
        agrees = pytest.approx(change, abs=0.15 * size)
        promised = await shown(ledger, watch)
        while not ledger.settled(DEVICE) or promised - before != agrees:
            promised = await shown(ledger, watch)

        assert ledger.others(DEVICE) == pytest.approx(others, abs=0.15 * size)


async def shown(ledger: Ledger, watch: MemoryWatch) -> int:
    reading = (await watch.fresh()).devices[DEVICE]
    ledger.observe([reading])
    promised = ledger.free(DEVICE)
    assert promised is not None
    assert reading.free_bytes is not None
    assert promised <= reading.free_bytes
    return promised


async def listening(port: int) -> None:
    while True:
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(0.05)
