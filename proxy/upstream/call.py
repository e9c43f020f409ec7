"""Speaks HTTP to the engines: one connection for each request, so that closing it ends exactly
that.

Not reused: llama-server gives each open connection one of its threads and closes it after a stream,
after a hundred requests or five idle seconds, and a request that meets such a closing could not be
told from a crash. A whole client session instead of this took half of the proxy's time.
"""

import asyncio
from collections.abc import Iterable, Set
from typing import Final

from multidict import CIMultiDict, CIMultiDictProxy

from proxy.engine.types import Address
from proxy.errors import BackendDied, NotServing, reason_of
from proxy.upstream.connection import EngineConnection, connect
from proxy.upstream.open_calls import OpenCalls
from proxy.upstream.warm import WarmConnections

HOP_BY_HOP: Final = frozenset(
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
# How long a place in an engine's queue of connections is waited for, and how often it is tried.
CROWDED_S: Final = 120.0
CROWDED_POLL_S: Final = 0.05
# Of `Connection`: they name no header.
HOP_BY_HOP_VALUES: Final = frozenset({"close", "keep-alive"})


class Call:
    """One request to an engine: `async with` sends it and hands out the answer once its head is
    there.

    Leaving the block closes the connection, which is how an engine learns that nobody listens.
    Raises BackendDied where no answer began, NotServing where nobody listens. `target` and
    `headers` have to be free of line breaks.
    """

    __slots__ = ("_address", "_answer", "_calls", "_is_head", "_message", "_warm")

    def __init__(
        self,
        address: Address,
        method: str,
        target: str,
        *,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        warm: WarmConnections | None = None,
        calls: OpenCalls | None = None,
    ) -> None:
        """`calls`: who may end it together with all others of this engine."""
        lines = [f"{method} {target} HTTP/1.1", "Host: engine", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in headers]
        if body or method not in ("GET", "HEAD"):
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")
        self._message = (head, body) if body else (head,)
        self._address, self._warm, self._calls = address, warm, calls
        self._is_head = method == "HEAD"

    async def __aenter__(self) -> EngineConnection:
        asked = False
        if self._warm is not None and (taken := self._warm.take(self._address)):
            if await self._send(taken):
                return taken
            # It was closed just now: only a new connection tells how the engine is.
            asked = True
        try:
            answer = await self._connect()
        except (ConnectionError, FileNotFoundError) as error:
            why = f"the engine does not take connections: {reason_of(error)}"
            raise NotServing(why, asked=asked) from error
        except OSError as error:
            why = f"the engine does not take connections: {reason_of(error)}"
            raise BackendDied(why) from error
        if not await self._send(answer):
            raise BackendDied(f"the engine went away before it answered: {answer.why_broken}")
        return answer

    async def _connect(self) -> EngineConnection:
        """Raises OSError. As many may wait there as an engine that is busy takes in: then there is
        a place as soon as it goes on, or nobody listens any more once it is ended."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + CROWDED_S
        while True:
            try:
                return await connect(self._address)
            except BlockingIOError:
                if loop.time() > until_s:
                    raise
            await asyncio.sleep(CROWDED_POLL_S)

    async def _send(self, answer: EngineConnection) -> bool:
        self._answer = answer
        if self._calls is not None:
            self._calls.add(self._address, answer)
        began = False
        try:
            began = await answer.send(self._message, has_no_body=self._is_head)
        finally:
            if not began:
                self._done(answer)
        return began

    async def __aexit__(self, *_: object) -> None:
        self._done(self._answer)

    def _done(self, answer: EngineConnection) -> None:
        answer.abort()
        if self._calls is not None:
            self._calls.discard(self._address, answer)


# Says who asks, whatever its sender calls it.
_OF_NO_CONNECTION: Final = frozenset(
    {
        *("host", "origin", "referer", "user-agent", "authorization", "x-api-key"),
        *("sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest"),
    }
)


def end_to_end(
    headers: CIMultiDict[str] | CIMultiDictProxy[str], dropped: Set[str] = HOP_BY_HOP
) -> list[tuple[str, str]]:
    """All but those `dropped` (lower case; HOP_BY_HOP among them), and what is named as this
    connection's own."""
    connection = headers.get("Connection", "").lower()
    if connection and connection not in HOP_BY_HOP_VALUES:
        named = {name.strip() for name in connection.split(",")}
        dropped = dropped | (named - _OF_NO_CONNECTION)
    return [pair for pair in headers.items() if pair[0].lower() not in dropped]
