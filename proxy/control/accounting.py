"""Keeps the ledger: what each backend holds, recorded as of when it took it."""

from collections.abc import Iterable

from proxy.clock import Clock
from proxy.control.desired import DesiredStates
from proxy.memory.ledger import Held, Ledger, Loading
from proxy.pool.state import Backend, Name


class LedgerSync:
    """Of all backends whose devices are known."""

    def __init__(self, *, ledger: Ledger, desired: DesiredStates, clock: Clock) -> None:
        self._ledger, self._desired, self._clock = ledger, desired, clock
        # What changes: what those began with that are being loaded, when what each start of a
        # backend holds was recorded last, when it last had no move under way, and what that was.
        self._loading: dict[Name, Loading] = {}
        self._synced_s: dict[Name, float] = {}
        self._still_s: dict[Name, float] = {}
        self._recorded: dict[Name, Held] = {}

    def begin(self, backend: Backend) -> None:
        """It is to be started now, and will take memory from here on."""
        self._loading[backend.name] = self._ledger.begin(at_s=self._clock.now())

    def register(self, backend: Backend) -> None:
        """It is in the ledger from here on: with all that it took since it began, so that readings
        which show that already are not taken for more room than there is, nor those which do not
        show it yet."""
        now = self._clock.now()
        self._synced_s[backend.name] = self._still_s[backend.name] = now
        held, loading = backend.engine.known().held, self._loading.pop(backend.name, None)
        self._ledger.record(backend.id, held, at_s=now, loading=loading)
        self._recorded[backend.name] = held

    def remove(self, backend: Backend) -> None:
        """Its process is gone, and what it held is given back."""
        self._loading.pop(backend.name, None)
        self._still_s.pop(backend.name, None)
        self._recorded.pop(backend.name, None)
        if self._synced_s.pop(backend.name, None) is not None:
            self._ledger.forget(backend.id, at_s=self._clock.now())

    def sync(self, backends: Iterable[Backend]) -> None:
        """Record what each of these holds now."""
        now = self._clock.now()
        for backend in backends:
            # What changed since the last look began to change after the look before it; only what
            # a move brings has its memory from that move's beginning on.
            since = self._synced_s.get(backend.name)
            if since is None:
                continue
            held, still_s = backend.engine.known().held, self._still_s[backend.name]
            if self._recorded.get(backend.name) is not held:
                self._ledger.record(backend.id, held, at_s=since, taken_s=still_s)
                self._recorded[backend.name] = held
            self._synced_s[backend.name] = now
            if not self._desired.moving(backend):
                self._still_s[backend.name] = now
