"""Speaks HTTP to the engines: one connection for each request, so that closing it ends exactly
that.

Not reused: llama-server gives each open connection one of its threads and closes it after a stream,
after a hundred requests or five idle seconds, and a request that meets such a closing could not be
told from a crash. A whole client session instead of this took half of the proxy's time.
"""

from collections.abc import Iterable, Set
from typing import Final

from multidict import CIMultiDict, CIMultiDictProxy

from proxy.engine.types import Address
from proxy.errors import BackendDied, NotServing, reason_of
from proxy.upstream.connection import EngineConnection, connect
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
# Of `Connection`: they name no header.
HOP_BY_HOP_VALUES: Final = frozenset({"close", "keep-alive"})


class Call:
    """One request to an engine: `async with` sends it and hands out the answer once its head is
    there.

    Leaving the block closes the connection, which is how an engine learns that nobody listens.
    Raises BackendDied where no answer began, NotServing where nobody listens. `target` and
    `headers` have to be free of line breaks.
    """

    __slots__ = ("_address", "_answer", "_is_head", "_message", "_warm")

    def __init__(
        self,
        address: Address,
        method: str,
        target: str,
        *,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        warm: WarmConnections | None = None,
    ) -> None:
        lines = [f"{method} {target} HTTP/1.1", "Host: engine", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in headers]
        if body or method not in ("GET", "HEAD"):
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")
        self._message = (head, body) if body else (head,)
        self._address, self._warm = address, warm
        self._is_head = method == "HEAD"

    async def __aenter__(self) -> EngineConnection:
        asked = False
        if self._warm is not None and (taken := self._warm.take(self._address)):
            if await self._send(taken):
                return taken
            # It was closed just now: only a new connection tells how the engine is.
            asked = True
        try:
            answer = await connect(self._address)
        except (ConnectionError, FileNotFoundError) as error:
            why = f"the engine does not take connections: {reason_of(error)}"
            raise NotServing(why, asked=asked) from error
        except OSError as error:
            why = f"the engine does not take connections: {reason_of(error)}"
            raise BackendDied(why) from error
        if not await self._send(answer):
            raise BackendDied(f"the engine went away before it answered: {answer.why_broken}")
        return answer

    async def _send(self, answer: EngineConnection) -> bool:
        self._answer = answer
        return await answer.send(self._message, has_no_body=self._is_head)

    async def __aexit__(self, *_: object) -> None:
        self._answer.abort()


def end_to_end(
    headers: CIMultiDict[str] | CIMultiDictProxy[str], dropped: Set[str] = HOP_BY_HOP
) -> list[tuple[str, str]]:
    """All but those `dropped` (lower case; HOP_BY_HOP among them), and what is named as this
    connection's own."""
    connection = headers.get("Connection", "").lower()
    if connection and connection not in HOP_BY_HOP_VALUES:
        dropped = dropped | {name.strip() for name in connection.split(",")}
    return [pair for pair in headers.items() if pair[0].lower() not in dropped]
