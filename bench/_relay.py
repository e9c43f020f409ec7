"""A process that copies bytes between a port and a Unix socket, and does nothing else: what any
process in between costs, whatever it does.

    python -m bench._relay SOCKET PORT
"""

import asyncio
import sys
from typing import cast

import uvloop


class Copies(asyncio.Protocol):
    """One end of a relayed connection; whatever comes is written to the other one."""

    def __init__(self, worker: str | None = None, other: asyncio.Transport | None = None) -> None:
        self._worker, self._other = worker, other
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._worker is not None:
            self._here = cast(asyncio.Transport, transport)
            self._connecting = asyncio.ensure_future(self._connect(self._worker))

    async def _connect(self, worker: str) -> None:
        loop = asyncio.get_running_loop()
        made = await loop.create_unix_connection(lambda: Copies(other=self._here), worker)
        self._other = made[0]
        for data in self._early:
            self._other.write(data)

    def data_received(self, data: bytes) -> None:
        if self._other is None:
            self._early.append(data)
        else:
            self._other.write(data)

    def connection_lost(self, _: Exception | None) -> None:
        if self._other is not None:
            self._other.close()


async def relay(worker: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Copies(worker), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(relay(sys.argv[1], int(sys.argv[2])))
