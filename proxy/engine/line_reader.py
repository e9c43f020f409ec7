"""What a child writes, line by line. Made by `proxy.engine.process`."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, cast

# A pipe's size: where a read fills that, more is there already.
PIPE_BYTES: Final = 64 * 1024
# A longer line is cut into pieces of about this size, so that no child can fill our memory with one
# line.
LINE_BYTES: Final = 64 * 1024
# How long what it says is gathered before it is read on. A server has several lines a request, all
# of them in the very moment in which its answer begins, and each by itself would wake us.
GATHER_S: Final = 0.05
# What a load says comes at once, and is far less than this. One that floods us is read on slowly,
# and of most of it only the number is told: each line costs us more than it costs the child.
BURST_LINES: Final = 5000
LINES_PER_S: Final = 500.0
# It is told from time to time, with its last lines: those may be its last words.
TOLD_AT_LINES: Final = 100
KEPT_LINES: Final = 10


class LineReader(asyncio.Protocol):
    """The reading end of a child's output."""

    def __init__(self, on_line: Callable[[bytes], None]) -> None:
        """`on_line` is called with each line, without its end."""
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._on_line = on_line
        # What changes: a line without its end yet, how many may come at once, as of when, and what
        # was left out since that was told last.
        self._rest = b""
        self._room, self._room_at_s = float(BURST_LINES), asyncio.get_running_loop().time()
        self._left_out = 0
        self._kept: deque[bytes] = deque(maxlen=KEPT_LINES)
        self._transport: asyncio.ReadTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of other classes, with the same methods.
        self._transport = cast(asyncio.ReadTransport, transport)

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._refill()
        self._say(lines)
        if len(self._rest) > LINE_BYTES:
            self._end_line()
        is_all = len(data) < PIPE_BYTES
        if (is_all or self._left_out) and self._transport is not None:
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(GATHER_S, self._read_on)

    def connection_lost(self, _: Exception | None) -> None:
        if self._rest:
            self._end_line()
        self._tell_left_out()
        if not self.ended.done():
            self.ended.set_result(None)

    def _end_line(self) -> None:
        line, self._rest = self._rest, b""
        self._say((line,))

    def _say(self, lines: Sequence[bytes]) -> None:
        fit = 0 if self._left_out else min(len(lines), int(self._room))
        self._room -= fit
        for line in lines[:fit]:
            self._on_line(line)
        self._left_out += len(lines) - fit
        self._kept.extend(lines[fit:])

    def _refill(self) -> None:
        now_s = asyncio.get_running_loop().time()
        more = (now_s - self._room_at_s) * LINES_PER_S
        self._room, self._room_at_s = min(BURST_LINES, self._room + more), now_s
        if self._room >= TOLD_AT_LINES:
            self._tell_left_out()

    def _tell_left_out(self) -> None:
        if self._left_out > len(self._kept):
            self._on_line(b"... %d lines left out" % (self._left_out - len(self._kept)))
        for line in self._kept:
            self._on_line(line)
        self._room -= len(self._kept)
        self._left_out = 0
        self._kept.clear()

    def _read_on(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
