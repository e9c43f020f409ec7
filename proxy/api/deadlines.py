"""A server that does not wait for ever for the head of a request, nor for somebody to read the
answer.

aiohttp ends a connection that brings no whole request after its keep-alive time. That is right for
one that is idle between two requests, and too long for one that has begun to send. Who does not
read, or is not there any more, is found out by the kernel, which costs an answer nothing (tcp(7):
TCP_USER_TIMEOUT, TCP_KEEPIDLE).
"""

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final

from aiohttp import web

from proxy.api.malformed import TolerantConnection

HEAD_S: Final = 10.0
SILENT_S: Final = 60.0  # nginx's send_timeout
ANSWER: Final = (
    b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Type: text/plain\r\n"
    b"Content-Length: 44\r\n\r\nthe head of the request did not come in time"
)


class _Connection(TolerantConnection):
    """One connection of a client. What begins with an underscore and is not ours is aiohttp's."""

    __slots__ = ("_head_s", "_head_timer", "_silent_s")

    def __init__(self, *args: Any, head_s: float, silent_s: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_s, self._silent_s = head_s, silent_s
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        _expect_life(transport.get_extra_info("socket"), self._silent_s)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # It still waits for a request, though something came: that is a part of a head.
        waiting = self._waiter is not None and not self._waiter.done()
        if not waiting:
            self._stop_timer()
        elif self._head_timer is None:
            self._head_timer = self._loop.call_later(self._head_s, self._too_slow)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        self._head_timer = None
        if self.transport is not None:
            self.transport.write(ANSWER)
        self.force_close()


class _Server(web.Server):
    """The server that aiohttp has made, with connections of our kind."""

    def __init__(self, made: web.Server, **limits: Any) -> None:
        super().__init__(
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            loop=made._loop,
            **made._kwargs,
        )
        self._limits = limits

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._limits, **self._kwargs)


class DeadlineRunner(web.AppRunner):
    """An application's runner whose clients have `head_s` seconds for the head of a request, and
    have to read something of an answer that waits for them every `silent_s` seconds."""

    __slots__ = ("_limits",)

    def __init__(
        self,
        app: web.Application,
        *,
        head_s: float = HEAD_S,
        silent_s: float = SILENT_S,
        knows: Callable[[Mapping[str, str]], bool] = lambda _: True,
        **kwargs: Any,
    ) -> None:
        """`knows`: whether a request's headers are of somebody who gets more than a refusal."""
        super().__init__(app, **kwargs)
        self._limits = {"head_s": head_s, "silent_s": silent_s, "knows": knows}

    async def _make_server(self) -> web.Server:
        return _Server(await super()._make_server(), **self._limits)


def _expect_life(connection: socket.socket | None, silent_s: float) -> None:
    """Have the kernel end a connection whose other side takes nothing, or is gone, for so long."""
    if connection is None or connection.family == socket.AF_UNIX:
        return  # it has no such options; that its other side is gone is noticed at once
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_USER_TIMEOUT", round(silent_s * 1000)),
        ("TCP_KEEPIDLE", max(round(silent_s), 1)),
    ):
        if hasattr(socket, option):  # Linux has both
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
