"""Connections to engines that are open before they are needed; `proxy.api.upstream` uses them."""

import asyncio
import time

from proxy.engine.types import Address

# llama-server closes a connection that was idle for 5 s, so one of this age is still there for
# sure.
SPARE_AGE_S = 3.0


class Spares:
    """One open, unused connection for each engine that was asked lately: connecting takes as long
    as all else that happens before a request is on its way."""

    def __init__(self) -> None:
        # What changes: address -> the connection and when it was made (monotonic).
        self._ready: dict[Address, tuple[asyncio.Transport, float]] = {}

    def take(self, address: Address) -> asyncio.Transport | None:
        """An open connection to be used for one request, if there is one."""
        transport, made_s = self._ready.pop(address, (None, 0.0))
        if transport is None or transport.is_closing():
            return None
        if time.monotonic() - made_s > SPARE_AGE_S:
            transport.abort()
            return None
        return transport

    async def renew(self, address: Address) -> None:
        """Have one ready for the next request."""
        if address.socket is None or address in self._ready:
            return
        try:
            made = await asyncio.get_running_loop().create_unix_connection(
                asyncio.Protocol, address.socket
            )
        except OSError:
            return  # whoever asks next will be told why
        if (old := self.take(address)) is not None:
            old.abort()
        self._ready[address] = (made[0], time.monotonic())

    def close(self) -> None:
        for transport, _ in self._ready.values():
            transport.abort()
        self._ready.clear()
