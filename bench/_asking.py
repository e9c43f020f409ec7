"""Requests of `bench.passthrough`, on bare connections, so that the client costs little."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

# What nginx answers while the worker's queue of new connections is full (it is short, and a Unix
# socket makes nobody wait): the proxy waits by itself, so who asks nginx does.
OK, FULL = b"HTTP/1.1 200", b"HTTP/1.1 502"
WAIT_S, GUARD_S = 0.002, 60.0
END = b"\r\n0\r\n\r\n"

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Connection]]


@dataclass(frozen=True, slots=True)
class Times:
    """Of one streamed answer: seconds to its first byte, its first event, its end; its tokens."""

    first_byte_s: float
    first_event_s: float
    total_s: float
    tokens: int


def request(max_tokens: int, prompt: str, *, stream: bool = True, lines: str = "") -> bytes:
    """`lines`: more of its head, each with its end."""
    body = json.dumps(
        {
            "model": "bench",
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": stream,
        }
    ).encode()
    head = (
        f"Host: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n{lines}\r\n"
    )
    return b"POST /v1/chat/completions HTTP/1.1\r\n" + head.encode() + body


async def ask(connection: Connection, message: bytes) -> Times:
    """Send one request and read its answer to the end."""
    reader, writer = connection
    started_s = time.perf_counter()
    writer.write(message)
    answer = await reader.read(1 << 16)
    while answer.startswith(FULL) and time.perf_counter() < started_s + GUARD_S:
        await asyncio.sleep(WAIT_S)
        writer.write(message)
        answer = await reader.read(1 << 16)
    if not answer.startswith(OK):
        raise SystemExit(answer[:500].decode(errors="replace"))
    first_byte_s = time.perf_counter() - started_s
    parts = [answer]
    tail = answer
    while b"data:" not in answer:
        answer = await reader.read(1 << 16)
        if not answer:
            raise SystemExit(f"the answer ended early: {parts!r}")
        parts.append(answer)
        tail = (tail + answer)[-16:]
    first_event_s = time.perf_counter() - started_s
    while not tail.endswith(END):
        part = await reader.read(1 << 16)
        if not part:
            raise SystemExit(f"the answer ended early: {b''.join(parts)[-300:]!r}")
        parts.append(part)
        tail = (tail + part)[-16:]
    total_s = time.perf_counter() - started_s
    return Times(first_byte_s, first_event_s, total_s, b"".join(parts).count(b'"content":"'))


class Kept:
    """A connection that is kept for one short request after the other, as clients with a pool keep
    theirs: where the server closes it, another one is made."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._open: Connection | None = None

    async def ask(self, message: bytes) -> None:
        """Send a request, and read its answer, which is no stream."""
        if self._open is not None and self._open[0].at_eof():
            self.close()
        fresh = self._open is None
        try:
            async with asyncio.timeout(GUARD_S):
                while not await self._exchange(message):
                    await asyncio.sleep(WAIT_S)
        except (ConnectionError, asyncio.IncompleteReadError):
            if fresh:
                raise
            self.close()  # the server closed it while we asked
            await self._exchange(message)

    async def _exchange(self, message: bytes) -> bool:
        """Whether it was answered; not where the worker's queue is full."""
        reader, writer = self._open = self._open or await self._connect()
        writer.write(message)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith((OK, FULL)):
            raise SystemExit(head.decode(errors="replace"))
        if b"\r\ntransfer-encoding: chunked" in head.lower():
            await reader.readuntil(END)
        else:
            await reader.readexactly(_length(head))
        if b"\r\nconnection: close" in head.lower():
            self.close()
        return not head.startswith(FULL)

    def close(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None


def _length(head: bytes) -> int:
    lines = head.lower().split(b"\r\n")
    return int(next(line for line in lines if line.startswith(b"content-length:"))[15:])
