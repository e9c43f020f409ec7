"""The engine of a backend that has no process yet: it may be asked like any other, and has
nothing."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from proxy.engine.types import Address, Device, Engine, Move, Status
from proxy.errors import BackendDied, Conflict, LoadFailed

WHY_NOT: Final = "it has not been started yet"


class NotStarted:
    """Keeps the `Engine` protocol. One does for all backends."""

    @property
    def address(self) -> Address:
        """Raises BackendDied: nobody listens."""
        raise BackendDied(WHY_NOT)

    @property
    def pid(self) -> int | None:
        return None

    @property
    def live_moves(self) -> bool:
        return False

    @property
    def moves_by_reload(self) -> bool:
        return False

    @property
    def why_no_moves(self) -> str | None:
        return WHY_NOT

    @property
    def confined(self) -> str | None:
        return None

    @property
    def cause(self) -> str | None:
        return None

    async def start(self) -> None:
        """Raises LoadFailed: there is nothing that could be."""
        raise LoadFailed(WHY_NOT)

    async def wait_exit(self) -> int:
        """Raises BackendDied."""
        raise BackendDied(WHY_NOT)

    def known(self) -> Status:
        return Status(block_count=0)

    async def devices(self, tell: Callable[[], None] | None = None) -> Sequence[Device]:
        return ()

    async def pulse(self) -> int:
        return 0

    async def place(self, placement: Mapping[int, str], *, settle_s: float = 0.0) -> Move:
        """Raises Conflict."""
        raise Conflict(WHY_NOT)

    async def stop(self, grace_s: float = 10.0) -> None:
        return


NOT_STARTED: Final[Engine] = NotStarted()
