"""How often memory is read. Pure."""

from typing import Final

POLL_S: Final = 0.25
# The same while nothing has changed for so long, and whoever reads would tell if it did: they look
# as often as before, which costs less than to have all of it weighed anew.
CALM_POLL_S: Final = 2.0
CALM_AFTER_S: Final = 5.0
# While we hold nothing on a device, nothing has to be moved in a hurry.
IDLE_POLL_S: Final = 5.0
# The machine's own is only told of, and the kernel tells when programs wait for it.
HOST_S: Final = IDLE_POLL_S
# How often it is read after that, and for how long: its shares of the last 10 s are made every 2 s.
PRESSED_POLL_S: Final = 2.0
PRESSED_S: Final = 10.0
NEVER: Final = float("-inf")


class Pace:
    """When the next poll is due, and whether it reads the machine's own memory too."""

    def __init__(self, poll_s: float = POLL_S, idle_poll_s: float = IDLE_POLL_S) -> None:
        self._poll_s, self._idle_poll_s = poll_s, idle_poll_s
        # What changes: when the machine's own memory is due, when programs last waited for it,
        # and when figures of devices changed.
        self._host_due_s = self._pressed_s = self._stirred_s = NEVER

    def interval_s(self, now_s: float, *, holds: bool, told: bool, calm: bool = False) -> float:
        """From one poll to the next. `holds`: whether we have memory of a device. `told`: whether
        the kernel tells when programs wait for memory; else it is read as if they had. `calm`:
        whether whoever reads would tell of a change of devices."""
        if holds:
            return max(self._poll_s, CALM_POLL_S) if calm else self._poll_s
        pressed = self._is_pressed(now_s, told)
        return min(self._idle_poll_s, PRESSED_POLL_S) if pressed else self._idle_poll_s

    def pressed(self, now_s: float) -> None:
        """Programs wait for the machine's memory."""
        self._pressed_s = now_s
        self.hurry()

    def stirred(self, now_s: float) -> None:
        """Figures of devices have changed, or what they are weighed by."""
        self._stirred_s = now_s

    def is_calm(self, now_s: float) -> bool:
        return now_s - self._stirred_s >= CALM_AFTER_S

    def hurry(self) -> None:
        """The next poll is to read everything."""
        self._host_due_s = NEVER

    def host_is_due(self, now_s: float) -> bool:
        return now_s >= self._host_due_s

    def host_asked(self, now_s: float, *, told: bool) -> None:
        self._host_due_s = now_s + (PRESSED_POLL_S if self._is_pressed(now_s, told) else HOST_S)

    def _is_pressed(self, now_s: float, told: bool) -> bool:
        return not told or now_s - self._pressed_s < PRESSED_S
