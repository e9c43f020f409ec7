"""What the demo starts: the proxy, and a device where there is no GPU. They end with it."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from proxy.engine.guardian import forget_group, keep_group
from proxy.engine.installed import program
from proxy.engine.ports import free_port

START_S = 120.0


class DemoError(Exception):
    """Why the demo cannot go on, for people."""


async def device(stack: contextlib.AsyncExitStack) -> str | None:
    """A GPU that llama.cpp sees, or else an RPC server on loopback in its place; its address if
    so."""
    found = await asyncio.to_thread(_gpus)
    if found:
        print(f"2. The accelerator: {', '.join(found)}")
        return None
    port = free_port()
    print("2. No GPU here: llama.cpp's ggml-rpc-server stands in for one. It is a device with")
    print("   memory of its own, on this CPU: it shows that moves work, not how fast a GPU is.")
    threads = str(half_the_cores())
    server = (_program("ggml-rpc-server"), "-H", "127.0.0.1", "-p", str(port), "-t", threads)
    await stack.enter_async_context(_child(*server))
    return f"127.0.0.1:{port}"


def half_the_cores() -> int:
    """For each of two sides that compute on them."""
    return max((os.cpu_count() or 2) // 2, 1)


@contextlib.asynccontextmanager
async def serve(folder: Path, log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """The proxy with the policies of `folder`, as a user would start it; what it says goes to
    `log`."""
    with log.open("wb") as output:
        argv = (sys.executable, "-m", "proxy.cli.main", "serve", "--policies", str(folder))
        async with _child(*argv, output=output) as process:
            yield process


async def until_up(
    session: aiohttp.ClientSession, server: asyncio.subprocess.Process, log: Path
) -> None:
    """Wait until the proxy answers. Raises DemoError with what it said last if it ended."""
    async with asyncio.timeout(START_S):
        while server.returncode is None:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get("/health") as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.05)
    raise DemoError(f"the proxy did not start:\n{log.read_text()}")


@contextlib.asynccontextmanager
async def _child(
    *argv: str, output: Any = subprocess.DEVNULL
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that ends with the block. In a group of its own: a Ctrl-C is for us, who then end
    it in order."""
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
    )
    keep_group(process.pid)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 20)
            except TimeoutError:
                process.kill()
                await process.wait()
        forget_group(process.pid)


def _gpus() -> list[str]:
    """The devices that llama-server lists, without those of this CPU."""
    listed = subprocess.run(
        [_program("llama-server"), "--list-devices"], capture_output=True, text=True, check=False
    )
    lines = (listed.stdout + listed.stderr).partition("Available devices:")[2].splitlines()
    return [line.strip() for line in lines if line.startswith("  ") and ":" in line]


def _program(name: str) -> str:
    try:
        return program(name)
    except LookupError as error:
        raise DemoError(str(error)) from error
