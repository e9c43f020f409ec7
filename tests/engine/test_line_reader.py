"""A child's output, over a real pipe."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from proxy.engine.line_reader import BURST_LINES, LINE_BYTES, LineReader

Piped = tuple[int, "asyncio.Queue[bytes]", asyncio.ReadTransport, LineReader]


@asynccontextmanager
async def piped() -> AsyncIterator[Piped]:
    """The writing end, what was said, and the two that read."""
    said: asyncio.Queue[bytes] = asyncio.Queue()
    ours, theirs = os.pipe()
    transport, output = await asyncio.get_running_loop().connect_read_pipe(
        lambda: LineReader(said.put_nowait), os.fdopen(ours, "rb", buffering=0)
    )
    try:
        yield theirs, said, transport, output
    finally:
        transport.close()
        await output.ended


async def test_after_some_lines_the_next_are_left_to_gather() -> None:
    async with piped() as (end, said, transport, _):
        os.write(end, b"one\ntwo\n")

        assert await said.get() == b"one"
        assert await said.get() == b"two"
        assert not transport.is_reading()
        os.write(end, b"three\n")
        assert await said.get() == b"three"
        os.close(end)


async def test_what_was_written_before_the_end_is_read_while_it_gathers() -> None:
    async with piped() as (end, said, transport, output):
        os.write(end, b"one\n")
        assert await said.get() == b"one"
        assert not transport.is_reading()
        os.write(end, b"two\nthr")
        os.write(end, b"ee")
        os.close(end)

        await output.ended

        assert [said.get_nowait() for _ in range(said.qsize())] == [b"two", b"three"]


async def test_a_line_comes_whole_however_it_was_written() -> None:
    async with piped() as (end, said, _, output):
        for part in (b"a", b"b\nc", b"\n\n"):
            os.write(end, part)
            await asyncio.sleep(0)
        os.close(end)

        await output.ended

        assert [said.get_nowait() for _ in range(said.qsize())] == [b"ab", b"c", b""]


async def test_a_flood_is_not_waited_for() -> None:
    """Who says more than a pipe holds would be held up by every pause."""
    async with piped() as (end, said, _, output):
        text = b"x" * (3 * LINE_BYTES)

        await asyncio.to_thread(os.write, end, text)
        os.close(end)
        await output.ended

        pieces = [said.get_nowait() for _ in range(said.qsize())]
        assert b"".join(pieces) == text
        assert max(map(len, pieces)) <= 2 * LINE_BYTES + 1


async def test_of_a_flood_the_number_and_the_last_words_are_told() -> None:
    lines = 40_000
    async with piped() as (end, said, _, output):
        flood = b"".join(b"%d\n" % number for number in range(lines))
        await asyncio.to_thread(os.write, end, flood)
        os.close(end)

        await output.ended

    told = [said.get_nowait() for _ in range(said.qsize())]
    assert told[:2] == [b"0", b"1"]
    assert told[-1] == b"%d" % (lines - 1)
    left_out = [int(line.split()[1]) for line in told if line.endswith(b"lines left out")]
    assert sum(left_out) + len(told) - len(left_out) == lines
    assert len(told) < lines / 2


async def test_after_a_flood_lines_are_told_again() -> None:
    async with piped() as (end, said, _, _output):
        await asyncio.to_thread(os.write, end, b"x\n" * BURST_LINES)
        await asyncio.to_thread(os.write, end, b"y\n")
        for _ in range(BURST_LINES):
            assert await said.get() == b"x"

        while await said.get() != b"y":
            await asyncio.to_thread(os.write, end, b"y\n")
        os.close(end)
