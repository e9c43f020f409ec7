"""The requests that engines are at: what comes of them as a whole, and how all of an engine's end
when it is given up. Kept by `proxy.upstream.call`."""

from proxy.engine.types import Address
from proxy.upstream.connection import EngineConnection


class OpenCalls:
    """One for all engines. A process that is stuck in the kernel keeps its connections open for
    ever, so their end is not left to it."""

    def __init__(self) -> None:
        # What changes: the open connections, and the bytes that came over those closed since.
        self._open: dict[Address, set[EngineConnection]] = {}
        self._closed_bytes: dict[Address, int] = {}

    def __repr__(self) -> str:
        return f"<OpenCalls {sum(map(len, self._open.values()))}>"

    def add(self, address: Address, connection: EngineConnection) -> None:
        self._open.setdefault(address, set()).add(connection)

    def discard(self, address: Address, connection: EngineConnection) -> None:
        """It is over, or was never added."""
        connections = self._open.get(address, set())
        if connection in connections:
            connections.remove(connection)
            so_far = self._closed_bytes.get(address, 0)
            self._closed_bytes[address] = so_far + connection.received_bytes

    def received_bytes(self, address: Address) -> int:
        """How many bytes an engine has answered so far; they never get fewer."""
        now = sum(connection.received_bytes for connection in self._open.get(address, ()))
        return self._closed_bytes.get(address, 0) + now

    def break_off(self, address: Address, why: str) -> None:
        """End all requests to an engine: each raises what it raises where the engine goes away."""
        for connection in tuple(self._open.get(address, ())):
            connection.break_off(why)

    def forget(self, address: Address) -> None:
        """The engine is gone: of what is still open, nothing will be asked."""
        self._open.pop(address, None)
        self._closed_bytes.pop(address, None)
