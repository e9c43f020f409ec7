"""Who waits for a turn at which backend, for those who look: people, and the requests."""

from collections.abc import Mapping
from typing import Final

from proxy.clock import Clock
from proxy.pool.state import Backend
from proxy.pool.work import Standing, Work

# Many that wait ask how they stand: an answer of that age will do.
AGE_S: Final = 1.0


class Lines:
    """All lines, as they are."""

    def __init__(self, backends: Mapping[str, Backend], clock: Clock) -> None:
        self._backends, self._clock = backends, clock
        # What changes: all that wait, as they stood at that time.
        self._seen: dict[Work, Standing] = {}
        self._seen_s = float("-inf")

    def of(self, backend: Backend) -> list[Standing]:
        """Who waits for a turn, the next one first."""
        return backend.places.standings(backend.id, self._clock.now())

    def standing(self, work: Work) -> Standing | None:
        """How one stands; None: it waits for no turn, or has come just now."""
        if self._clock.now() - self._seen_s > AGE_S:
            self._seen = {s.work: s for b in self._backends.values() for s in self.of(b)}
            self._seen_s = self._clock.now()
        return self._seen.get(work)
