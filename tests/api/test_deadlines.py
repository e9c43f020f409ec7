"""Clients that begin a request and do not go on, and those that nobody else notices."""

import asyncio
import contextlib
import resource
import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from proxy.api.deadlines import DeadlineRunner
from tests.support.guard import HANG_S

HEAD_S = 0.3
SILENT_S = 2.0
LEFT: web.AppKey[asyncio.Event] = web.AppKey("left", asyncio.Event)


async def endless(request: web.Request) -> web.StreamResponse:
    """Says more than anybody's buffers hold."""
    response = web.StreamResponse()
    await response.prepare(request)
    try:
        while True:
            await response.write(bytes(1 << 16))
    finally:
        request.app[LEFT].set()


async def answer(request: web.Request) -> web.Response:
    # As long as the limit for heads, which is not one for bodies and answers.
    body = await request.read()
    await asyncio.sleep(2 * HEAD_S if request.path == "/slow" else 0)
    return web.Response(body=body)


@pytest.fixture
async def port(app: web.Application) -> AsyncIterator[int]:
    runner = DeadlineRunner(app, head_s=HEAD_S, silent_s=SILENT_S, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    yield runner.addresses[0][1]
    await runner.cleanup()


@pytest.fixture
def app() -> web.Application:
    app = web.Application()
    app[LEFT] = asyncio.Event()
    app.router.add_get("/endless", endless)
    app.router.add_route("*", "/{path:.*}", answer)
    return app


@pytest.mark.parametrize("begun", [b"G", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n"])
async def test_a_head_that_does_not_end_is_given_up(begun: bytes, port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(begun)
    async with asyncio.timeout(HANG_S):
        said = await reader.read()
    writer.close()

    assert said.startswith(b"HTTP/1.1 408 ")


async def test_so_is_one_that_trickles_and_the_second_of_a_connection(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(HANG_S):
        while (await reader.readline()).strip():
            pass
    ended = asyncio.create_task(reader.read())
    for byte in b"GET / HTTP/1.1\r\nX: " + b"y" * 100_000:
        if ended.done():
            break
        writer.write(bytes([byte]))
        await asyncio.sleep(0.01)
    writer.close()

    assert (await ended).startswith(b"HTTP/1.1 408 ")


async def test_who_is_slow_elsewhere_has_time(port: int) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield b"x"
            await asyncio.sleep(HEAD_S)

    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        async with session.post("/", data=body()) as slow:
            assert await slow.read() == b"xxxx"
        for path in ("/slow", "/"):
            async with session.get(path) as slow:
                assert slow.status == 200
            await asyncio.sleep(2 * HEAD_S)  # idle: not a head that is late


async def test_who_does_not_read_its_answer_is_taken_to_be_gone(
    port: int, app: web.Application
) -> None:
    with contextlib.closing(socket.create_connection(("127.0.0.1", port))) as silent:
        silent.sendall(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(HANG_S):
            await app[LEFT].wait()


async def test_who_reads_slowly_gets_all_of_it(port: int, app: web.Application) -> None:
    """For longer than a silent one would be given."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 12)
    writer.write(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(HANG_S):
        for _ in range(10):
            await reader.readexactly(1 << 20)
            await asyncio.sleep(SILENT_S / 8)
    assert not app[LEFT].is_set()
    writer.close()


async def test_a_thousand_that_are_slow_keep_nobody_waiting(port: int) -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit[1] < 3000:
        pytest.skip("this machine does not allow so many connections")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limit[0], 3000), limit[1]))
    try:
        slow = [await asyncio.open_connection("127.0.0.1", port) for _ in range(1000)]
        for _, writer in slow:
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx")
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            async with asyncio.timeout(HANG_S), session.get("/") as quick:
                assert quick.status == 200
        for _, writer in slow:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for _, writer in slow))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
