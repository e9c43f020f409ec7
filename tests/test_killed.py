"""The proxy is killed (`kill -9`) at whatever it does: nothing of it stays, and the next one starts
where it was."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.hub import servers
from tests.support.guard import HANG_S, until
from tests.support.llama import program, rpc_server
from tests.support.models import model
from tests.support.serving import Serving, runs, serving, until_gone, with_policies

pytestmark = pytest.mark.llama

LONG = {"model": "m", "prompt": "hi", "max_tokens": 4000, "ignore_eos": True, "stream": True}


def descendants(pid: int) -> list[int]:
    """All that it has started, and what those have."""
    found = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it, or a thread, has ended
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *descendants(child)]
    return found


class Case:
    """A proxy in its phase, and a client of it."""

    def __init__(self, proxy: Serving, session: aiohttp.ClientSession) -> None:
        self.proxy, self.session = proxy, session
        self.stack = contextlib.AsyncExitStack()

    async def loading(self) -> None:
        self.asking = asyncio.ensure_future(self._load())
        await self.proxy.logged("backend_starting")
        await until(lambda: len(descendants(self.proxy.pid)) > 1, "there is a worker")

    async def idle(self) -> None:
        await self._load()

    async def streaming(self) -> None:
        answer = await self.stack.enter_async_context(
            self.session.post("/v1/completions", json=LONG)
        )
        await answer.content.readany()

    async def moving(self) -> None:
        """To the device and back all the time, while it streams."""
        await self.streaming()

        async def move() -> None:
            while True:
                for split in (0, -1):
                    body = {"moe_cpu_layers": split}
                    await self._ignore(self.session.put("/admin/models/m/split", json=body))

        self.asking = asyncio.ensure_future(move())
        self.stack.callback(self.asking.cancel)
        for _ in range(3):
            await self.proxy.logged("moved")

    async def _load(self) -> None:
        await self._ignore(self.session.post("/admin/models/m/load"))

    async def _ignore(self, request: Any) -> None:
        with contextlib.suppress(aiohttp.ClientError):
            async with request as answer:
                await answer.read()


def same_place(folder: Path, **tables: Any) -> tuple[str, ...]:
    """The arguments of a proxy that listens on the same port each time."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return ("--port", str(port), *with_policies(folder, **tables)[2:])


@contextlib.asynccontextmanager
async def killed(
    folder: Path,
    arguments: tuple[str, ...],
    phase: Callable[[Case], Awaitable[None]],
    *,
    stop: bool = False,
) -> AsyncIterator[list[int]]:
    """A proxy that was killed in this phase, and all that it had started, which is stopped before
    if `stop`."""
    async with serving(folder, *arguments) as proxy:
        async with aiohttp.ClientSession(await proxy.url()) as session:
            case = Case(proxy, session)
            await phase(case)
            started = descendants(proxy.pid)
            for pid in filter(is_worker, started if stop else ()):
                os.kill(pid, signal.SIGSTOP)
            proxy.process.kill()
            await proxy.process.wait()
            await until_gone(*started)
            await until(lambda: not proxy.folders(), "its folder is gone")
            with contextlib.suppress(aiohttp.ClientError):
                await case.stack.aclose()
        yield started


def is_worker(pid: int) -> bool:
    return b"proxy.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()


async def answers(session: aiohttp.ClientSession) -> None:
    body = {"model": "m", "prompt": "hi", "max_tokens": 3}
    async with asyncio.timeout(HANG_S), session.post("/v1/completions", json=body) as answer:
        assert answer.status == 200, await answer.text()


@pytest.mark.parametrize("stop", [False, True], ids=["", "stopped"])
@pytest.mark.parametrize("phase", [Case.idle, Case.streaming, Case.moving, Case.loading])
async def test_nothing_stays_and_the_next_one_starts(
    tmp_path: Path, phase: Callable[[Case], Awaitable[None]], stop: bool
) -> None:
    """Also where its worker was stopped before, and so notices nothing."""
    usual = {"defaults": {"moe_cpu_layers": "full"}}
    async with rpc_server() as device:
        arguments = same_place(tmp_path, devices={"rpc": [device]}, **usual)
        async with killed(tmp_path, arguments, phase, stop=stop) as started:
            assert started
    # A request that was broken off in its middle may have ended the device's own server.
    async with rpc_server() as device:
        with_policies(tmp_path, devices={"rpc": [device]}, **usual)
        async with serving(tmp_path, *arguments) as proxy:
            async with aiohttp.ClientSession(await proxy.url()) as session:
                await answers(session)
            proxy.process.send_signal(signal.SIGTERM)
            assert await proxy.ended() == 0
            assert not proxy.folders()


