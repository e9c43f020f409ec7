"""Our side of a worker: what its start leaves and finds, and why it fails."""

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from proxy.engine.hosted import HostedEngine
from proxy.engine.log_buffer import LogBuffer
from proxy.engine.types import CPU, LoadOptions
from proxy.errors import BackendDied, Conflict, LoadFailed, NoAnswer
from tests.support.guard import HANG_S, until
from tests.support.llama import rpc_server
from tests.support.models import model

pytestmark = pytest.mark.llama
# Stands in for a worker whose devices change, which no device here does when a test wants it.
CHANGING = """
import json, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[sys.argv.index("--control") + 1])
listener.listen()
connection, _ = listener.accept()
lines = connection.makefile("rw")
def say(**message):
    print(json.dumps(message), file=lines, flush=True)
say(event="state", state="ready", live_moves=True)
for line in lines:
    asked = json.loads(line)
    if asked["op"] == "devices":
        looks = asked["look_every_s"] > 0
        say(id=asked["id"], ok=[])
    elif looks:
        say(event="devices")
    if asked["op"] == "memory":
        say(id=asked["id"], ok={"steps": 0})
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="moe-") as name:
        yield Path(name)


def hosted(folder: Path, path: Path, *, answer_s: float = HANG_S, **other: Any) -> HostedEngine:
    options = LoadOptions(model="m", path=path, ctx=512, parallel=1, threads=1, **other)
    return HostedEngine(
        "b1", options, runtime_dir=folder, log_buffer=LogBuffer(), answer_s=answer_s
    )


async def test_a_file_that_is_not_there_is_told_without_a_worker(folder: Path) -> None:
    engine = hosted(folder, folder / "no.gguf")

    with pytest.raises(LoadFailed, match=rf"'m' .* does not exist: {folder}/no.gguf .*models\."):
        await engine.start()

    assert engine.pid is None


async def test_what_a_worker_cannot_have_is_refused_before_it_is_started(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a policy, and by the file that it would read."""
    config = folder / "llama.cpp" / "config.ini"
    config.parent.mkdir()
    config.write_text("sleep-idle-seconds = 60\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    engine = hosted(folder, model(layers=4), args=("--jinja", "--api-prefix", "/llama", "--props"))

    with pytest.raises(LoadFailed) as error:
        await engine.start()

    assert engine.pid is None
    heading, *reasons = error.value.message.splitlines()
    assert heading == "model 'm' cannot be loaded:"
    assert [reason.partition(" ")[2].partition(":")[0].partition(" ")[0] for reason in reasons] == [
        *("--api-prefix", "--props", "sleep-idle-seconds")
    ]
    assert reasons[2].startswith(f"{config}: ")


async def test_a_backend_that_is_no_file_is_told_without_a_worker(folder: Path) -> None:
    """Of a pipe, its loader would wait for ever."""
    os.mkfifo(folder / "pipe.so")
    for backend, why in (("pipe.so", "is no regular file"), ("gone.so", "no such file")):
        engine = hosted(folder, model(layers=4), backends=(folder / backend,))

        with pytest.raises(
            LoadFailed, match=rf"the backend {folder}/{backend} is not used: .*{why}"
        ):
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
    (folder / "b1").mkdir()
    for name in ("server.sock", "control"):
        (folder / "b1" / name).write_text("left behind")
    engine = hosted(folder, model(layers=4))

    await engine.start()

    assert engine.known().block_count == 4
    await engine.stop()
    assert list(folder.iterdir()) == []


async def test_without_a_place_for_its_sockets_it_is_told_so(folder: Path) -> None:
    folder.rmdir()
    engine = hosted(folder, model(layers=4))

    with pytest.raises(LoadFailed, match="there is no folder for its sockets"):
        await engine.start()

    folder.mkdir()


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


async def test_a_worker_that_hangs_is_not_waited_for_without_end(folder: Path) -> None:
    async with rpc_server() as rpc:
        engine = hosted(folder, model(layers=4), rpc=(rpc,), answer_s=0.3)
        try:
            await engine.start()
            assert engine.pid is not None
            os.kill(engine.pid, signal.SIGSTOP)

            for asked in (engine.devices(), engine.memory(), engine.place({3: "RPC0"})):
                with pytest.raises(NoAnswer, match=r"has not answered '\w+' for 0\.3 s"):
                    await asked
        finally:
            await engine.stop(grace_s=0.0)


async def test_a_start_that_failed_does_not_wait_for_the_end_of_its_worker(folder: Path) -> None:
    """One that the kernel has never ends, and why it failed is known."""
    async with rpc_server() as rpc:
        os.kill(rpc.pid, signal.SIGSTOP)  # it loads until the test has seen it
        engine = hosted(folder, model(layers=4), rpc=(rpc,))
        start = asyncio.ensure_future(engine.start())
        await until(lambda: engine.pid is not None, "it is there")
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGSTOP)
        start.cancel()

        with pytest.raises(asyncio.CancelledError):
            await start

        assert Path(f"/proc/{engine.pid}/cwd").exists()
        await engine.stop(grace_s=0.0)
        assert not Path(f"/proc/{engine.pid}").exists()


async def test_a_move_ends_with_its_worker(folder: Path) -> None:
    """Its caller can tell that from a move that was made."""
    async with rpc_server() as rpc:
        engine = hosted(folder, model(layers=4), rpc=(rpc,))
        try:
            await engine.start()
            assert engine.pid is not None
            os.kill(rpc.pid, signal.SIGSTOP)  # the copy is on its way for ever
            move = asyncio.ensure_future(engine.place({3: "RPC0"}))
            assert (await engine.memory())["steps"] > 0  # the order before it has been read
            os.kill(engine.pid, signal.SIGKILL)

            with pytest.raises(BackendDied, match="ended"):
                await move
            with pytest.raises(BackendDied, match="not there"):
                await engine.place({3: "RPC0"})
        finally:
            os.kill(rpc.pid, signal.SIGCONT)
            await engine.stop()


async def test_that_devices_show_something_else_is_told_to_who_asked_last(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = folder / "worker.py"
    program.write_text(CHANGING)
    monkeypatch.setattr("proxy.engine.hosted.PROGRAM", (sys.executable, str(program)))
    engine = hosted(folder, model(layers=4))
    told: list[str] = []
    try:
        async with asyncio.timeout(HANG_S):
            await engine.start()
            for name in ("first", "second"):
                assert await engine.devices(partial(told.append, name)) == []
                await engine.memory()  # its answer comes after what is told
            await engine.devices()
            await engine.memory()

        assert told == ["first", "second"]
        assert engine.live_moves  # what was said of its state stays
    finally:
        await engine.stop(grace_s=0.0)
