"""An answer as it goes out. Its head goes with its first byte: until then an engine may die, and
another one answer.

Where an event stream takes long to begin, its head goes first, and comments after it: nobody in
between takes the connection to be dead, and people see how long it will be. Errors that come later
are told as events, as they are in the middle of a stream.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

from aiohttp import web

from proxy.api.middleware import REQUEST_LOG
from proxy.dialect.errors import error_event
from proxy.errors import ProxyError
from proxy.tasks import spawn

EVENT_STREAM: Final = "text/event-stream"
# What is between two events of a stream: an error has a place there, and nowhere else.
EVENT_ENDS: Final = (b"\n\n", b"\r\n\r\n")
LONGEST_EVENT_END: Final = 4
# Most answers have begun by then, and have their proper head.
PATIENCE_S: Final = 5.0
EVERY_S: Final = 5.0
# How long a client that does not read may keep us from telling it that it is over.
LAST_WORD_S: Final = 2.0


class Reply:
    """The answer to one request."""

    def __init__(
        self, request: web.Request, path: str, waiting: Callable[[], str] | None = None
    ) -> None:
        """`path` is whose protocol it is. `waiting` says how it stands as long as nothing of it
        came; None: a silence is kept."""
        self._request, self._path = request, path
        # What changes:
        self.response: web.StreamResponse | None = None
        self.has_begun = False  # a byte of the answer itself went out
        self._tail = b""
        self._event: Callable[[ProxyError], bytes | None] | None = None
        self._comments = _Comments(self, waiting) if waiting else None

    @property
    def is_early(self) -> bool:
        """Whether its head went out before it was known what it would be."""
        return self.response is not None and not self.has_begun

    async def begin_early(self) -> web.StreamResponse:
        """Send the head of a stream of which nothing has come."""
        if self.response is None:
            headers = {"Content-Type": EVENT_STREAM, "Cache-Control": "no-cache"}
            self.response = web.StreamResponse(headers=headers)
            await self.response.prepare(self._request)
        return self.response

    async def write(
        self, chunk: bytes, status: int, reason: str, headers: Iterable[tuple[str, str]]
    ) -> None:
        """More of the answer, behind its head. Raises ConnectionResetError."""
        if not self.has_begun:
            await self.be_silent()
            self.has_begun = True
        if self.response is None:
            self.response = web.StreamResponse(status=status, reason=reason, headers=headers)
            await self.response.prepare(self._request)
        await self.response.write(chunk)
        self._request[REQUEST_LOG].sent(len(chunk))
        self._tail = (self._tail + chunk[-LONGEST_EVENT_END:])[-LONGEST_EVENT_END:]

    async def end(self, status: int, reason: str, headers: Iterable[tuple[str, str]]) -> None:
        """All of it was written, if there was anything. Raises ConnectionResetError."""
        await self.be_silent()
        if self.response is None:
            self.response = web.StreamResponse(status=status, reason=reason, headers=headers)
            await self.response.prepare(self._request)
        await self.response.write_eof()
        self._request[REQUEST_LOG].ended = self.response.status

    def tell_errors(self, event: Callable[[ProxyError], bytes | None]) -> None:
        """From now on an error is told by this event, where it makes one."""
        self._event = event

    async def fail(self, error: ProxyError) -> web.StreamResponse:
        """Tell that it ends here, where a head has gone out. Raises ConnectionResetError."""
        assert self.response is not None
        self._request[REQUEST_LOG].broken = error.message
        streams = self.response.headers.get("Content-Type") == EVENT_STREAM
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORD_S):
                if streams and (not self.has_begun or self._tail.endswith(EVENT_ENDS)):
                    event = self._event(error) if self._event else None
                    await self.response.write(event or error_event(error, self._path))
                if not self.has_begun:
                    await self.response.write_eof()
                    return self.response
        if self._request.transport is not None:
            # Without the end that the protocol asks for: half an answer must not look like a whole
            # one. What was written still goes out.
            self._request.transport.close()
        return self.response

    async def be_silent(self) -> None:
        """No more comments: something comes, or nothing will."""
        if self._comments is not None:
            comments, self._comments = self._comments, None
            await comments.end()

    def abandon(self) -> None:
        """Whatever happens next, nobody is told how it stands."""
        if self._comments is not None:
            self._comments.cancel()
            self._comments = None


class _Comments:
    """Says how it stands, from a while on, until it is ended."""

    def __init__(self, reply: Reply, waiting: Callable[[], str]) -> None:
        self._reply, self._waiting = reply, waiting
        self._ended = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(PATIENCE_S, self._begin)

    def _begin(self) -> None:
        self._task = spawn(self._run(), name="comments")

    async def _run(self) -> None:
        with suppress(ConnectionResetError):  # it left: its handler hears of that too
            response = await self._reply.begin_early()
            while not self._ended.is_set():
                await response.write(b": %s\n\n" % self._waiting().encode())
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._ended.wait(), EVERY_S)

    async def end(self) -> None:
        """Returns when the last comment is written: nothing of it is between two events."""
        self._timer.cancel()
        self._ended.set()
        if self._task is not None:
            await asyncio.wait((self._task,))

    def cancel(self) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
