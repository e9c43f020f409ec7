"""An answer as it goes out. Its head goes with its first byte: until then an engine may die, and
another one answer.

Where an event stream takes long to begin, its head goes first, and signs of life after it: nobody
in between takes the connection to be dead, and people see how long it will be. None of them is a
byte of the answer. Errors that come later are told as events, as they are in the middle of a
stream.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

from aiohttp import web

from proxy.api.refused import refusal_comment
from proxy.api.request_log import REQUEST_LOG
from proxy.api.services import SERVICES
from proxy.dialect.errors import error_event
from proxy.dialect.sign_of_life import is_comment, sign_of_life
from proxy.errors import BackendDied, Busy, ProxyError
from proxy.tasks import spawn

EVENT_STREAM: Final = "text/event-stream"
# What is between two events of a stream: an error has a place there, and nowhere else.
EVENT_ENDS: Final = (b"\n\n", b"\r\n\r\n")
LONGEST_EVENT_END: Final = 4
# Most answers have begun by then, and have their proper head.
PATIENCE_S: Final = 5.0
EVERY_S: Final = 5.0
# Of an answer that has begun, what comes slower than this is helped along: proxies in between give
# up after a minute, some after half of it.
QUIET_S: Final = 15.0
# How long a client that does not read may keep us from telling it that it is over.
LAST_WORD_S: Final = 2.0


class _Answer(web.StreamResponse):
    """One whose head goes out with the first that is written, in one piece. (aiohttp has it so for
    answers that are known as a whole.)"""

    _send_headers_immediately = False


class Reply:
    """The answer to one request."""

    def __init__(
        self, request: web.Request, path: str, waiting: Callable[[], str] | None = None
    ) -> None:
        """`path` is whose protocol it is. `waiting` says how it stands as long as nothing of it
        came; None: a silence is kept."""
        self._request, self._path = request, path
        self._log = request[REQUEST_LOG]
        # What changes:
        self.response: web.StreamResponse | None = None
        self.has_begun = False  # a byte of the answer itself went out
        self._tail = b""
        self._event: Callable[[ProxyError], bytes | None] | None = None
        self._signs = _SignsOfLife(self, path, waiting) if waiting else None

    @property
    def is_early(self) -> bool:
        """Whether its head went out before it was known what it would be."""
        return self.response is not None and not self.has_begun

    @property
    def is_between_events(self) -> bool:
        """Whether something else has a place here: what was written ends an event, and the client
        has taken it."""
        transport = self._request.transport
        taken = transport is not None and not transport.get_write_buffer_size()
        return taken and self._tail.endswith(EVENT_ENDS)

    @property
    def sent(self) -> int:
        """Bytes of the answer that went out."""
        return self._log.bytes_sent

    async def begin_early(self) -> web.StreamResponse:
        """Send the head of a stream of which nothing has come."""
        if self.response is None:
            headers = {
                "Content-Type": EVENT_STREAM,
                "Cache-Control": "no-cache",
                "X-Accel-Buffering": "no",  # nginx would keep it until it has enough of it
            }
            self.response = web.StreamResponse(headers=headers)
            await self.response.prepare(self._request)
        return self.response

    async def write(
        self, chunk: bytes, status: int, reason: str, headers: Iterable[tuple[str, str]]
    ) -> None:
        """More of the answer, behind its head. Raises ConnectionResetError."""
        if not self.has_begun:
            if self._signs is not None:
                if is_comment(chunk):
                    return  # an engine's own sign of life: there are ours, and nothing has begun
                await self._signs.begin()
            self.has_begun = True
        if self.response is None:
            self.response = _Answer(status=status, reason=reason, headers=headers)
            await self.response.prepare(self._request)
        self._tail = (self._tail + chunk[-LONGEST_EVENT_END:])[-LONGEST_EVENT_END:]
        await self.response.write(chunk)
        self._log.sent(len(chunk))

    async def end(self, status: int, reason: str, headers: Iterable[tuple[str, str]]) -> None:
        """All of it was written, if there was anything. Raises ConnectionResetError."""
        await self.be_silent()
        if self.response is None:
            self.response = _Answer(status=status, reason=reason, headers=headers)
            await self.response.prepare(self._request)
        await self.response.write_eof()
        self._log.ended = self.response.status

    def tell_errors(self, event: Callable[[ProxyError], bytes | None]) -> None:
        """From now on an error is told by this event, where it makes one."""
        self._event = event

    async def fail(self, error: ProxyError) -> web.StreamResponse:
        """Tell that it ends here, where a head has gone out. Raises ConnectionResetError."""
        await self.be_silent()
        assert self.response is not None
        self._log.broke(error.message, error.status)
        streams = self.response.headers.get("Content-Type") == EVENT_STREAM
        if self._may_be_asked_elsewhere(error):
            streams = False
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORD_S):
                if streams and (not self.has_begun or self._tail.endswith(EVENT_ENDS)):
                    event = self._event(error) if self._event else None
                    event = event or error_event(error, self._path)
                    if not self.has_begun:
                        event = refusal_comment(self._request, error) + event
                    await self.response.write(event)
                    if not self.has_begun:
                        await self.response.write_eof()
                        return self.response
        if self._request.transport is not None:
            # Without the end that the protocol asks for: half an answer must not look like a whole
            # one. What was written still goes out.
            self._request.transport.close()
        return self.response

    def _may_be_asked_elsewhere(self, error: ProxyError) -> bool:
        """Whether a front asks another machine of the fleet, which it does where an answer ends
        before it begins, and not where it is told why."""
        services = self._request.app[SERVICES]
        leaves = services.node.key is not None and services.pool.draining
        return leaves and isinstance(error, Busy | BackendDied) and not self.has_begun

    async def be_silent(self) -> None:
        """No more signs of life: what comes has no place for them, or nothing will come."""
        if self._signs is not None:
            signs, self._signs = self._signs, None
            await signs.end()

    def abandon(self) -> None:
        """Whatever happens next, nobody is told how it stands."""
        if self._signs is not None:
            self._signs.cancel()
            self._signs = None


class _SignsOfLife:
    """Says how it stands, from a while on, until the answer begins; and later that it goes on,
    where nothing else is said for long."""

    def __init__(self, reply: Reply, path: str, waiting: Callable[[], str]) -> None:
        self._reply, self._path, self._waiting = reply, path, waiting
        # What changes: whether the answer has begun, and how much of it there was at the last look.
        self._begun = asyncio.Event()
        self._sent = 0
        self._task: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(PATIENCE_S, self._look)

    def _look(self) -> None:
        if not self._begun.is_set():
            self._task = spawn(self._tell(), name="comments")
            return
        sent = self._reply.sent
        if sent == self._sent and self._reply.is_between_events:
            self._task = spawn(self._go_on(), name="ping")
        self._sent = sent
        self._timer = asyncio.get_running_loop().call_later(QUIET_S, self._look)

    async def _tell(self) -> None:
        with suppress(ConnectionResetError):  # it left: its handler hears of that too
            response = await self._reply.begin_early()
            while not self._begun.is_set():
                await response.write(sign_of_life(self._path, self._waiting()))
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._begun.wait(), EVERY_S)

    async def _go_on(self) -> None:
        # Something may have come since the look; nothing can between this one and the first byte.
        if self._reply.response is not None and self._reply.is_between_events:
            with suppress(ConnectionResetError):
                await self._reply.response.write(sign_of_life(self._path))

    async def begin(self) -> None:
        """The answer begins. Returns when the last comment is written: nothing of it is between two
        events."""
        self._begun.set()
        if self._task is not None:
            await asyncio.wait((self._task,))
            self._timer = asyncio.get_running_loop().call_later(QUIET_S, self._look)

    async def end(self) -> None:
        """No more of them."""
        self._timer.cancel()
        self._begun.set()
        if self._task is not None:
            await asyncio.wait((self._task,))

    def cancel(self) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
