"""What a child writes, line by line. Made by `proxy.engine.process`."""

import asyncio
from collections.abc import Callable
from typing import Final, cast

# A pipe's size: where a read fills that, more is there already.
PIPE_BYTES: Final = 64 * 1024
# A longer line is cut into pieces of about this size, so that no child can fill our memory with one
# line.
LINE_BYTES: Final = 64 * 1024
# How long what it says is gathered before it is read on. A server has several lines a request, all
# of them in the very moment in which its answer begins, and each by itself would wake us.
GATHER_S: Final = 0.05


class LineReader(asyncio.Protocol):
    """The reading end of a child's output."""

    def __init__(self, on_line: Callable[[bytes], None]) -> None:
        """`on_line` is called with each line, without its end."""
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._on_line = on_line
        self._rest = b""
        self._transport: asyncio.ReadTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of other classes, with the same methods.
        self._transport = cast(asyncio.ReadTransport, transport)

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._on_line(line)
        if len(self._rest) > LINE_BYTES:
            self._end_line()
        if len(data) < PIPE_BYTES and self._transport is not None:
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(GATHER_S, self._read_on)

    def connection_lost(self, _: Exception | None) -> None:
        if self._rest:
            self._end_line()
        if not self.ended.done():
            self.ended.set_result(None)

    def _end_line(self) -> None:
        line, self._rest = self._rest, b""
        self._on_line(line)

    def _read_on(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
