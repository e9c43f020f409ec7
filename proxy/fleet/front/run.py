"""A front that serves: its parts put together, for the length of a block."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

import structlog
from aiohttp import web

from proxy.api.listener import Listener
from proxy.fleet.front.nodes import Nodes
from proxy.fleet.front.server import Front, Part, make_front, make_runner
from proxy.node.identity import Identity

log = structlog.get_logger()

# What a front answers itself, in the order in which it is looked for.
PARTS: Sequence[Part] = ()


@dataclass(frozen=True)
class Running:
    """A front that serves."""

    front: Front
    nodes: Nodes
    _listener: Listener
    _inherited: bool

    async def drain(self, most_s: float) -> None:
        """Let nobody new in, and what runs end, for so long at most. Whoever comes meanwhile waits
        in the queue of an inherited socket."""
        if self._inherited:
            await self._listener.leave()
        else:
            await self._listener.let_nobody_in()
        log.info("draining", drain_s=most_s, in_flight=self.front.visitors.count)
        with suppress(TimeoutError):
            async with asyncio.timeout(most_s):
                await self.front.visitors.until_none()

    async def kill(self) -> None:
        """End every connection, whatever it is at."""
        await self._listener.kill()


@asynccontextmanager
async def running(
    identity: Identity,
    sockets: Sequence[socket.socket],
    host: str,
    *,
    inherited: bool,
    parts: Sequence[Part] | None = None,
) -> AsyncIterator[Running]:
    """Serve on sockets that listen. Leaving the block ends everything at once."""
    async with AsyncExitStack() as stack:
        for sock in sockets:
            stack.callback(sock.close)
        nodes = await stack.enter_async_context(Nodes(identity))
        front, hung = make_front(nodes, identity, host)
        stack.callback(hung.close)
        runner: web.AppRunner = make_runner(front, PARTS if parts is None else parts)
        listener = Listener(runner, sockets, inherited=inherited)
        stack.push_async_callback(runner.cleanup)
        await listener.start()
        address = sockets[0].getsockname()
        shown = f"http://{address[0]}:{address[1]}" if isinstance(address, tuple) else str(address)
        log.info("front_serving", url=shown, node=identity.name)
        yield Running(front, nodes, listener, inherited)
