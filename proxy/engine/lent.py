"""RPC servers that are known only when a worker is started, and are there for that one alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from proxy.engine.rpc_names import RpcNames
from proxy.engine.types import Device


@dataclass(frozen=True, slots=True)
class LentServer:
    """`address` as host:port, and how much of its memory was lent."""

    address: str
    size_bytes: int


class Lent:
    """Those of one worker."""

    def __init__(self, servers: Callable[[], Sequence[LentServer]], names: RpcNames) -> None:
        self._servers, self._numbers = servers, names
        # What changes: those that it was started with.
        self._taken: tuple[LentServer, ...] = ()
        self.names: Mapping[str, str] = {}

    def take(self) -> tuple[str, ...]:
        """The addresses of those that are there now; `names` are those of their devices."""
        self._taken = tuple(self._servers())
        addresses = tuple(server.address for server in self._taken)
        self.names = self._numbers.of(addresses)
        return addresses

    def give_back(self) -> None:
        """The worker has ended. May be called again."""
        self._numbers.forget([server.address for server in self._taken])
        self._taken = ()

    def within(self, device: Device, held_bytes: int) -> Device:
        """A device as far as it was lent, of which its worker holds so much: a server shows all
        that its machine has."""
        for server in self._taken:
            if device.description == server.address:
                left, most = max(server.size_bytes - held_bytes, 0), server.size_bytes
                free, total = device.free_bytes, device.total_bytes
                return replace(
                    device,
                    free_bytes=left if free is None else min(free, left),
                    total_bytes=most if total is None else min(total, most),
                )
        return device
