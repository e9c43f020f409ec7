"""Memory that devices show: what is really there, and what a reading tells of it."""

from collections import deque
from dataclasses import dataclass, field

from proxy.memory.readings import DeviceReading

MIB = 1 << 20


@dataclass
class Card:
    """The memory of one or several devices, in MiB."""

    name: str
    total: int
    devices: tuple[str, ...]
    others: int = 0
    lag_s: float = 0.0  # readings are as old as this
    hangs: bool = False
    ours: dict[object, int] = field(default_factory=dict)
    # (since when, used), as a reading may show it yet.
    _history: deque[tuple[float, int]] = field(default_factory=lambda: deque([(0.0, 0)]))
    _last_read_s: float = 0.0

    @property
    def free(self) -> int:
        return self.total - self.others - sum(self.ours.values())

    def others_take(self, size: int, now: float) -> None:
        """Other programs hold so much from now on, as far as there is room for it."""
        self.others = min(size, self.free + self.others)
        self.changed(now)

    def take(self, owner: object, size: int, now: float) -> bool:
        """Whether there was room for it."""
        if size > self.free:
            return False
        self.ours[owner] = self.ours.get(owner, 0) + size
        self.changed(now)
        return True

    def give_back(self, owner: object, now: float) -> None:
        self.ours.pop(owner, None)
        self.changed(now)

    def changed(self, now: float) -> None:
        self._history.append((now, self.total - self.free))

    def read(self, now: float) -> list[DeviceReading]:
        """What each device shows; the last good numbers while the driver hangs."""
        if not self.hangs:
            self._last_read_s = now
        at = self._last_read_s - self.lag_s
        while len(self._history) > 1 and self._history[1][0] <= at:
            self._history.popleft()
        used = self._history[0][1]
        source = f"sim:{self.name}" if len(self.devices) > 1 else "ggml"
        return [
            DeviceReading(
                name=device,
                description=device,
                source=source,
                total_bytes=self.total * MIB,
                free_bytes=(self.total - used) * MIB,
                used_bytes=used * MIB,
                at_s=self._last_read_s,
                stale=self.hangs,
                problem="does not answer" if self.hangs else None,
            )
            for device in self.devices
        ]
