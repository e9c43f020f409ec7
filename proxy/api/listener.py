"""The sockets on which the proxy is served: lets clients in, asks as one, lets nobody in."""

import asyncio
import errno
import socket
from collections.abc import Sequence
from typing import Any, Final

import structlog
from aiohttp import hdrs, web

from proxy.node.identity import Identity

log = structlog.get_logger()

# Connections that wait to be let in. The kernel makes it less (net.core.somaxconn); to listen with
# less than a socket unit says would lower what it says.
QUEUE: Final = 65535
# Who was let in before a restart has so long to say what they want, and is served.
LAST_WORDS_S: Final = 1.0
LOOKS: Final = 50  # how often it is looked meanwhile whether anybody is left
# 0 would mean to wait for ever.
AT_ONCE_S: Final = 0.01
QUESTION: Final = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
NOBODY: Final = Identity()
# The network has changed, which is no fault of ours and not mended by a restart.
NOT_OURS: Final = frozenset({errno.EADDRNOTAVAIL, errno.ENETUNREACH, errno.EHOSTUNREACH})


class Listener:
    """Serves a runner's application on sockets that listen already."""

    def __init__(
        self,
        runner: web.AppRunner,
        sockets: Sequence[socket.socket],
        *,
        inherited: bool,
        node: Identity = NOBODY,
    ) -> None:
        """`inherited`: they belong to another process, and stay open when we close them. `node`:
        what we are in a fleet, which may speak TLS."""
        self._runner = runner
        self._sockets = sockets
        self._inherited, self._node = inherited, node
        self._addresses = [(sock.getsockname(), sock.family) for sock in sockets]
        # What changes: whether clients are let in.
        self._open = False
        runner.app.on_response_prepare.append(self._goodbye)

    async def start(self) -> None:
        await self._runner.setup()
        for sock in self._sockets:
            tls = self._node.server_tls
            await web.SockSite(self._runner, sock, backlog=QUEUE, ssl_context=tls).start()
        self._open = True

    async def answers(self, within_s: float) -> bool:
        """Whether clients get an answer now, at each of the sockets; found out by asking as one of
        them. True once nobody new is let in: what runs then is to come to its end."""
        if not self._open:
            return True
        asked = (is_answered(*each, within_s, self._node) for each in self._addresses)
        answered = all(await asyncio.gather(*asked))
        return answered or not self._open  # it may have ended meanwhile

    async def leave(self) -> None:
        """Have new clients wait for our successor, where there is one to wait for: in the queue of
        an inherited socket. Sockets of our own stay open."""
        if not self._inherited:
            return
        await self.let_nobody_in()
        server = self._runner.server
        if server is None:
            return
        for _ in range(LOOKS):
            if not server.connections:
                break
            await asyncio.sleep(LAST_WORDS_S / LOOKS)
        server.pre_shutdown()  # ends those that say nothing, and the others after their answer

    async def kill(self) -> None:
        """End every connection, whatever it is at."""
        await self.let_nobody_in()
        if self._runner.server:
            await self._runner.server.shutdown(AT_ONCE_S)

    async def let_nobody_in(self) -> None:
        self._open = False
        for site in list(self._runner.sites):
            await site.stop()

    async def _goodbye(self, _: web.Request, answer: web.StreamResponse) -> None:
        """Clients are told where this is the last answer on a connection, so that none sends
        another request into its end."""
        if self._inherited and not self._open:
            answer.force_close()
            answer.headers[hdrs.CONNECTION] = "close"


async def is_answered(address: Any, family: int, within_s: float, node: Identity = NOBODY) -> bool:
    """Whether /health answers at a listening socket's address."""
    try:
        async with asyncio.timeout(within_s):
            said = await _said_at(address, family, node)
    except OSError as error:  # TimeoutError too
        if error.errno in NOT_OURS:
            return True
        said = repr(error).encode()
    if not said.startswith(b"HTTP/1."):
        log.warning("own_port_does_not_answer", address=address, said=said[:100])
        return False
    return True


async def _said_at(address: Any, family: int, node: Identity) -> bytes:
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, _reachable(address))
        tls = node.of_itself_tls
        reader, writer = await asyncio.open_connection(
            sock=sock, ssl=tls, server_hostname="" if tls else None
        )
        try:
            own = "".join(f"{name}: {value}\r\n" for name, value in node.own_headers.items())
            writer.write(QUESTION + own.encode() + b"\r\n")
            return await reader.readline()
        finally:
            writer.close()


def _reachable(address: Any) -> Any:
    """Where to connect to; an address that means every interface is reached on loopback."""
    if not isinstance(address, tuple):  # a Unix socket
        return address
    host, *rest = address
    return ({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), *rest)
