"""Command engines: any program, and llama-server from the same build as the libraries."""

import asyncio
import os
import sys
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from proxy.engine.command import CommandEngine, fill_in, free_port
from proxy.engine.log_buffer import LogBuffer
from proxy.engine.types import LoadOptions, Status
from proxy.errors import Conflict, LoadFailed
from tests.support import models
from tests.support.commands import GATED, LLAMA_SERVER
from tests.support.guard import HANG_S

NOTHING_LISTENS = "import time; print('up', flush=True); time.sleep(600)"


def command(*argv: str, **changes: object) -> CommandEngine:
    options = LoadOptions("m", Path("no.gguf"), engine="command", command=argv)
    return CommandEngine("b1", replace(options, **changes), log_buffer=LogBuffer())  # type: ignore[arg-type]


def test_fill_in() -> None:
    """Placeholders are filled in wherever they stand; other braces, and what was filled in, stay as
    they are."""
    options = LoadOptions(
        "the name",
        Path("/models/{port}.gguf"),
        ctx=4096,
        parallel=2,
        split=7,
        command=(
            "srv",
            "--at=:{port}",
            "{model}",
            "{name}",
            "{ctx}x{parallel}",
            "{moe_cpu_layers}",
        ),
        args=('{"port": {}}', "{port}"),
    )

    assert fill_in(options, 80) == [
        *("srv", "--at=:80", "/models/{port}.gguf", "the name", "4096x2", "7"),
        *('{"port": {}}', "{port}"),
    ]


async def test_serves_and_ends() -> None:
    engine = command(*GATED)
    with pytest.raises(RuntimeError):
        _ = engine.address
    with pytest.raises(RuntimeError):
        await engine.wait_exit()
    await engine.stop()  # nothing was started

    await engine.start()

    async with aiohttp.ClientSession() as http, http.get(f"{engine.address.origin}/x") as answer:
        assert answer.status == 200
    os.kill(engine.pid or 0, 0)
    assert engine.known() == Status(block_count=0)  # there is no such GGUF
    await engine.stop()
    assert await engine.wait_exit() < 0


async def test_a_server_without_a_health_page() -> None:
    """/v1/models does where there is no /health."""
    page = (
        "import http.server as h\n"
        "class H(h.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200 if self.path == '/v1/models' else 404)\n"
        "        self.end_headers()\n"
        "import sys; h.HTTPServer(('127.0.0.1', int(sys.argv[1])), H).serve_forever()\n"
    )
    engine = command(sys.executable, "-c", page, "{port}")

    await engine.start()

    await engine.stop()


async def test_silence_is_a_failed_load() -> None:
    engine = CommandEngine(
        "b1",
        LoadOptions("m", Path("no.gguf"), command=(sys.executable, "-c", NOTHING_LISTENS)),
        log_buffer=LogBuffer(),
        stall_s=0.5,
    )

    with pytest.raises(LoadFailed, match=r"said nothing for 0.5 s\nup"):
        await engine.start()

    await engine.stop()


async def test_a_start_that_is_cancelled_can_be_stopped() -> None:
    engine = command(sys.executable, "-c", NOTHING_LISTENS)
    start = asyncio.ensure_future(engine.start())
    while engine.pid is None:
        await asyncio.sleep(0.01)

    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    await engine.stop()

    assert await engine.wait_exit() < 0


async def test_nothing_moves_while_it_runs() -> None:
    engine = command("x")

    assert not engine.live_moves
    with pytest.raises(Conflict, match="only a hosted one"):
        await engine.place({0: "CPU"})
    assert await engine.devices() == ()


@pytest.mark.parametrize(("split", "shown"), [(0, 0), (3, 3), (9, 4), (None, 0)])
async def test_status_says_what_the_split_says(split: int | None, shown: int) -> None:
    """Of a server that was told no split, no layer is claimed to be anywhere."""
    engine = command(*GATED, path=models.model(layers=4), split=split)
    assert engine.known() == Status(block_count=0)

    await engine.start()

    status = engine.known()
    assert (status.block_count, status.moe_cpu_layers) == (4, shown)
    assert len(status.layers) == (4 if split is not None else 0)
    assert all(layer.experts_bytes > 0 for layer in status.layers)
    assert engine.moves_by_reload == (split is not None)
    await engine.stop()


@pytest.mark.llama
async def test_llama_server() -> None:
    """It loads, says so in its log, answers under the model's name, and ends when it is told."""
    log_buffer = LogBuffer()
    options = LoadOptions(
        "tiny", models.model(layers=4), ctx=512, parallel=1, command=LLAMA_SERVER, split=2
    )
    engine = CommandEngine("b1", options, log_buffer=log_buffer)

    await engine.start()

    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
    url = f"{engine.address.origin}/v1/chat/completions"
    async with aiohttp.ClientSession() as http, http.post(url, json=body) as answer:
        assert (await answer.json())["model"] == "tiny"
    async with asyncio.timeout(HANG_S):  # it may answer before its words have been read
        while not any("model loaded" in line.text for line in log_buffer.recent("tiny")):
            await asyncio.sleep(0.01)
    await engine.stop()
    assert await engine.wait_exit() in (0, -15)


@pytest.mark.llama
async def test_llama_server_with_a_bad_file(tmp_path: Path) -> None:
    """Its own last words are in the error."""
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + bytes(100))
    engine = command(*LLAMA_SERVER, path=bad)

    with pytest.raises(LoadFailed, match="failed to load model") as error:
        await engine.start()

    assert not error.value.killed
    await engine.stop()


def test_free_port_is_free() -> None:
    assert 0 < free_port() < 65536
