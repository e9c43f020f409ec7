"""The backends that there are, by id. The scheduler keeps it."""

from proxy.engine.types import LoadOptions
from proxy.pool.events import MatchPolicy
from proxy.pool.failures import same_start
from proxy.pool.pins import Pinned
from proxy.pool.places import Places, slots_of
from proxy.pool.state import Backend, BackendState, Name

# Backends that failed stay listed with their error; past this many the oldest is forgotten.
MAX_GONE = 32


class Roster(dict[str, Backend]):
    """Oldest first; those that failed are among them."""

    def __init__(self) -> None:
        super().__init__()
        self._ids = 0  # how many were given out

    def next_name(self, options: LoadOptions) -> Name:
        """What a start of these is called. One that failed starts again in its place: who looks at
        it by its id sees it recover."""
        for backend in self.values():
            if backend.state is BackendState.GONE and same_start(backend.options, options):
                return backend.id, backend.generation + 1
        self._ids += 1
        return f"b{self._ids}", 1

    def add(self, options: LoadOptions, matching: MatchPolicy, now_s: float) -> Backend:
        """A new start of these."""
        name, generation = self.next_name(options)
        said = [b.pinned.by_hand for b in self.values() if b.options.model == options.model]
        self[name] = Backend(
            name,
            options,
            generation,
            last_used_s=now_s,
            default_keep_alive_s=matching.default_keep_alive_s,
            coexist=matching.coexist,
            any_parallel="parallel" in matching.unpinned,
            pinned=Pinned(matching.pinned, said[-1] if said else None),
            places=Places(slots_of(options)),
        )
        return self[name]

    def current(self, name: Name | None) -> Backend | None:
        """The backend of this start; None where it is history."""
        backend = self.get(name[0]) if name is not None else None
        return backend if backend is not None and backend.name == name else None

    def forget_like(self, newest: Backend) -> None:
        """Strike off the failures of which `newest` has later news."""
        for backend in list(self.values()):
            if backend is not newest and backend.state is BackendState.GONE:
                if same_start(backend.options, newest.options):
                    del self[backend.id]

    def forget_old_failures(self, newest: Backend) -> None:
        """`newest` is one too: strike off those before it, and those that are too many."""
        self.forget_like(newest)
        gone = [b.id for b in self.values() if b.state is BackendState.GONE]
        for name in gone[:-MAX_GONE]:
            del self[name]
