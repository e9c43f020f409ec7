"""One connection to an engine and the answer that comes over it. Made by `proxy.upstream.call`; the
parser is llhttp's."""

import asyncio
import re
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, cast

import httptools
from multidict import CIMultiDict

from proxy.engine.types import Address

# What may lie here for a client that reads slower than its engine writes.
MOST_BUFFERED_BYTES: Final = 1 << 18
FIRST_FINAL_STATUS: Final = 200
# What an engine may send before its answer begins.
MOST_HEAD_BYTES: Final = 1 << 20
# What is kept of an answer that is wanted as a whole: ten thousand embeddings have so much.
MOST_WHOLE_BYTES: Final = 256 << 20
# What the parser lets through and no answer of ours may have.
_NO_TEXT: Final = re.compile(r"[\x00-\x1f\x7f]")


class BrokenAnswer(Exception):
    """The engine went away, or made no sense, in the middle of an answer."""


class TooMuch(BrokenAnswer):
    """An answer that was to be read as a whole is longer than anybody wants to keep it."""


async def connect(address: Address) -> "EngineConnection":
    """A connection, nothing sent yet. Raises OSError; BlockingIOError where too many wait already
    until the engine takes them in."""
    # On this machine a connection is there or refused at once: no need for a timer.
    loop = asyncio.get_running_loop()
    if not address.socket:
        return (await loop.create_connection(EngineConnection, "127.0.0.1", address.port or 0))[1]
    # asyncio would take "try again" for "on its way", which there is not among Unix sockets, and
    # would go round once more to learn that it is there.
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        made.connect(address.socket)
        return (await loop.create_unix_connection(EngineConnection, sock=made))[1]
    except BaseException:
        made.close()
        raise


class EngineConnection(asyncio.Protocol):
    """One answer as it comes: status, headers, and its body piece by piece, once."""

    def __init__(self) -> None:
        self.status = 0
        self.reason = ""
        self.headers: CIMultiDict[str] = CIMultiDict()
        self._loop = asyncio.get_running_loop()
        self.head: asyncio.Future[None] = self._loop.create_future()
        self._has_no_body = False
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        # What changes while the body comes:
        self._chunks: deque[bytes] = deque()
        self._buffered = 0
        self.received_bytes = 0
        self._paused = False
        self._complete = False
        self._broken: BrokenAnswer | None = None
        self._news: asyncio.Future[None] | None = None
        self._served: Callable[[], None] | None = None
        self._full: asyncio.Future[None] | None = None  # until more may be written

    async def send(self, message: Sequence[bytes], *, has_no_body: bool = False) -> bool:
        """Send the request; whether an answer to it began. Cancelling this ends the connection.

        `has_no_body`: it will end with its head, whatever that says, as an answer to HEAD does.
        """
        assert self._transport is not None
        self._has_no_body = has_no_body
        try:
            self._transport.writelines(message)
            await self.head
        except BrokenAnswer:
            return False
        except BaseException:
            self.abort()
            raise
        return True

    async def write(self, data: bytes) -> None:
        """More of a request whose head was sent; returns once there is room for what follows.
        Raises ConnectionResetError where the connection is gone."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the connection is gone")
        self._transport.write(data)
        if self._full is not None:
            await self._full

    def when_served(self, tell: Callable[[], None]) -> None:
        """Have `tell` called, once, when the engine has nothing more to do for this: all of it
        came. Also where its client takes no more of it, since the engine does not wait for that."""
        self._served = tell
        self._tell_served()

    @property
    def is_open(self) -> bool:
        """Whether its connection is."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def has_come(self) -> bool:
        """Whether something of the body lies here."""
        return bool(self._chunks)

    @property
    def why_broken(self) -> str:
        return str(self._broken or "")

    def break_off(self, why: str) -> None:
        """The engine is given up: whoever reads gets BrokenAnswer, once he has what came."""
        self._break(why)
        self._tell()
        self.abort()

    def abort(self) -> None:
        """Close the connection, whatever is on its way."""
        if self._transport is not None:
            self._transport.abort()

    async def read_chunk(self) -> bytes:
        """More of the body as it came, joined where it came faster than it was taken; nothing at
        its end.

        Raises BrokenAnswer where it ends too early.
        """
        while not self._chunks:
            if self._broken is not None:
                raise self._broken
            if self._complete:
                return b""
            self._news = self._loop.create_future()
            await self._news
        chunk = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._buffered = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return chunk

    async def read(self) -> bytes:
        """The whole body; for the proxy's own, small questions. Raises TooMuch after
        MOST_WHOLE_BYTES."""
        pieces, size = [], 0
        while chunk := await self.read_chunk():
            pieces.append(chunk)
            size += len(chunk)
            if size > MOST_WHOLE_BYTES:
                self.abort()
                raise TooMuch(f"its answer has more than {MOST_WHOLE_BYTES >> 20} MiB")
        return b"".join(pieces)

    # --- asyncio's side -------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of other classes, with the same methods.
        self._transport = cast(asyncio.Transport, transport)

    def pause_writing(self) -> None:
        self._full = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._full is not None:
            if not self._full.done():
                self._full.set_result(None)
            self._full = None

    def data_received(self, data: bytes) -> None:
        self.received_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._break(f"it did not speak HTTP: {error}")
        except httptools.HttpParserUpgrade:
            self._break("it went over to another protocol, which nobody asked for")
        if not self.head.done() and self.received_bytes > MOST_HEAD_BYTES:
            self._break("the head of its answer has no end")
        if self._broken is not None:
            self.abort()  # nobody is going to read on
        self._tell()
        if self._buffered > MOST_BUFFERED_BYTES and not self._paused and self._transport:
            self._paused = True
            self._transport.pause_reading()
        self._tell_served()

    def connection_lost(self, error: Exception | None) -> None:
        if self.head.done() and not self._has_length():
            self._complete = True  # such a body ends where the connection does
        if not self._complete:
            self._break(str(error or "it closed the connection"))
        self.resume_writing()
        self._tell()
        self._tell_served()

    # --- the parser's side ----------------------------------------------------------------------

    def on_status(self, reason: bytes) -> None:
        self.reason = _NO_TEXT.sub(" ", reason.decode("latin-1"))

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.add(name.decode("latin-1"), value.decode("utf-8", "surrogateescape"))

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if (
            self.status < FIRST_FINAL_STATUS
        ):  # "100 Continue" and the like: the answer is yet to come
            self.headers.clear()
        elif not self.head.done():
            self.head.set_result(None)
            self._complete = self._has_no_body

    def on_body(self, data: bytes) -> None:
        self._chunks.append(data)
        self._buffered += len(data)

    def on_message_complete(self) -> None:
        self._complete = self._complete or self.status >= FIRST_FINAL_STATUS

    def _has_length(self) -> bool:
        return "Content-Length" in self.headers or "Transfer-Encoding" in self.headers

    def _break(self, why: str) -> None:
        if self._complete or self._broken is not None:
            return
        self._broken = BrokenAnswer(why)
        if not self.head.done():
            self.head.set_exception(self._broken)
            self.head.exception()  # whoever asked may have left, then nobody will look at it

    def _tell_served(self) -> None:
        if self._served is not None and (self._complete or self._paused):
            tell, self._served = self._served, None
            tell()

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
