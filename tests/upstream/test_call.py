"""Requests to an engine that cannot be reached, by what the system says of it."""

import asyncio
import contextlib
import socket
from pathlib import Path

import pytest
from multidict import CIMultiDict

from proxy.api.ollama.engine_client import Engine
from proxy.engine.ports import free_port
from proxy.engine.types import Address
from proxy.errors import BackendDied, BadRequest, NotServing
from proxy.upstream.call import Call, end_to_end
from proxy.upstream.connection import connect
from proxy.upstream.open_calls import OpenCalls
from tests.support.guard import HANG_S, until


async def test_an_engine_that_nobody_listens_for_does_not_serve(tmp_path: Path) -> None:
    for address in (Address(str(tmp_path / "none")), Address(port=free_port())):
        with pytest.raises(NotServing, match=r"does not take connections: [a-z ]+$"):
            async with Call(address, "GET", "/health"):
                pass


async def test_a_place_among_those_that_wait_for_an_engine_is_waited_for(tmp_path: Path) -> None:
    """An engine that is stopped takes nobody in. Once it is gone, all of them are told."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen(1)
        address, calls = Address(str(tmp_path / "s")), OpenCalls()

        async def ask() -> str:
            async with Call(address, "GET", "/", calls=calls) as answer:
                return str(answer.status)

        asked = [asyncio.ensure_future(ask()) for _ in range(5)]
        await until(lambda: repr(calls) == "<OpenCalls 2>", "two are in")
        with pytest.raises(BlockingIOError):
            await connect(address)
        assert not any(task.done() for task in asked)
        taken, _ = listening.accept()
        await until(lambda: repr(calls) == "<OpenCalls 3>", "there was room for one more")
        taken.close()
        await until(lambda: repr(calls) == "<OpenCalls 2>", "that one is over")

    ends = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(end) for end in ends} <= {BackendDied, NotServing}
    assert repr(calls) == "<OpenCalls 0>"


async def said(answer: bytes) -> tuple[int, str]:
    """The status and the reason of what an engine answers so."""

    async def answer_it(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer_it, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        async with Call(Address(port=port), "GET", "/") as answered:
            return answered.status, answered.reason


async def test_a_reason_can_be_passed_on() -> None:
    """A control character in it was an internal error."""
    end = b"\r\nContent-Length: 0\r\n\r\n"
    assert await said(b"HTTP/1.1 200 O\x01K \xe9\x7f" + end) == (200, "O K \xe9 ")


async def test_another_protocol_is_no_answer() -> None:
    loop, failed = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _, context: failed.append(context))

    with pytest.raises(BackendDied, match="another protocol"):
        await said(b"HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nxyz")

    assert failed == []


async def test_an_answer_without_an_end_is_not_kept_for_ever() -> None:
    """What is wanted as a whole: an engine that goes on and on costs this one question."""
    gone = asyncio.Event()

    async def go_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(bytes(1 << 20))
                await writer.drain()
        gone.set()

    async with await asyncio.start_server(go_on, "127.0.0.1") as server:
        address = Address(port=server.sockets[0].getsockname()[1])
        with pytest.raises(BadRequest, match="too much at once: its answer has more than 256 MiB"):
            await Engine(address, OpenCalls()).post("/embeddings", {}, object)
        async with asyncio.timeout(HANG_S):
            await gone.wait()


def test_what_says_who_asks_is_no_connection_s_own() -> None:
    said = CIMultiDict({"Connection": "close, Origin, X-Own, host", "X-Own": "1"})
    judged = {"Host": "evil.example", "Origin": "http://evil.example", "Authorization": "Bearer 1"}
    said.update(judged)

    assert dict(end_to_end(said)) == judged
