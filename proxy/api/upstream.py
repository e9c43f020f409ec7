"""Speaks HTTP to the engines: one connection for each request, so that closing it ends exactly
that.

Not reused: llama-server gives each open connection one of its threads and closes it after a stream,
after a hundred requests or five idle seconds, and a request that meets such a closing could not be
told from a crash. The parser is llhttp's; a whole client session took half of the proxy's time.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence, Set
from contextlib import asynccontextmanager
from typing import cast

import httptools
from multidict import CIMultiDict, CIMultiDictProxy

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


# llama-server closes a connection that was idle for 5 s, so one of this age is still there for
# sure.
SPARE_AGE_S = 3.0


class BrokenAnswer(Exception):
    """The engine went away, or made no sense, in the middle of an answer."""


class Spares:
    """One open, unused connection for each engine that was asked lately: connecting takes as long
    as all else that happens before a request is on its way."""

    def __init__(self) -> None:
        # What changes: address -> the connection and when it was made (monotonic).
        self._ready: dict[Address, tuple[asyncio.Transport, float]] = {}

    def take(self, address: Address) -> asyncio.Transport | None:
        """An open connection to be used for one request, if there is one."""
        transport, made_s = self._ready.pop(address, (None, 0.0))
        if transport is None or transport.is_closing():
            return None
        if time.monotonic() - made_s > SPARE_AGE_S:
            transport.abort()
            return None
        return transport

    async def renew(self, address: Address) -> None:
        """Have one ready for the next request."""
        if address.socket is None or address in self._ready:
            return
        try:
            made = await asyncio.get_running_loop().create_unix_connection(
                asyncio.Protocol, address.socket
            )
        except OSError:
            return  # whoever asks next will be told why
        if (old := self.take(address)) is not None:
            old.abort()
        self._ready[address] = (made[0], time.monotonic())

    def close(self) -> None:
        for transport, _ in self._ready.values():
            transport.abort()
        self._ready.clear()


@asynccontextmanager
async def ask(
    address: Address,
    method: str,
    target: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    spares: Spares | None = None,
) -> AsyncIterator["Answer"]:
    """Send a request to an engine and hand out the answer once its head is there.

    Leaving the block closes the connection, which is how an engine learns that nobody listens.
    Raises BackendDied where no answer began. `target` and `headers` have to be free of line breaks.
    """
    lines = [f"{method} {target} HTTP/1.1", "Host: engine", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in (headers or CIMultiDict()).items()]
    if body or method not in ("GET", "HEAD"):
        lines.append(f"Content-Length: {len(body)}")
    head = "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")
    message = (head, body) if body else (head,)
    spare = spares.take(address) if spares is not None else None
    if spare is not None:
        answer = Answer(method)
        spare.set_protocol(answer)
        answer.connection_made(spare)
        if not await answer.begins(message):
            spare = None  # it was closed just now: only a new connection tells how the engine is
    if spare is None:
        answer = await _connect(address, method)
        if not await answer.begins(message):
            raise BackendDied(f"the engine went away before it answered: {answer.why_broken}")
    try:
        yield answer
    finally:
        answer.abort()


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
    """One answer as it comes: status, headers, and its body by iterating, once."""

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

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The body in the pieces in which it came, joined where it came faster than it was taken.

        Raises BrokenAnswer where it ends too early.
        """
        while True:
            if self._chunks:
                chunk = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
                self._chunks.clear()
                self._buffered = 0
                if self._paused and self._transport is not None:
                    self._paused = False
                    self._transport.resume_reading()
                yield chunk
            elif self._broken is not None:
                raise self._broken
            elif self._complete:
                return
            else:
                self._news = asyncio.get_running_loop().create_future()
                await self._news

    async def read(self) -> bytes:
        """The whole body; for the proxy's own, small questions."""
        return b"".join([chunk async for chunk in self])

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
) -> CIMultiDict[str]:
    """A copy without those `dropped` (lower case; HOP_BY_HOP among them), and without what is named
    as this connection's own."""
    connection = headers.get("Connection", "").lower()
    if connection and connection not in HOP_BY_HOP_VALUES:
        dropped = dropped | {name.strip() for name in connection.split(",")}
    return CIMultiDict([pair for pair in headers.items() if pair[0].lower() not in dropped])
