"""Keeps the ledger: what each backend holds, entered as of when it took it."""

from collections.abc import Iterable

from proxy.clock import Clock
from proxy.control.controller import Controller
from proxy.memory.ledger import Ledger
from proxy.pool.state import Backend


class Books:
    """Of all backends whose devices are known."""

    def __init__(self, *, ledger: Ledger, controller: Controller, clock: Clock) -> None:
        self._ledger, self._controller, self._clock = ledger, controller, clock
        # What changes: when each backend's books were kept last, and when it last had no move
        # under way.
        self._booked_s: dict[str, float] = {}
        self._still_s: dict[str, float] = {}

    def open(self, backend: Backend, *, at_s: float) -> None:
        """It is in the book from here on: with all that it took since `at_s`, so that readings
        which show that already are not taken for more room than there is."""
        self._booked_s[backend.id] = self._still_s[backend.id] = at_s

    def close(self, backend: Backend) -> None:
        """Its process is gone, and what it held is given back."""
        self._still_s.pop(backend.id, None)
        if self._booked_s.pop(backend.id, None) is not None:
            self._ledger.forget(backend.id, at_s=self._clock.now())

    def enter(self, backends: Iterable[Backend]) -> None:
        """Enter what each of these holds now."""
        now = self._clock.now()
        for backend in backends:
            # What changed since the last look began to change after the look before it; only what
            # a move brings has its memory from that move's beginning on.
            since = self._booked_s.get(backend.id)
            if since is None:
                continue
            held, still_s = backend.engine.known().held, self._still_s[backend.id]
            self._ledger.record(backend.id, held, at_s=since, taken_s=still_s)
            self._booked_s[backend.id] = now
            if not self._controller.moving(backend):
                self._still_s[backend.id] = now
