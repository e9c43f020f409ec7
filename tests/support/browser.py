"""A real browser, pages for it to open, and a network in which names mean what a test wants."""

import asyncio
import contextlib
import os
import shutil
import signal
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import web

from tests.support.guard import HANG_S

PROGRAMS: Final = ("chromium", "chromium-browser", "google-chrome")
OPTIONS: Final = (
    *("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--disable-crash-reporter"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--disable-extensions", "--password-store=basic"),
    # What a browser itself does against such pages is not in all of them, and not what is tested.
    "--disable-features=LocalNetworkAccessChecks",
)
ANSWERED: Final = b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"
UNREACHABLE: Final = b"\x05\x04\x00\x01\x00\x00\x00\x00\x00\x00"


def program() -> str:
    """The browser; skips the test where there is none."""
    for name in PROGRAMS:
        if path := shutil.which(name):
            return path
    pytest.skip(f"there is no browser here ({', '.join(PROGRAMS)})")


@contextlib.asynccontextmanager
async def opened(url: str, folder: Path, network: "Network") -> AsyncIterator[None]:
    """A browser that is at `url`, until the end of the block. `folder` is for what it keeps."""
    process = await asyncio.create_subprocess_exec(
        program(),
        *OPTIONS,
        *(("--no-sandbox",) if os.geteuid() == 0 else ()),  # which it refuses to root
        f"--user-data-dir={folder}",
        f"--proxy-server=socks5://127.0.0.1:{network.port}",
        url,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env=os.environ | {"HOME": str(folder)},
        start_new_session=True,
    )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


class Pages:
    """A web server of somebody else. Pages tell it what they saw, by a POST to /report. `calls` are
    made when a path is asked for, before the answer, all of which have the header X-Pages."""

    def __init__(self) -> None:
        self.port = 0
        self.html: dict[str, str] = {}
        self.calls: dict[str, Callable[[], object]] = {}
        self._reports: asyncio.Queue[Any] = asyncio.Queue()

    async def report(self) -> Any:
        async with asyncio.timeout(HANG_S):
            return await self._reports.get()

    async def handle(self, request: web.Request) -> web.Response:
        if call := self.calls.get(request.path):
            call()
        if request.path == "/report":
            await self._reports.put(await request.json())
        answer = web.Response(
            text=self.html.get(request.path, ""),
            content_type="text/html",
            headers={"X-Pages": "yes"},
        )
        answer.force_close()  # the next request asks anew where the name leads
        return answer


@contextlib.asynccontextmanager
async def pages() -> AsyncIterator[Pages]:
    served = Pages()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", served.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        served.port = runner.addresses[0][1]
        yield served
    finally:
        await runner.cleanup()


class Network:
    """Where names lead, for a browser that asks this SOCKS server for all that is not loopback.
    `leads` has a port of this machine for each (name, port), and may change at any time."""

    def __init__(self) -> None:
        self.port = 0
        self.leads: dict[tuple[str, int], int] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            _, methods = await reader.readexactly(2)
            await reader.readexactly(methods)
            writer.write(b"\x05\x00")
            _, _, _, kind = await reader.readexactly(4)
            if kind != 3:  # an address, of which nothing here leads anywhere
                return
            (length,) = await reader.readexactly(1)
            name = (await reader.readexactly(length)).decode()
            (port,) = struct.unpack(">H", await reader.readexactly(2))
            target = self.leads.get((name, port))
            writer.write(UNREACHABLE if target is None else ANSWERED)
            if target is not None:
                await _relay(reader, writer, target)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def network() -> AsyncIterator[Network]:
    made = Network()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    there, back = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.TaskGroup() as both:
            both.create_task(_copy(reader, back))
            both.create_task(_copy(there, writer))
    except* OSError:
        pass
    finally:
        back.close()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        target.write(data)
        await target.drain()
    if target.can_write_eof():
        target.write_eof()
