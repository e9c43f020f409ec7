"""The proxy asks itself, as a client would, whether it answers."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.api import listener
from proxy.api.listener import is_answered
from tests.support.guard import HANG_S
from tests.support.policies import policies
from tests.support.proxy import proxy

SHORT_S = 0.1  # only for what never answers


def address(sock: socket.socket) -> tuple[str, int]:
    host, port = sock.getsockname()
    return host, port


@contextlib.asynccontextmanager
async def server(answer: bytes) -> AsyncIterator[tuple[str, int]]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(answer)
        writer.close()

    served = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with served:
        yield address(served.sockets[0])


async def test_a_proxy_that_serves_says_so_and_with_api_keys_too(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("secret\n")
    keys.chmod(0o600)
    async with proxy(tmp_path, policies({}, server={"api_keys_file": keys})) as one:
        assert await one.app.answers(HANG_S)


async def test_a_port_without_answers_is_found_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it listens, and lets nobody in
        assert not await is_answered(address(silent), socket.AF_INET, SHORT_S)
    async with server(b"") as there:
        assert not await is_answered(there, socket.AF_INET, HANG_S)
    async with server(b"SSH-2.0\r\n") as there:
        assert not await is_answered(there, socket.AF_INET, HANG_S)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        gone = address(closed)
    assert not await is_answered(gone, socket.AF_INET, HANG_S)


async def test_an_answer_is_one_whatever_it_says() -> None:
    async with server(b"HTTP/1.1 503 Service Unavailable\r\n\r\n") as there:
        assert await is_answered(there, socket.AF_INET, HANG_S)


async def test_an_address_that_went_away_is_not_the_proxys_fault() -> None:
    """A restart would not bring it back."""
    for number in listener.NOT_OURS:
        with pytest.MonkeyPatch.context() as patch:

            async def away(*_: object, number: int = number) -> None:
                raise OSError(number, "away")

            patch.setattr(asyncio.get_running_loop(), "sock_connect", away, raising=False)
            assert await is_answered(("192.0.2.1", 1), socket.AF_INET, HANG_S)


async def test_every_interface_is_reached_on_loopback(tmp_path: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as everywhere:
        port = address(everywhere)[1]
        assert listener._reachable(("0.0.0.0", port)) == ("127.0.0.1", port)
        assert listener._reachable(("::", port, 0, 0)) == ("::1", port, 0, 0)


async def test_one_that_lets_nobody_in_is_not_asked(tmp_path: Path) -> None:
    async with proxy(tmp_path, policies({})) as one:
        await one.app._listener.let_nobody_in()

        assert await one.app.answers(SHORT_S)


async def test_a_port_that_is_taken_away_is_found_out(tmp_path: Path) -> None:
    async with proxy(tmp_path, policies({})) as one:
        for site in list(one.app._listener._runner.sites):
            await site.stop()

        assert not await one.app.answers(SHORT_S)
