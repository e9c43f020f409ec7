"""Our side of a worker: what its start leaves and finds, and why it fails."""

import asyncio
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.engine import hosted as module
from proxy.engine.hosted import HostedEngine
from proxy.engine.log_buffer import LogBuffer
from proxy.engine.types import CPU, LoadOptions
from proxy.errors import BackendDied, Conflict, LoadFailed
from tests.support.hosted import hosted as served
from tests.support.llama import rpc_server
from tests.support.models import model

pytestmark = pytest.mark.llama


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="moe-") as name:
        yield Path(name)


def hosted(folder: Path, path: Path) -> HostedEngine:
    options = LoadOptions(model="m", path=path, ctx=512, parallel=1, threads=1)
    return HostedEngine("b1", options, runtime_dir=folder, log_buffer=LogBuffer())


async def test_a_file_that_is_not_there_is_told_without_a_worker(folder: Path) -> None:
    engine = hosted(folder, folder / "no.gguf")

    with pytest.raises(LoadFailed, match=rf"'m' .* does not exist: {folder}/no.gguf .*models\."):
        await engine.start()

    assert engine.pid is None


async def test_the_reason_is_in_its_own_words(folder: Path) -> None:
    bad = folder / "bad.gguf"
    bad.write_bytes(b"GGUF" + bytes(100))
    engine = hosted(folder, bad)

    with pytest.raises(LoadFailed, match=r"(?s)ended while loading .*failed to load") as error:
        await engine.start()

    assert not error.value.killed


async def test_one_that_is_killed_while_it_loads_may_be_tried_again(folder: Path) -> None:
    engine = hosted(folder, model(layers=4))
    start = asyncio.ensure_future(engine.start())
    while engine.pid is None:
        await asyncio.sleep(0.001)
    os.kill(engine.pid, signal.SIGKILL)

    with pytest.raises(LoadFailed) as error:
        await start

    assert error.value.killed


async def test_what_an_earlier_worker_left_is_not_in_the_way(folder: Path) -> None:
    for ending in ("sock", "control"):
        (folder / f"b1.{ending}").write_text("left behind")
    engine = hosted(folder, model(layers=4))

    await engine.start()

    assert engine.known().block_count == 4
    await engine.stop()


async def test_a_device_of_another_worker_is_not_taken_for_an_own_one(folder: Path) -> None:
    """Of three RPC servers it has the last two, which are RPC0 and RPC1 to itself."""
    async with rpc_server() as second, rpc_server() as third:
        options = LoadOptions(
            model="m",
            path=model(layers=4),
            ctx=512,
            parallel=1,
            threads=1,
            rpc=(second, third),
            no_attention=("RPC0",),
        )
        names = {"RPC0": "RPC1", "RPC1": "RPC2"}
        engine = HostedEngine(
            "b1", options, runtime_dir=folder, log_buffer=LogBuffer(), names=names
        )
        try:
            await engine.start()
            assert {layer.attention_device for layer in engine.known().layers} == {"RPC1", "RPC2"}

            with pytest.raises(Conflict, match="no device 'RPC0'"):
                await engine.place({3: "RPC0"})
            await engine.place({3: "RPC1"})
            with third.no_more_than(engine.known().layers[2].experts_bytes // 2):
                assert (await engine.place({2: "RPC2"})).short_of_memory == "RPC2"

            assert [layer.experts for layer in engine.known().layers] == [CPU, CPU, CPU, "RPC1"]
        finally:
            await engine.stop()


async def test_a_worker_that_has_stopped_is_not_waited_for_by_a_move(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with rpc_server() as rpc, served(model(layers=4), [rpc]) as engine:
        assert engine.pid is not None
        monkeypatch.setattr(module, "ALIVE_S", 0.1)
        os.kill(engine.pid, signal.SIGSTOP)
        try:
            with pytest.raises(BackendDied, match="does not answer"):
                await engine.place({3: "RPC0"})
        finally:
            os.kill(engine.pid, signal.SIGCONT)


async def test_a_move_lasts_as_long_as_its_worker_answers_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    async with rpc_server() as rpc, served(model(layers=4), [rpc]) as engine:
        pid = engine.pid
        assert pid is not None

        async def answers() -> None:
            asked.append(1)
            if len(asked) == 3:
                os.kill(pid, signal.SIGCONT)

        monkeypatch.setattr(module, "ALIVE_S", 0.05)
        monkeypatch.setattr(engine, "_check_alive", answers)
        os.kill(pid, signal.SIGSTOP)

        assert (await engine.place({3: "RPC0"})).layers == 1

    assert len(asked) >= 3
