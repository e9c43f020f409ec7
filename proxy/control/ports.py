"""What the control loop needs of the parts around it, and no more: so that its tests need no
process, no device and no time."""

from collections.abc import Callable, Collection, Iterable
from typing import Any, Protocol

from proxy.engine.types import Device, LoadOptions
from proxy.memory.snapshot import Snapshot
from proxy.pool.state import Backend


class Backends(Protocol):
    """Who is there: proxy.pool.pool."""

    def backends(self) -> list[Backend]:
        """All backends, oldest first; those that failed are among them."""


class Pool(Backends, Protocol):
    """Who is there, and who has to go."""

    async def unload(self, target: str) -> int:
        """Have the backend with this id leave; returns when it is gone."""

    async def replace(self, backend_id: str, options: LoadOptions) -> None:
        """Load other options in its place, without a gap; returns when that is decided."""


class Readings(Protocol):
    """What memory there is: proxy.memory.watch."""

    def latest(self) -> Snapshot:
        """The last readings, without waiting."""


class Memory(Readings, Protocol):
    """The same, and what is to be read."""

    async def fresh(self) -> Snapshot:
        """Readings that begin after this call; the last ones where none can be had."""

    def subscribe(self, listener: Callable[[Snapshot], None]) -> Any:
        """Tell `listener` of all readings from now on."""

    def set_devices(self, devices: Iterable[Device]) -> None:
        """Which devices to read."""

    def set_pids(self, pids: Collection[int]) -> None:
        """Which processes are ours."""