async def test_a_worker_goes_though_what_would_end_it_was_killed_too(tmp_path: Path) -> None:
    """As when memory runs out, or somebody ends every Python that there is. The kernel sees to it,
    also where the worker is stopped."""
    async with serving(tmp_path, *with_policies(tmp_path)) as proxy:
        async with aiohttp.ClientSession(await proxy.url()) as session:
            await Case(proxy, session).idle()
        started = descendants(proxy.pid)
        assert sorted(map(is_worker, started)) == [False, True], "a guardian, and a worker"
        for pid in started:
            os.kill(pid, signal.SIGSTOP if is_worker(pid) else signal.SIGKILL)
        proxy.process.kill()

        await until_gone(*started)


async def test_a_command_goes_with_all_that_it_has_started(tmp_path: Path) -> None:
    """A shell that has a server for a child; nobody else would end either."""
    script = tmp_path / "serve.sh"
    script.write_text(f"""#!/bin/sh
sleep 600 &
'{program("llama-server")}' -m "$1" --host 127.0.0.1 --port "$2" -c 512 --fit off &
wait
""")
    script.chmod(0o755)
    command = [str(script), "{model}", "{port}"]
    arguments = same_place(tmp_path)
    text = (tmp_path / "p.toml").read_text()
    engine = f'engine = "command"\ncommand = {json.dumps(command)}\n'
    (tmp_path / "p.toml").write_text(text.replace("[models.m]\n", f"[models.m]\n{engine}"))

    async with killed(tmp_path, arguments, Case.idle) as started:
        assert len(started) > 3, "the guardian, the shell, and its two children"


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
async def test_a_pull_goes_on_where_it_was(tmp_path: Path, end: signal.Signals) -> None:
    """Where there is time, whoever waits for it is told."""
    blob = model(layers=4).read_bytes()
    arguments = same_place(tmp_path)
    async with servers.serving() as hub:
        hub.gate = asyncio.Event()
        hub.add_model("library/tiny:latest", [("model", blob)], {})
        body = {"model": f"{hub.host}/library/tiny", "insecure": True}
        lines = []
        async with serving(tmp_path, *arguments) as proxy:
            async with aiohttp.ClientSession(await proxy.url()) as session:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.post("/api/pull", json=body) as answer:
                        await until(lambda: _partial(tmp_path), "some of it is here")
                        proxy.process.send_signal(end)
                        lines += [json.loads(line) async for line in answer.content]
            assert await proxy.ended() == (0 if end == signal.SIGTERM else -end)
        told = any("error" in line for line in lines)
        assert told == (end == signal.SIGTERM), lines

        hub.gate.set()
        async with serving(tmp_path, *arguments) as proxy:
            async with aiohttp.ClientSession(await proxy.url()) as session:
                async with session.post("/api/pull", json={**body, "stream": False}) as answer:
                    assert (await answer.json())["status"] == "success"

        assert max(hub.from_bytes) > 0, "it goes on where it was"


def _partial(folder: Path) -> bool:
    """Whether a part of a blob is here."""
    blobs = folder / ".local/share/moe-proxy/blobs"
    return any(file.stat().st_size for file in blobs.glob("*partial*"))


async def test_a_demo_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    """It has a proxy, which has a worker, and a device's stand-in."""
    demo = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy.cli.main", "demo"),
        stdout=asyncio.subprocess.PIPE,
        # Without an index it makes its model itself.
        env=os.environ
        | {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": "", "XDG_CACHE_HOME": "", "PIP_NO_INDEX": "1"},
        start_new_session=True,
    )
    assert demo.stdout is not None
    said = b""
    async with asyncio.timeout(HANG_S):
        while b"4. It is loaded" not in said:
            line = await demo.stdout.readline()
            assert line, said
            said += line
    await until(lambda: len(descendants(demo.pid)) > 4, "the proxy has a worker")
    started = descendants(demo.pid)
    demo.kill()
    await demo.wait()

    await until_gone(*started)
    folder = said.split(b"--policies ")[1].split(b"\n")[0].decode()
    await until(lambda: not Path(folder).exists(), "its folder is gone")
    assert not any(map(runs, started))
