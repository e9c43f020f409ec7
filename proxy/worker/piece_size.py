"""How large the pieces of a copy may be that shares its way with decode steps.

A step asks a device for many things, one after the other, and on an RPC connection each of them may
have to wait for a piece: so a piece that takes as long as a step makes it many times as long. How
many there are, and how fast the way is, nobody says. So it is measured: how long steps take by
themselves, and how long beside the copy; pieces become smaller until the difference is small.
"""

import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median
from typing import Final

LEAST_BYTES: Final = 64 << 10  # smaller ones take as long: the way there and back counts
MOST_BYTES: Final = 4 << 20
# Steps beside a copy may take so many times as long as others. Below the lower bound pieces grow
# again: a copy that takes longer delays more steps.
TOO_LONG: Final = 1.6
SHORT: Final = 1.3
SHRINKS, GROWS = 0.5, 1.1
FIRST_BYTES: Final = 256 << 10  # beside steps of which nothing is known yet
# How steps are by themselves is looked at before a copy, unless that was so lately. Slower ones
# than this are not worth the waiting: pieces are short beside them.
LOOKED_AT: Final = 3
LOOK_S: Final = 0.6
POLL_S: Final = 0.001
KNOWN_S: Final = 2.0
# A server is idle that is in no step at so many looks.
IDLE_LOOKS: Final = 5


class PieceSize:
    """For one thread at a time."""

    def __init__(
        self,
        steps: Callable[[], int],
        stepping: Callable[[], bool],
        *,
        now: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`steps`: how many have begun. `stepping`: whether one runs now."""
        self._steps, self._stepping, self._now, self._sleep = steps, stepping, now, sleep
        # What changes: the size, seconds of a step by itself and when that was looked at, and the
        # last step that was seen to begin beside a copy, with when.
        self.bytes = MOST_BYTES
        self._usual_s: float | None = None
        self._looked_s = float("-inf")
        self._seen: tuple[int, float] | None = None

    def begin(self, stop: Callable[[], bool]) -> None:
        """Before a copy: look how steps are without one."""
        self._seen = None
        if self._now() - self._looked_s < KNOWN_S or stop():
            return
        before, self._usual_s = self._usual_s, self._look(stop)
        self._looked_s = self._now()
        if self._usual_s is None:
            self.bytes = MOST_BYTES
        elif before is None:
            self.bytes = FIRST_BYTES

    def piece_done(self) -> None:
        """After each piece: see how steps are beside it."""
        now_s, steps = self._now(), self._steps()
        if self._seen is None or self._seen[0] != steps:
            before, self._seen = self._seen, (steps, now_s)
            if before is not None and self._usual_s is not None:
                self._adapt((now_s - before[1]) / (steps - before[0]))

    def _adapt(self, step_s: float) -> None:
        assert self._usual_s is not None
        ratio = step_s / self._usual_s
        factor = SHRINKS if ratio > TOO_LONG else GROWS if ratio < SHORT else 1.0
        self.bytes = min(max(int(self.bytes * factor), LEAST_BYTES), MOST_BYTES)

    def _look(self, stop: Callable[[], bool]) -> float | None:
        """Seconds from one step's beginning to the next one's; None where none come, or none
        soon."""
        begun: list[float] = []
        last, idle, end_s = self._steps(), 0, self._now() + LOOK_S
        while self._now() < end_s and idle < IDLE_LOOKS and not stop():
            idle = 0 if self._stepping() else idle + 1
            if (steps := self._steps()) != last:
                last, idle = steps, 0
                begun.append(self._now())
                if len(begun) > LOOKED_AT:
                    break
            self._sleep(POLL_S)
        gaps = [after - before for before, after in pairwise(begun)]
        return median(gaps) if gaps else None
