"""Very many clients that do nothing well, beside one that is as usual."""

import asyncio
import json
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.reliability.stand import Stand, stand
from tests.support.guard import HANG_S, until

pytestmark = [pytest.mark.llama, pytest.mark.alone]

SLOW = 10_000
SILENT = 12
ASKED = 20  # answers of the usual client


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Stand]:
    async with stand(tmp_path, parallel=2) as running:
        yield running


@pytest.fixture
def descriptors() -> Iterator[None]:
    """As many as this machine allows; the proxy inherits them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < SLOW + 2000:
        pytest.skip(f"this machine does not allow {SLOW} connections")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_ten_thousand_that_send_a_byte_a_second(descriptors: None, it: Stand) -> None:
    """Half of them a head, half a body. Each is given up in time, and nobody else notices."""
    usual = await it.ask()
    slow: list[socket.socket] = []
    try:
        for number in range(SLOW):
            slow.append(await _connected(it.port))
            begun = b"POST /completion HTTP/1.1\r\nHost: localhost\r\n"
            slow[-1].send(begun if number % 2 else begun + b"Content-Length: 9999\r\n\r\n")
        asked = asyncio.ensure_future(_ask_often(it))
        open_ones = slow
        async with asyncio.timeout(4 * HANG_S):
            while open_ones:
                open_ones = [one for one in open_ones if _goes_on(one)]
                await asyncio.sleep(1.0)
        assert await asked == [usual.text] * ASKED
    finally:
        for one in slow:
            one.close()


async def test_a_dozen_that_read_nothing(it: Stand) -> None:
    """They wait for their turn and fill their buffers; a usual client has its turn too."""
    usual = await it.ask()
    body = json.dumps({"model": "m", "prompt": "x", "n_predict": 200, "stream": True}).encode()
    head = b"POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    silent = [await _connected(it.port, receive_bytes=4096) for _ in range(SILENT)]
    try:
        for one in silent:
            one.send(head % len(body) + body)

        assert (await it.ask()).text == usual.text

        async def all_done() -> bool:
            return not any(backend["in_flight"] for backend in await it.backends())

        await until(all_done, "their answers are done too")
    finally:
        for one in silent:
            one.close()


async def _ask_often(it: Stand) -> list[str]:
    return [(await it.ask()).text for _ in range(ASKED)]


async def _connected(port: int, receive_bytes: int | None = None) -> socket.socket:
    connection = socket.socket()
    if receive_bytes is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.setblocking(False)
    async with asyncio.timeout(HANG_S):
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
    return connection


def _goes_on(slow: socket.socket) -> bool:
    """Send the next byte; False where the proxy has ended it."""
    try:
        slow.send(b"x")
        slow.recv(4096)
    except BlockingIOError:
        return True
    except ConnectionError:
        pass
    return False
