"""Connections to engines that are open before they are needed; `proxy.upstream.call` uses them."""

import time
from typing import Final

from proxy.engine.types import Address
from proxy.upstream.connection import EngineConnection, connect

# llama-server closes a connection that was idle for 5 s, so one of this age is still there for
# sure.
SPARE_AGE_S: Final = 3.0
RENEW_AGE_S: Final = 1.0


class WarmConnections:
    """One open, unused connection for each engine that was asked lately: connecting takes as long
    as all else that happens before a request is on its way."""

    def __init__(self) -> None:
        # What changes: address -> the connection and when it was made (monotonic).
        self._ready: dict[Address, tuple[EngineConnection, float]] = {}

    def take(self, address: Address) -> EngineConnection | None:
        """An open connection, to be used for one request, if there is one."""
        taken, made_s = self._ready.pop(address, (None, 0.0))
        if taken is None:
            return None
        if not taken.is_open or time.monotonic() - made_s > SPARE_AGE_S:
            taken.abort()
            return None
        return taken

    async def renew(self, address: Address) -> None:
        """Have one ready for the next request, and young enough."""
        if address.socket is None:
            return
        if address in self._ready and time.monotonic() - self._ready[address][1] < RENEW_AGE_S:
            return
        try:
            made = await connect(address)
        except OSError:
            return  # whoever asks next will be told why
        if (old := self.take(address)) is not None:
            old.abort()
        self._ready[address] = (made, time.monotonic())

    def close(self) -> None:
        for taken, _ in self._ready.values():
            taken.abort()
        self._ready.clear()
