"""A node's answer as it goes out: its bytes as they come, and the protocol's own error where it
breaks off. Like `proxy.api.reply`, which begins answers itself."""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import msgspec
from aiohttp import hdrs, web

from proxy.api.reply import EVENT_ENDS, EVENT_STREAM, LAST_WORD_S, LONGEST_EVENT_END
from proxy.dialect.errors import error_event, said_by_engine
from proxy.dialect.sign_of_life import PING
from proxy.errors import ProxyError
from proxy.fleet.front.refused import Refusal

LINES: Final = "application/x-ndjson"
_PING_LINES: Final = frozenset(PING.split(b"\n"))


class Answer:
    """The answer to one request, which several nodes may be asked for until it begins."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        # What changes:
        self.response: web.StreamResponse | None = None
        self.has_begun = False  # more went out than signs of life
        self.sent_bytes = 0
        self.broken: str | None = None  # why it has ended early
        self._tail = b""

    @property
    def is_stream(self) -> bool:
        """Whether its head went out, as one of a stream of events."""
        return self.response is not None and _kind(self.response) == EVENT_STREAM

    async def write(
        self, chunk: bytes, status: int, reason: str, headers: Iterable[tuple[str, str]]
    ) -> None:
        """More of it, behind its head. Raises ConnectionResetError."""
        if self.response is None:
            await self._prepare(status, reason, headers)
        assert self.response is not None
        if not self.has_begun:
            self.has_begun = not (self.is_stream and is_sign_of_life(chunk))
        self._tail = (self._tail + chunk[-LONGEST_EVENT_END:])[-LONGEST_EVENT_END:]
        self.sent_bytes += len(chunk)
        await self.response.write(chunk)

    async def end(
        self, status: int, reason: str, headers: Iterable[tuple[str, str]]
    ) -> web.StreamResponse:
        """All of it was written, if there was anything. Raises ConnectionResetError."""
        if self.response is None:
            await self._prepare(status, reason, headers)
        assert self.response is not None
        await self.response.write_eof()
        return self.response

    async def refuse(self, refusal: Refusal) -> web.StreamResponse:
        """Tell what a node said that could not. Raises ConnectionResetError."""
        if self.response is not None and not (refusal.is_event and self.is_stream):
            # A status has no place any more.
            return await self.fail(said_by_engine(refusal.body, refusal.status))
        if refusal.is_event:
            self.broken = f"{refusal.node}: {refusal}"
        if refusal.body:
            await self.write(refusal.body, refusal.status, refusal.reason, refusal.headers)
        return await self.end(refusal.status, refusal.reason, refusal.headers)

    async def fail(self, error: ProxyError) -> web.StreamResponse:
        """Tell that it ends here, where a head has gone out. Raises ConnectionResetError."""
        assert self.response is not None
        self.broken = error.message
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORD_S):
                if self.is_stream and (not self._tail or self._tail.endswith(EVENT_ENDS)):
                    await self.response.write(error_event(error, self._request.path))
                elif _kind(self.response) == LINES and self._tail.endswith(b"\n"):
                    # Ollama ends such a stream as any other.
                    await self.response.write(msgspec.json.encode({"error": error.message}) + b"\n")
                    await self.response.write_eof()
                    return self.response
        if self._request.transport is not None:
            # Without the end that HTTP asks for: half an answer must not look like a whole one.
            self._request.transport.close()
        return self.response

    async def _prepare(self, status: int, reason: str, headers: Iterable[tuple[str, str]]) -> None:
        self.response = web.StreamResponse(status=status, reason=reason, headers=headers)
        await self.response.prepare(self._request)


def is_sign_of_life(chunk: bytes) -> bool:
    """Whether a piece of a stream of events says nothing: comments and pings, whole ones."""
    if not chunk.endswith(b"\n\n"):
        return False
    return all(line[:1] == b":" or line in _PING_LINES for line in chunk.split(b"\n"))


def _kind(response: web.StreamResponse) -> str:
    return response.headers.get(hdrs.CONTENT_TYPE, "").partition(";")[0].strip().lower()
