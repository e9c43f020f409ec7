"""When the machine's own memory is short. Pure."""

from dataclasses import dataclass
from typing import Final, Literal

from proxy.memory.readings import HostReading
from proxy.text import gib

# The share of the time in which some task waits for memory: below it, nobody notices.
HIGH_PRESSURE: Final = 0.1
LOW_BYTES: Final = 1 << 30
# Quiet for so long, an episode is over: pages that are read again come in bursts.
CALM_S: Final = 10.0


def pressure_of(host: HostReading) -> str | None:
    """What is wrong with the machine's memory now, for people; None while it is well, and where
    nothing is known."""
    found = []
    if host.pressure is not None and host.pressure > HIGH_PRESSURE:
        found.append(f"programs wait for memory {host.pressure:.0%} of the time")
    if host.available_bytes is not None and host.available_bytes < LOW_BYTES:
        found.append(f"{gib(host.available_bytes)} of RAM are available")
    return "; ".join(found) or None


@dataclass(slots=True)
class Episodes:
    """Makes episodes of single readings, so that each is told once."""

    _pressed_s: float | None = None  # when memory was last short in this episode

    def look(self, host: HostReading, now_s: float) -> Literal["begun", "over"] | None:
        """What this reading means."""
        begun = self._pressed_s is None
        if pressure_of(host) is not None:
            self._pressed_s = now_s
            return "begun" if begun else None
        if self._pressed_s is None or now_s - self._pressed_s < CALM_S:
            return None
        self._pressed_s = None
        return "over"
