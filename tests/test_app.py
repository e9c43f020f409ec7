"""The proxy as a process: how it starts, why it does not, and how it ends."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import structlog

from proxy.startup import StartupError, listening_sockets
from tests.support.guard import HANG_S
from tests.support.models import model
from tests.support.policies import policies

pytestmark = pytest.mark.llama


@contextlib.asynccontextmanager
async def serve(folder: Path, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy.cli.main", "serve", "--log-format", "json", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"XDG_RUNTIME_DIR": str(folder), "HOME": str(folder)},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def until(process: asyncio.subprocess.Process, event: str) -> dict[str, object]:
    """The first log line with this event."""
    assert process.stderr is not None
    async with asyncio.timeout(HANG_S):
        while line := await process.stderr.readline():
            if line.startswith(b"{") and json.loads(line)["event"] == event:
                return dict(json.loads(line))
    raise AssertionError(f"it ended without {event}")


def with_policies(folder: Path) -> tuple[str, ...]:
    """The arguments of a proxy with one model."""
    file = folder / "p.toml"
    file.write_text(policies({"m": {"path": model(layers=4), "ctx": 4096}}))
    return ("--port", "0", "--policies", str(file))


async def test_bad_policies_are_told_and_nothing_starts(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text("[server]\nprot = 1\n")
    async with serve(tmp_path, "--policies", str(tmp_path / "p.toml")) as process:
        _, errors = await process.communicate()

    assert process.returncode == 2
    assert b"p.toml:2: server.prot" in errors
    assert b"Traceback" not in errors


async def test_an_address_in_use_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        async with serve(tmp_path, "--port", port) as process:
            _, errors = await process.communicate()

    assert process.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}".encode() in errors
    assert b"--port" in errors
    assert b"Traceback" not in errors


async def test_what_runs_is_finished_before_the_end(tmp_path: Path) -> None:
    """SIGTERM while an answer streams: it comes to its end, then every process is gone."""
    async with serve(tmp_path, *with_policies(tmp_path)) as process:
        url = str((await until(process, "serving"))["url"])
        body = {"model": "m", "prompt": "hi", "max_tokens": 1500, "ignore_eos": True}
        async with aiohttp.ClientSession(
            url, connector=aiohttp.TCPConnector(force_close=True)
        ) as session:
            streaming = body | {"stream": True}
            async with session.post("/v1/completions", json=streaming) as answer:
                await answer.content.readany()
                async with session.get("/admin/state") as looked:
                    state = await looked.json()
                process.send_signal(signal.SIGTERM)
                await until(process, "draining")
                async with session.post("/v1/completions", json=body) as refused:
                    assert (refused.status, refused.headers["Retry-After"]) == (503, "10")
                async with session.get("/health") as health:
                    assert (health.status, await health.json()) == (503, {"status": "draining"})
                rest = await answer.content.read()
        async with asyncio.timeout(HANG_S):
            await process.communicate()

    assert rest.endswith(b"data: [DONE]\n\n")
    assert process.returncode == 0
    assert state["backends"][0]["in_flight"] == 1
    assert not Path(f"/proc/{state['backends'][0]['pid']}").exists()
    assert not list(tmp_path.glob("moe-proxy-*"))


async def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    async with serve(tmp_path, *with_policies(tmp_path)) as process:
        url = str((await until(process, "serving"))["url"])
        body = {"model": "m", "prompt": "hi", "max_tokens": 4000, "ignore_eos": True}
        async with aiohttp.ClientSession(url) as session:
            streaming = body | {"stream": True}
            async with session.post("/v1/completions", json=streaming) as answer:
                await answer.content.readany()
                process.send_signal(signal.SIGINT)
                await until(process, "draining")
                process.send_signal(signal.SIGINT)
                killed = await until(process, "child_gone")
                with pytest.raises(aiohttp.ClientError):
                    await answer.content.read()
        async with asyncio.timeout(HANG_S):
            await process.communicate()

    assert killed["status"] == -signal.SIGKILL, "it is not asked politely"
    assert process.returncode == 0
    assert not list(tmp_path.glob("moe-proxy-*"))


async def test_people_are_told_where_it_is_and_what_to_do_next(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    arguments = ("--port", "0", "--policies", str(tmp_path / "empty"), "--log-format", "console")
    async with serve(tmp_path, *arguments) as process:
        assert process.stderr is not None
        said = ""
        async with asyncio.timeout(HANG_S):
            while "Ctrl-C" not in said:
                said += (await process.stderr.readline()).decode()
        process.send_signal(signal.SIGINT)
        await process.communicate()

    assert "empty: there is no *.toml in this folder, so the built-in defaults are used" in said
    assert "moe-proxy 0" in said
    assert " serves at http://127.0.0.1:" in said
    assert "  no models yet: " in said
    assert process.returncode == 0


def test_who_may_come_from_elsewhere_without_a_key_is_told() -> None:
    with structlog.testing.capture_logs() as logged:
        for host, keys in (("127.0.0.1", False), ("0.0.0.0", True)):
            for sock in listening_sockets(host, 0, keys=keys):
                sock.close()
        with contextlib.suppress(StartupError):  # there may be no IPv6
            for sock in listening_sockets("::1", 0, keys=False):
                sock.close()
    assert not logged

    with structlog.testing.capture_logs() as logged:
        for sock in listening_sockets("0.0.0.0", 0, keys=False):
            sock.close()
    assert [line["event"] for line in logged] == ["open_to_the_network"]
