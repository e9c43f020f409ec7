"""The requests without a lease. The scheduler keeps the list."""

from dataclasses import dataclass

from proxy.pool.events import Acquire
from proxy.pool.state import Name


@dataclass(slots=True)
class Waiting:
    """A request without a lease: it joined the start of `backend`, is in its line, or is queued
    until that one is gone."""

    acquire: Acquire
    backend: Name
    joined: bool
    retried: bool  # what it waited for ended before: it is not tried a third time


class WaitingList(dict[int, Waiting]):
    """By request, in the order of arrival. `most` is how many may wait."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def add(self, event: Acquire, backend: Name, *, joined: bool, retried: bool) -> None:
        self[event.request] = Waiting(event, backend, joined, retried)

    def of(self, backend: Name, *, joined: bool) -> list[Waiting]:
        """Who joined this start, or else who is in its line or queued for its end."""
        return [w for w in self.values() if w.backend == backend and w.joined == joined]

    def take(self, backend: Name, *, joined: bool) -> list[Waiting]:
        """The same, and they are off the list."""
        taken = self.of(backend, joined=joined)
        for waiting in taken:
            del self[waiting.acquire.request]
        return taken

    def is_full_for(self, event: Acquire) -> bool:
        """Whether as many wait as may, all together or for this model."""
        if len(self) >= self.most:
            return True
        most, model = event.matching.max_queue, event.options.model
        if most is None or len(self) < most:
            return False
        return sum(w.acquire.options.model == model for w in self.values()) >= most
