"""What is asked of each backend, by level, what comes of it, and the questions about it that all
parts of the control loop have. It only knows; the controller changes it.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from proxy.control.migration import Migration
from proxy.engine.types import Status
from proxy.placement.assign import Placement, display_n
from proxy.policy.model import Policies
from proxy.pool.state import Backend, Name
from proxy.split import Split

NOWHERE: Placement = {}


@dataclass(slots=True)
class DesiredState:
    """What is asked of one start of a backend; the first level that is set counts."""

    policy: Split
    migration: Migration  # what comes of it
    request: Split | None = None
    operator: Split | None = None
    # Layers that are faster on the CPU, as `moe-proxy bench` has measured: not for "auto" to move.
    floor: int = 0
    # Set once it is known what devices there are and what they have room for, or that nobody says.
    devices_known: asyncio.Event = field(default_factory=asyncio.Event)
    devices: frozenset[str] = frozenset()  # those that this backend has, as far as that is known
    # Counts the ends of use: a timer that was set at an earlier one is of no interest any more.
    idle_number: int = 0
    # What `current` said last, and of which status and split: each answer's header asks for it.
    cached_n: tuple[Status, Split, int] | None = None

    @property
    def split(self) -> Split:
        for level in (self.request, self.operator):
            if level is not None:
                return level
        return self.policy

    @property
    def first_reason(self) -> str:
        """Why experts go where they do when they are placed for the first time: somebody may have
        asked already while nobody knew of the devices."""
        if self.request is not None:
            return "request"
        return "load" if self.operator is None else "operator"


class DesiredStates:
    """Of all backends that are ready, or drain. A restart is a new one."""

    def __init__(self, policies: Callable[[], Policies]) -> None:
        self._policies = policies
        # What changes:
        self._states: dict[Name, DesiredState] = {}

    def open(self, backend: Backend, state: DesiredState) -> None:
        self._states[backend.name] = state

    def close(self, backend: Backend) -> None:
        """It is gone: nothing more will be known of its devices, for which somebody may wait."""
        if (state := self._states.pop(backend.name, None)) is not None:
            state.devices_known.set()

    def close_all(self) -> None:
        """Stop waiting for moves; the engines end with the pool."""
        for state in self._states.values():
            state.migration.cancel()
        self._states.clear()

    def get(self, backend: Backend) -> DesiredState | None:
        return self._states.get(backend.name)

    def split(self, backend: Backend) -> Split | None:
        """What is asked for, by whoever counts most."""
        state = self.get(backend)
        return state.split if state else None

    def current(self, backend: Backend) -> int | None:
        """`moe_cpu_layers` as it is now; None before the backend is ready, or where that is not
        known."""
        foreign = backend.options.engine == "command" and backend.options.split is None
        state = self.get(backend)
        if state is None or foreign:
            return None
        status = backend.engine.known()
        if not status.block_count:
            return backend.options.split
        split, cached = state.split, state.cached_n
        if cached is None or cached[0] is not status or cached[1] != split:
            cached = state.cached_n = status, split, display_n(status, split)
        return cached[2]

    def history(self, backend: Backend) -> list[dict[str, Any]]:
        """The last moves, oldest first: {"at", "why", "from", "to", "layers", "bytes",
        "staged_s", "gate_s", "for"}."""
        state = self.get(backend)
        return list(state.migration.history) if state else []

    def goal(self, backend: Backend) -> Placement:
        """Where its experts are to be, as far as they were told to be somewhere."""
        state = self.get(backend)
        return (state.migration.goal if state else None) or NOWHERE

    def moving(self, backend: Backend) -> bool:
        state = self.get(backend)
        return state is not None and state.migration.moving

    def expert_only(self, backend: Backend) -> list[str]:
        """The devices of a backend that the policies keep for experts only."""
        devices = state.devices if (state := self.get(backend)) else ()
        named = self._policies().devices.named.items()
        return [
            name
            for name, rules in named
            if name in devices and rules.experts and not rules.attention
        ]

    def no_expert_devices(self) -> set[str]:
        """The devices on which the policies want no experts."""
        named = self._policies().devices.named.items()
        return {name for name, rules in named if not rules.experts}

    async def wait_idle(self, backends: Iterable[Backend]) -> None:
        """Wait until none of these has a move under way. Has no bound of its own: a worker that
        hangs is ended, unless `hang_timeout` is 0."""
        for backend in backends:
            if (state := self.get(backend)) is not None:
                await state.migration.wait_idle()
