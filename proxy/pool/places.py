"""The places that one backend has for requests, and who waits for one. Pure.

A server has slots, and serves whoever comes when all are taken in the order of arrival. So no more
go there than it has slots for; the others wait here, where each client has its share
(`proxy.pool.shares`). What was used is counted as the time for which a slot was taken.
"""

from typing import Final

import msgspec

from proxy.engine.types import LoadOptions
from proxy.pool.shares import Shares, Turn
from proxy.pool.work import Standing, Work

# Until something was measured, a unit of work counts as much. Only the order depends on it.
USUAL_PACE_S: Final = 0.02
# How much the last request counts among those before it.
WEIGHT: Final = 0.2
# Of answers that surely take no longer than this, as many more are sent ahead: a slot would be idle
# for a good part of the time otherwise, and they keep nobody waiting.
SHORT_S: Final = 0.02
LEAST_LEFT: Final = 0.1  # of what is expected: an answer that takes longer may take much longer


def slots_of(options: LoadOptions) -> int | None:
    """How many requests a backend serves at once; None where its command is not told how many."""
    told = any("{parallel}" in part for part in (*options.command, *options.args))
    return options.parallel if options.engine == "hosted" or told else None


class _Running(msgspec.Struct, frozen=True):
    work: Work
    turn: Turn
    since_s: float
    slots: int


class Places:
    """`slots`: how many the server has; None: nobody knows, and so nobody waits."""

    def __init__(self, slots: int | None) -> None:
        self._slots = slots
        self._shares = Shares()
        # What changes:
        self._taken = 0
        self._running: dict[int, _Running] = {}
        self._line: dict[int, tuple[Work, float]] = {}
        self._usual_s: float | None = None  # for how long a place is taken
        self._usual_units = 0.0

    def __len__(self) -> int:
        """How many wait."""
        return len(self._line)

    def __contains__(self, request: int) -> bool:
        """Whether it waits."""
        return request in self._line

    def are_free(self, work: Work) -> bool:
        """Whether one that came now would have a place."""
        return not self._line and self._has_room(work)

    def enter(self, request: int, work: Work, now_s: float) -> bool:
        """Take a place if there is one and nobody waits for it."""
        if not self.are_free(work):
            return False
        cost = self._cost_s(work)
        self._run(request, work, self._shares.enter(work.client, work.connection, cost), now_s)
        return True

    def wait(self, request: int, work: Work, now_s: float) -> None:
        """Have it wait for its turn."""
        self._line[request] = (work, now_s)
        self._shares.add(request, work.client, work.connection, self._cost_s(work))

    def next(self, now_s: float) -> int | None:
        """Who has a place now that waited for one; None: nobody, or there is no place."""
        if (first := self._shares.first()) is None or not self._has_room(self._line[first][0]):
            return None
        taken = self._shares.take()
        assert taken is not None
        request, turn = taken
        self._run(request, self._line.pop(request)[0], turn, now_s)
        return request

    def leave(self, request: int, now_s: float, *, answered: bool = False) -> None:
        """It does not wait any more, or gives its place back. Without effect where it did neither.
        `answered`: it had a whole answer, which is what others are measured by."""
        if self._line.pop(request, None):
            self._shares.remove(request)
        elif running := self._running.pop(request, None):
            self._taken -= running.slots
            took_s = now_s - running.since_s
            self._shares.correct(running.turn, took_s * running.slots)
            if answered:
                self._measure(took_s, running.work.units)
        if not self._running and not self._line:
            self._shares.clear()  # what somebody used while nobody else wanted it is no debt

    def dissolve(self) -> None:
        """Nobody waits here any more."""
        self._line.clear()
        self._shares.clear()

    def standings(self, backend: str, now_s: float) -> list[Standing]:
        """All that wait, the next one first."""
        ahead_s = sum(self._left_s(running, now_s) for running in self._running.values())
        found = []
        for position, (request, _) in enumerate(self._shares.in_order(), 1):
            work, since_s = self._line[request]
            expected_s = None if self._usual_s is None else ahead_s / (self._slots or 1)
            found.append(Standing(work, backend, position, now_s - since_s, expected_s))
            ahead_s += self._cost_s(work)
        return found

    def expected_s(self, now_s: float) -> float | None:
        """How long one that came now would wait; None: nothing was measured yet."""
        if self._usual_s is None or self._slots is None:
            return None
        waiting_s = sum(self._cost_s(work) for work, _ in self._line.values())
        running_s = sum(self._left_s(running, now_s) for running in self._running.values())
        return (waiting_s + running_s) / self._slots

    def _left_s(self, running: _Running, now_s: float) -> float:
        cost_s = self._cost_s(running.work)
        return max(cost_s - (now_s - running.since_s) * running.slots, LEAST_LEFT * cost_s)

    def _has_room(self, work: Work) -> bool:
        if self._slots is None or self._taken < self._slots:
            return True
        known = self._usual_s is not None and work.tokens is not None
        return known and self._cost_s(work) < SHORT_S and self._taken < 2 * self._slots

    def _run(self, request: int, work: Work, turn: Turn, now_s: float) -> None:
        slots = self._slots_of(work)
        self._taken += slots
        self._running[request] = _Running(work, turn, now_s, slots)

    def _slots_of(self, work: Work) -> int:
        # One that needs more than there are takes all; it does not wait until all are free, since
        # its first answers need not.
        return max(1, min(work.slots, self._slots or work.slots))

    def _cost_s(self, work: Work) -> float:
        pace_s = self._usual_s / self._usual_units if self._usual_s else USUAL_PACE_S
        return work.units * pace_s * self._slots_of(work)

    def _measure(self, took_s: float, units: int) -> None:
        if self._usual_s is None:
            self._usual_s, self._usual_units = took_s, float(units)
        else:
            self._usual_s += WEIGHT * (took_s - self._usual_s)
            self._usual_units += WEIGHT * (units - self._usual_units)
