"""All requests to an engine, as one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from proxy.engine.types import Address
from proxy.errors import BackendDied
from proxy.upstream.call import Call
from proxy.upstream.connection import BrokenAnswer
from proxy.upstream.open_calls import OpenCalls

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"


@asynccontextmanager
async def silent(
    folder: Path, name: str, says: bytes
) -> AsyncIterator[tuple[Address, asyncio.Event]]:
    """A server that says this to whoever comes, and then nothing; and whether somebody came."""
    came, writers = asyncio.Event(), list[asyncio.StreamWriter]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(says)
        writers.append(writer)
        came.set()

    server = await asyncio.start_unix_server(serve, folder / name)
    async with server:
        yield Address(str(folder / name)), came
        for writer in writers:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


async def test_all_of_one_engine_end_with_the_reason_and_no_others(tmp_path: Path) -> None:
    calls = OpenCalls()
    async with (
        silent(tmp_path, "a", b"") as (a, a_asked),
        silent(tmp_path, "b", HEAD + b"half") as (b, _),
        Call(b, "GET", "/", calls=calls) as half,
    ):
        asked = asyncio.ensure_future(Call(a, "GET", "/", calls=calls).__aenter__())
        await a_asked.wait()

        calls.break_off(a, "it hangs")

        with pytest.raises(BackendDied, match="it hangs"):
            await asked
        assert repr(calls) == "<OpenCalls 1>"
        assert await half.read_chunk() == b"half"
        calls.break_off(b, "so does this")
        with pytest.raises(BrokenAnswer, match="so does this"):
            await half.read_chunk()
    assert repr(calls) == "<OpenCalls 0>"


async def test_what_came_is_had_before_the_end(tmp_path: Path) -> None:
    calls = OpenCalls()
    async with (
        silent(tmp_path, "a", HEAD + b"half") as (address, _),
        Call(address, "GET", "/", calls=calls) as answer,
    ):
        while calls.received_bytes(address) < len(HEAD + b"half"):
            await asyncio.sleep(0)
        calls.break_off(address, "it hangs")

        assert await answer.read_chunk() == b"half"
        with pytest.raises(BrokenAnswer, match="it hangs"):
            await answer.read_chunk()


async def test_bytes_are_counted_and_stay_counted(tmp_path: Path) -> None:
    calls = OpenCalls()
    async with silent(tmp_path, "a", HEAD + b"0123456789") as (address, _):
        for number in (1, 2):
            async with Call(address, "GET", "/", calls=calls) as answer:
                assert await answer.read() == b"0123456789"
            assert calls.received_bytes(address) == number * len(HEAD + b"0123456789")
        calls.forget(address)
        assert calls.received_bytes(address) == 0
