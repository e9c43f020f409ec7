"""What a model lacks on this machine, which a fleet would lend."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from proxy.control.room import Room
from proxy.engine.types import FLEET, Device, LoadOptions
from proxy.memory.ledger import Ledger
from proxy.memory.watch import MemoryWatch
from proxy.policy.load import load
from proxy.tasks import spawn
from tests.support.models import model

MIB = 1 << 20
GIB = 1 << 30


class Fleet:
    """Offers a node to whoever has such a policy."""

    def offered(self, rpc: Sequence[str]) -> Mapping[str, int]:
        return {"RPC-0": 3 * GIB} if FLEET in rpc else {}

    async def look(self, options: LoadOptions) -> None:
        pass


async def test_what_is_missing_and_what_there_is(tmp_path: Path) -> None:
    loaded = load(None, {"HOME": str(tmp_path)}).policies
    assert loaded is not None
    watch = MemoryWatch(setting=lambda _: "ggml", patience_s=20)
    room = Room(watch, Ledger(), lambda: loaded, Fleet())
    options = LoadOptions("m", model(), rpc=(FLEET,), ctx=512, parallel=1)
    size = model().stat().st_size

    running = spawn(watch.run(), name="watch")
    try:
        alone = await room.lacking(options)
        assert [each.name for each in room.on_devices(())] == []
        assert [each.size_bytes for each in room.on_devices((FLEET,))] == [3 * GIB - 512 * MIB]

        # Of one device all but the reserve is ours.
        watch.set_devices([Device("CUDA0", "a card", "gpu", GIB, 512 * MIB + 10 * MIB)])
        await watch.fresh()
        beside = await room.lacking(options)
        assert [each.name for each in room.on_devices((FLEET,))] == ["CUDA0", "RPC-0"]
        watch.set_devices([Device("CUDA0", "a card", "gpu", 8 * GIB, 8 * GIB)])
        await watch.fresh()
        with_room = await room.lacking(options)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running

    assert alone is not None
    assert 0.9 * size < alone[0] < 2 * size
    assert alone[1] == 512 * MIB
    assert beside == (alone[0] - 10 * MIB, 512 * MIB)
    assert with_room == (0, 512 * MIB)
    assert await room.lacking(LoadOptions("m", tmp_path / "nothing")) is None
