"""The requests without a lease. The scheduler keeps the list."""

from dataclasses import dataclass

from proxy.pool.events import Acquire
from proxy.pool.state import Name


@dataclass(slots=True)
class Waiting:
    """A request without a lease: it joined the start of `backend`, or is queued until that one is
    gone."""

    acquire: Acquire
    backend: Name
    joined: bool
    retried: bool  # what it waited for ended before: it is not tried a third time


class WaitingList(dict[int, Waiting]):
    """By request, in the order of arrival."""

    def add(self, event: Acquire, backend: Name, *, joined: bool, retried: bool) -> None:
        self[event.request] = Waiting(event, backend, joined, retried)

    def of(self, backend: Name, *, joined: bool) -> list[Waiting]:
        """Who joined this start, or else who is queued for its end."""
        return [w for w in self.values() if w.backend == backend and w.joined == joined]
