"""Speaks HTTP to the engines: one connection for each request, so that closing it ends exactly
that.

Not reused: llama-server gives each open connection one of its threads and closes it after a stream,
after a hundred requests or five idle seconds, and a request that meets such a closing could not be
told from a crash. The parser is llhttp's; a whole client session took half of the proxy's time.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence, Set
from typing import cast

import httptools
from multidict import CIMultiDict, CIMultiDictProxy

from proxy.api.spares import Spares
from proxy.engine.types import Address
from proxy.errors import BackendDied

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
HOP_BY_HOP_VALUES = frozenset({"close", "keep-alive"})  # of `Connection`: they name no header
# What may lie here for a client that reads slower than its engine writes.
MOST_BUFFERED_BYTES = 1 << 18
FIRST_FINAL_STATUS = 200


class BrokenAnswer(Exception):
    """The engine went away, or made no sense, in the middle of an answer."""


class Call:
    """One request to an engine: `async with` sends it and hands out the answer once its head is
    there.

    Leaving the block closes the connection, which is how an engine learns that nobody listens.
    Raises BackendDied where no answer began. `target` and `headers` have to be free of line breaks.
    """

    __slots__ = ("_address", "_answer", "_message", "_method", "_spares")

    def __init__(
        self,
        address: Address,
        method: str,
        target: str,
        *,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        spares: Spares | None = None,
    ) -> None:
        lines = [f"{method} {target} HTTP/1.1", "Host: engine", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in headers]
        if body or method not in ("GET", "HEAD"):
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")
        self._address, self._method, self._spares = address, method, spares
        self._message = (head, body) if body else (head,)

    async def __aenter__(self) -> "Answer":
        spare = self._spares.take(self._address) if self._spares is not None else None
        if spare is not None:
            self._answer = Answer(self._method)
            spare.set_protocol(self._answer)
            self._answer.connection_made(spare)
            if await self._answer.begins(self._message):
                return self._answer
            # It was closed just now: only a new connection tells how the engine is.
        self._answer = await _connect(self._address, self._method)
        if not await self._answer.begins(self._message):
            why = self._answer.why_broken
            raise BackendDied(f"the engine went away before it answered: {why}")
        return self._answer

    async def __aexit__(self, *_: object) -> None:
        self._answer.abort()


async def _connect(address: Address, method: str) -> "Answer":
    loop = asyncio.get_running_loop()
    answer = Answer(method)
    try:
        # On this machine a connection is there or refused at once: no need for a timer.
        if address.socket:
            await loop.create_unix_connection(lambda: answer, address.socket)
        else:
            await loop.create_connection(lambda: answer, "127.0.0.1", address.port or 0)
    except OSError as error:
        raise BackendDied(f"the engine does not take connections: {error}") from error
    return answer


class Answer(asyncio.Protocol):
    """One answer as it comes: status, headers, and its body piece by piece, once."""

    def __init__(self, method: str) -> None:
        self.status = 0
        self.reason = ""
        self.headers: CIMultiDict[str] = CIMultiDict()
        self.head: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._has_no_body = method == "HEAD"
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        # What changes while the body comes:
        self._chunks: deque[bytes] = deque()
        self._buffered = 0
        self._paused = False
        self._complete = False
        self._broken: BrokenAnswer | None = None
        self._news: asyncio.Future[None] | None = None

    async def begins(self, message: Sequence[bytes]) -> bool:
        """Send the request; whether an answer to it began. Cancelling this ends the connection."""
        assert self._transport is not None
        try:
            self._transport.writelines(message)
            await self.head
        except BrokenAnswer:
            return False
        except BaseException:
            self.abort()
            raise
        return True

    @property
    def why_broken(self) -> str:
        return str(self._broken or "")

    def abort(self) -> None:
        """Close the connection, whatever is on its way."""
        if self._transport is not None:
            self._transport.abort()

    async def piece(self) -> bytes:
        """More of the body as it came, joined where it came faster than it was taken; nothing at
        its end.

        Raises BrokenAnswer where it ends too early.
        """
        while not self._chunks:
            if self._broken is not None:
                raise self._broken
            if self._complete:
                return b""
            self._news = asyncio.get_running_loop().create_future()
            await self._news
        piece = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._buffered = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return piece

    async def read(self) -> bytes:
        """The whole body; for the proxy's own, small questions."""
        pieces = []
        while piece := await self.piece():
            pieces.append(piece)
        return b"".join(pieces)

    # --- asyncio's side -------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of other classes, with the same methods.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._break(f"it did not speak HTTP: {error}")
        self._tell()
        if self._buffered > MOST_BUFFERED_BYTES and not self._paused and self._transport:
            self._paused = True
            self._transport.pause_reading()

    def connection_lost(self, error: Exception | None) -> None:
        if self.head.done() and not self._has_length():
            self._complete = True  # such a body ends where the connection does
        if not self._complete:
            self._break(str(error or "it closed the connection"))
        self._tell()

    # --- the parser's side ----------------------------------------------------------------------

    def on_status(self, reason: bytes) -> None:
        self.reason = reason.decode("latin-1")

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

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)


def end_to_end(
    headers: CIMultiDict[str] | CIMultiDictProxy[str], dropped: Set[str] = HOP_BY_HOP
) -> list[tuple[str, str]]:
    """All but those `dropped` (lower case; HOP_BY_HOP among them), and what is named as this
    connection's own."""
    connection = headers.get("Connection", "").lower()
    if connection and connection not in HOP_BY_HOP_VALUES:
        dropped = dropped | {name.strip() for name in connection.split(",")}
    return [pair for pair in headers.items() if pair[0].lower() not in dropped]
