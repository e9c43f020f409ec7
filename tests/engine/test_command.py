"""Command engines: any program, and llama-server from the same build as the libraries."""

import asyncio
import os
import sys
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from proxy.engine.command import CommandEngine
from proxy.engine.log_buffer import LogBuffer
from proxy.engine.ports import clock_ticks, free_port
from proxy.engine.types import LoadOptions, Status
from proxy.errors import Conflict, LoadFailed
from tests.support import models
from tests.support.commands import GATED, LLAMA_SERVER
from tests.support.guard import until
from tests.support.serving import pid_of

# A server that has just these pages.
PAGES = (
    "import http.server, sys\n"
    "class Handler(http.server.BaseHTTPRequestHandler):\n"
    "    def do_GET(self):\n"
    "        self.send_response(200 if self.path in sys.argv[2:] else 404)\n"
    "        self.end_headers()\n"
    "http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()\n"
)
NOTHING_LISTENS = "import time; print('up', flush=True); time.sleep(600)"


def command(*argv: str, **changes: object) -> CommandEngine:
    options = LoadOptions("m", Path("no.gguf"), engine="command", command=argv)
    return CommandEngine("b1", replace(options, **changes), log_buffer=LogBuffer())  # type: ignore[arg-type]


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
    os.kill(pid_of(engine), 0)
    assert engine.known() == Status(block_count=0)  # there is no such GGUF
    await engine.stop()
    assert await engine.wait_exit() < 0


@pytest.mark.parametrize(
    ("path", "pages", "ready"),
    [
        ("/up?now", ["/up?now"], True),
        ("/up", ["/health", "/v1/models"], False),  # it is not asked for anything else
        ("/health", ["/v1/models"], True),
        ("none", [], True),
    ],
)
async def test_what_tells_that_it_is_ready(path: str, pages: list[str], ready: bool) -> None:
    options = LoadOptions(
        "m",
        Path("no.gguf"),
        command=(sys.executable, "-c", PAGES, "{port}", *pages),
        ready_path=path,
    )
    engine = CommandEngine("b1", options, log_buffer=LogBuffer(), stall_s=0 if ready else 2)

    if ready:
        await engine.start()
        assert await engine.pulse() == 0
    else:
        with pytest.raises(LoadFailed, match=f"it answers {path} with status 404"):
            await engine.start()

    await engine.stop()


@pytest.mark.parametrize("ours", ["ends", "stays"])
async def test_a_port_that_another_program_took(ours: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would answer in the place of our server. Ours gets another port."""
    stranger = command(*GATED)
    await stranger.start()
    taken, free = stranger.address.port, free_port()
    ports = iter([taken, free])
    monkeypatch.setattr("proxy.engine.command.free_port", lambda: next(ports))
    await later()
    stays = "exec sleep 600"  # as one that says that it cannot, and tries again later
    then = stays if ours == "stays" else "exit 1"
    script = f'[ "$1" = {taken} ] && {then}; exec "$0" "$2" --port $1'
    engine = command("sh", "-c", script, GATED[0], "{port}", GATED[1])

    await engine.start()

    assert engine.address.port == free
    await engine.pulse()
    await engine.stop()
    await stranger.stop()


async def test_a_port_that_is_taken_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    stranger = command(*GATED)
    await stranger.start()
    monkeypatch.setattr("proxy.engine.command.free_port", lambda: stranger.address.port)
    await later()
    engine = command(*GATED)

    with pytest.raises(LoadFailed, match=f"taken by another program: .*{stranger.pid}"):
        await engine.start()

    await engine.stop()
    await stranger.stop()


async def later() -> None:
    """The kernel counts in steps when a process began."""
    now = clock_ticks()
    await until(lambda: clock_ticks() > now + 1, "time goes on")


async def test_silence_is_a_failed_load() -> None:
    engine = CommandEngine(
        "b1",
        LoadOptions("m", Path("no.gguf"), command=(sys.executable, "-c", NOTHING_LISTENS)),
        log_buffer=LogBuffer(),
        stall_s=0.5,
    )

    with pytest.raises(
        LoadFailed, match=r"said nothing for 0.5 s, and is not ready: it takes no connections\nup"
    ):
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
    await engine.stop()
    assert await engine.wait_exit() in (0, -15)
    # What it said is read every now and then, and to the end once it is gone.
    assert any("model loaded" in line.text for line in log_buffer.recent("tiny"))


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
