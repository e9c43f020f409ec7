"""Real llama.cpp processes for tests: the RPC server that stands in for a GPU, and plain
llama-server to compare with."""

import asyncio
import contextlib
import os
import resource
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from proxy.engine import installed
from proxy.engine.guardian import forget_group, keep_group
from proxy.engine.ports import free_port
from proxy.engine.types import Address
from tests.support.guard import HANG_S

# Names the folder of a build of llama.cpp that is to be tested in the place of the installed one.
OTHER_BUILD = "MOE_PROXY_TEST_LLAMA"
OLDER_NAMES = {"ggml-rpc-server": "rpc-server"}


def libdir() -> Path | None:
    """The libraries of the build that is tested, where it is not the installed one."""
    return Path(os.environ[OTHER_BUILD]) if OTHER_BUILD in os.environ else None


def program(name: str) -> str:
    """One of llama.cpp's programs, of the build that is tested."""
    folder = libdir()
    if folder is None:
        return installed.program(name)
    found = folder / name
    return str(found if found.exists() else folder / OLDER_NAMES.get(name, name))


@contextlib.asynccontextmanager
async def child(*argv: str, **env: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that is ended with the block, or with us. Its output goes nowhere."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env=os.environ | env,
        start_new_session=True,
    )
    keep_group(process.pid)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        forget_group(process.pid)


class RpcServer(str):
    """The address of an RPC server."""

    pid: int

    @contextlib.contextmanager
    def no_more_than(self, room: int) -> Iterator[None]:
        """Within the block, the device cannot have more than `room` bytes more than it has now.
        It does not know: it shows all of the machine's memory."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[0])
        before = resource.prlimit(self.pid, resource.RLIMIT_AS)
        most = pages * resource.getpagesize() + room
        resource.prlimit(self.pid, resource.RLIMIT_AS, (most, before[1]))
        try:
            yield
        finally:
            resource.prlimit(self.pid, resource.RLIMIT_AS, before)


@contextlib.asynccontextmanager
async def rpc_server(threads: int = 1, **env: str) -> AsyncIterator["RpcServer"]:
    """A device with memory of its own, as `host:port`."""
    port = free_port()
    of_another = os.environ.get("MOE_PROXY_CACHE_BUILD")  # see tests/support/cache_build
    name = f"{of_another}/ggml-rpc-server" if of_another else program("ggml-rpc-server")
    argv = (name, "-H", "127.0.0.1", "-p", str(port), "-t", str(threads))
    async with child(*argv, **env) as process:
        async with asyncio.timeout(HANG_S):
            while True:
                assert process.returncode is None, "ggml-rpc-server ended"
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    break
                except OSError:
                    await asyncio.sleep(0.05)
            writer.close()
        server = RpcServer(f"127.0.0.1:{port}")
        server.pid = process.pid
        yield server


@dataclass(frozen=True, slots=True)
class PlainServer(Address):
    """Where a llama-server listens, and which process it is."""

    pid: int = 0


@contextlib.asynccontextmanager
async def plain_server(
    model: Path, *arguments: str, env: Mapping[str, str] | None = None
) -> AsyncIterator["PlainServer"]:
    """llama-server itself, from the same build, with the arguments given."""
    port = free_port()
    argv = (program("llama-server"), "-m", str(model), "--host", "127.0.0.1", "--port", str(port))
    async with child(*argv, "--fit", "off", *arguments, **(env or {})) as process:
        address = PlainServer(port=port, pid=process.pid)
        async with asyncio.timeout(HANG_S), aiohttp.ClientSession() as session:
            while True:
                assert process.returncode is None, "llama-server ended"
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"{address.origin}/health") as answer:
                        if answer.status == 200:
                            break
                await asyncio.sleep(0.05)
        yield address


class Client:
    """Asks a llama-server, wherever it listens."""

    def __init__(self, address: Address) -> None:
        self.address = address
        connector = aiohttp.UnixConnector(address.socket) if address.socket else None
        self._session = aiohttp.ClientSession(
            address.origin, connector=connector, timeout=aiohttp.ClientTimeout(total=None)
        )

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        async with self._session.post(path, json=body) as answer:
            result = await answer.json()
            assert answer.status == 200, result
            return dict(result)

    async def complete(self, prompt: str, tokens: int, **more: Any) -> dict[str, Any]:
        """llama-server's own /completion: greedy, to the end, without the prompt cache unless asked
        for."""
        body = {
            "prompt": prompt,
            "n_predict": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "cache_prompt": False,
        }
        return await self.post("/completion", body | more)

    async def text(self, prompt: str, tokens: int = 24) -> str:
        return str((await self.complete(prompt, tokens))["content"])


async def plain_text(path: Path, prompt: str, n: int) -> str:
    """What plain llama-server says with `--n-cpu-moe N`. (An RPC server has one client at a
    time.)"""
    async with rpc_server() as rpc:
        arguments = ("--rpc", rpc, "-ngl", "999", "--n-cpu-moe", str(n), "-t", "1")
        more = ("-c", "8192", "-np", "4")
        async with plain_server(path, *arguments, *more) as address, Client(address) as plain:
            return await plain.text(prompt)
