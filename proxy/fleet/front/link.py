"""The way to one node: a connection for each request, as to an engine, so that closing it ends
exactly that. Some are made before they are needed, which with TLS saves several milliseconds."""

import asyncio
import socket
from collections import deque
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from proxy.node.identity import Identity
from proxy.tasks import spawn
from proxy.upstream.connection import EngineConnection

CONNECT_S: Final = 3.0
# A node takes a connection for dead that says nothing for longer than a minute.
SPARE_AGE_S: Final = 20.0
MOST_SPARES: Final = 4
# A machine that is gone without a word is found out by the kernel, also where it is no member any
# more, and nobody follows it.
KEEPALIVE: Final = {"TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}


@dataclass(frozen=True, slots=True)
class _Spare:
    connection: EngineConnection
    end: asyncio.TimerHandle


class Link:
    """Connections to a node's moe-proxy."""

    def __init__(self, url: str, identity: Identity) -> None:
        """Raises ValueError for what is no URL of a node."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"no URL of a node: {url}")
        self.url = url.rstrip("/")
        self.host, self.port = parts.hostname, parts.port or (443 if parts.scheme[4:] else 80)
        self.tls = identity.client_tls if parts.scheme == "https" else None
        # What changes:
        self._spares: deque[_Spare] = deque()
        self._renewing = False
        self._closed = False

    def __repr__(self) -> str:
        return f"<Link {self.url} spares={len(self._spares)}>"

    async def connect(self) -> EngineConnection:
        """A connection, to be used for one request. Raises OSError (TimeoutError is one)."""
        while self._spares:
            spare = self._spares.popleft()
            spare.end.cancel()
            if spare.connection.is_open:
                self._renew()
                return spare.connection
        made = await self._connect()
        self._renew()
        return made

    def close(self) -> None:
        """Close those that nobody uses; the others go on."""
        self._closed = True
        self.forget()

    def forget(self) -> None:
        """Close those that nobody uses: the node may be another process by now."""
        while self._spares:
            spare = self._spares.popleft()
            spare.end.cancel()
            spare.connection.abort()

    async def _connect(self) -> EngineConnection:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_S):
            made = await loop.create_connection(
                EngineConnection, self.host, self.port, ssl=self.tls
            )
        _expect_life(made[0].get_extra_info("socket"))
        return made[1]

    def _renew(self) -> None:
        if not self._renewing and not self._closed and len(self._spares) < MOST_SPARES:
            self._renewing = True
            spawn(self._fill(), name="spare connections")

    async def _fill(self) -> None:
        try:
            while len(self._spares) < MOST_SPARES and not self._closed:
                made = await self._connect()
                if self._closed:
                    made.abort()
                    return
                loop = asyncio.get_running_loop()
                end = loop.call_later(SPARE_AGE_S, self._drop, made)
                self._spares.append(_Spare(made, end))
        except OSError:
            pass  # whoever asks next will be told why
        finally:
            self._renewing = False

    def _drop(self, connection: EngineConnection) -> None:
        for spare in list(self._spares):
            if spare.connection is connection:
                self._spares.remove(spare)
        connection.abort()


def _expect_life(connection: socket.socket | None) -> None:
    if connection is None:
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE.items():
        if hasattr(socket, option):  # Linux has all
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
