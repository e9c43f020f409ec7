"""Connections to engines that are open before they are needed; `proxy.upstream.call` uses them."""

import asyncio
from typing import Final

import msgspec

from proxy.engine.types import Address
from proxy.upstream.connection import EngineConnection, connect

# llama-server closes a connection that was idle for 5 s, so one of this age is still there for
# sure.
SPARE_AGE_S: Final = 3.0
RENEW_AGE_S: Final = 1.0


class _Spare(msgspec.Struct, frozen=True):
    connection: EngineConnection
    made_s: float  # by the loop's clock
    end: asyncio.TimerHandle


class WarmConnections:
    """One open, unused connection for each engine that was asked lately: connecting takes as long
    as all else that happens before a request is on its way. One that nobody takes is closed when it
    is too old, and so none outlives its engine for long."""

    def __init__(self) -> None:
        # What changes:
        self._ready: dict[Address, _Spare] = {}

    def __repr__(self) -> str:
        return f"<WarmConnections ready={len(self._ready)}>"

    def take(self, address: Address) -> EngineConnection | None:
        """An open connection, to be used for one request, if there is one."""
        spare = self._ready.pop(address, None)
        if spare is None:
            return None
        spare.end.cancel()
        age_s = asyncio.get_running_loop().time() - spare.made_s
        if not spare.connection.is_open or age_s > SPARE_AGE_S:
            spare.connection.abort()
            return None
        return spare.connection

    async def renew(self, address: Address) -> None:
        """Have one ready for the next request, and young enough."""
        if address.socket is None:
            return
        loop = asyncio.get_running_loop()
        known = self._ready.get(address)
        if known is not None and loop.time() - known.made_s < RENEW_AGE_S:
            return
        try:
            made = await connect(address)
        except OSError:
            return  # whoever asks next will be told why
        self._close(address)
        end = loop.call_later(SPARE_AGE_S, self._close, address)
        self._ready[address] = _Spare(made, loop.time(), end)

    def close(self) -> None:
        for address in list(self._ready):
            self._close(address)

    def _close(self, address: Address) -> None:
        spare = self._ready.pop(address, None)
        if spare is not None:
            spare.end.cancel()
            spare.connection.abort()
