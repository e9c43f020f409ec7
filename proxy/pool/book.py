"""What the scheduler keeps: the backends, who has a lease and who waits, and what is to be done;
and the entries that it makes, each of which leads to no other. When to make them, it decides."""

from proxy.pool.effects import Effect, Grant, SetTimer
from proxy.pool.events import Acquire
from proxy.pool.failures import Failures
from proxy.pool.roster import Roster
from proxy.pool.state import Backend, Name
from proxy.pool.waiting import WaitingList


class Book:
    """`max_queue` is how many requests may wait."""

    def __init__(self, *, max_queue: int) -> None:
        # What changes, all of it:
        self.backends = Roster()
        self.waiting = WaitingList(max_queue)
        self.failures = Failures()
        self.leases: dict[int, Name] = {}
        self.draining = False
        self.stale = 0  # reports on starts that are history
        self._now_s = 0.0
        self._effects: list[Effect] = []

    def _serve(self, event: Acquire, backend: Backend, *, retried: bool = False) -> None:
        """Grant it, or have it wait in line until it is its turn."""
        if event.work is None or backend.places.enter(event.request, event.work, self._now_s):
            self._grant(event, backend)
        else:
            backend.places.wait(event.request, event.work, self._now_s)
            self.waiting.add(event, backend.name, joined=False, retried=retried)

    def _serve_next(self, backend: Backend) -> None:
        """Grant those in line for whom there is a place now."""
        while (request := backend.places.next(self._now_s)) is not None:
            self._grant(self.waiting.pop(request).acquire, backend)

    def _grant(self, event: Acquire, backend: Backend) -> None:
        backend.take_on(event, self._now_s)
        self._set_timer(backend, None)
        self.leases[event.request] = backend.name
        self._effects.append(Grant(event.request, *backend.name))

    def _join(self, event: Acquire, backend: Backend, retried: bool) -> None:
        backend.waiting += 1
        self.waiting.add(event, backend.name, joined=True, retried=retried)

    def _failed(self, backend: Backend, why: str, *, in_doubt: bool) -> None:
        """Have the next start wait, unless this one has proven itself or failed already."""
        if backend.fail(why, self._now_s):
            options, files = backend.options, backend.files
            self.failures.note(options, why, files, self._now_s, in_doubt=in_doubt)

    def _set_timer(self, backend: Backend, at_s: float | None) -> None:
        if backend.expires_s != at_s:
            backend.expires_s = at_s
            self._effects.append(SetTimer(*backend.name, at_s))
