"""What the pool knows of one backend, and the only way in which its state changes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from math import inf
from types import MappingProxyType
from typing import Final

from proxy.engine.files import Files
from proxy.engine.not_started import NOT_STARTED
from proxy.engine.types import Engine, LoadOptions
from proxy.pool.effects import Changed
from proxy.pool.events import Acquire, MatchPolicy
from proxy.pool.pins import Pinned
from proxy.pool.places import Places

# One that has served for so long is well, whatever it was asked.
PROVEN_S: Final = 600.0

Name = tuple[str, int]  # id and generation of a backend: one start


class BackendState(StrEnum):
    """What a backend is at. It goes forward only, and may leave steps out."""

    STARTING = "starting"  # the process is loading; requests that wait for it have joined it
    READY = "ready"  # it takes requests
    DRAINING = "draining"  # takes no new ones, finishes those it has, joined ones too, then stops
    STOPPING = "stopping"  # the process has been told to end
    GONE = "gone"  # the process is no more; a failed one stays listed until its key starts again


# Any state may go to a later one, none goes back.
LEGAL: Final[Mapping[BackendState, frozenset[BackendState]]] = MappingProxyType(
    {state: frozenset([*BackendState][at + 1 :]) for at, state in enumerate(BackendState)}
)


@dataclass(slots=True, eq=False, repr=False)
class Backend:
    """One worker process and those who use it. The scheduler alone changes it, but for the fields
    marked."""

    id: str
    options: LoadOptions
    generation: int = 1  # how many times this id was started; a restart is a new Backend
    state: BackendState = BackendState.STARTING
    in_flight: int = 0  # requests that hold a lease
    waiting: int = 0  # requests that joined its start
    places: Places = field(default_factory=lambda: Places(None))  # and who is in line for one
    last_used_s: float = 0.0  # monotonic
    keep_alive_s: float | None = None  # as the last request that named one asked
    default_keep_alive_s: float = 300.0  # the policy's, as of the last request
    pinned: Pinned = field(default_factory=Pinned)  # whether it stays loaded
    expires_s: float | None = None  # monotonic; None while in use, and for ever
    last_error: str | None = None
    files: Files | None = None  # what it was loaded from, as that was before
    ready_s: float | None = None  # monotonic: since when it serves
    proven: bool = False  # it has computed a whole answer
    crashed: bool = False  # it has ended by itself: nobody ended it, we as little as others
    failed: bool = False  # it is held against the next start, and listed when it is gone
    fault: str | None = None  # why it was ended though nobody wanted it to end
    replaces: Name | None = None  # the start that goes when this one is ready
    successor: LoadOptions | None = None  # what is meant to take this one's place
    # Starts that have to be gone before this one begins; they are on their way out.
    blocked_by: set[Name] = field(default_factory=set)
    any_parallel: bool = False  # how many conversations was left to us
    coexist: bool = False  # stands beside others of its model that differ only in the split
    engine: Engine = NOT_STARTED  # the shell sets another one when it performs Start
    expires_at: datetime | None = None  # set by the shell, for people: `expires_s` as time of day
    warnings: tuple[str, ...] = ()  # what people should know of it

    def __repr__(self) -> str:
        parts = [self.id, self.options.model, f"ctx={self.options.ctx}"]
        if self.options.mode != "generation":
            parts.append(self.options.mode)
        if self.options.split is not None:
            parts.append(f"split={self.options.split}")
        if self.generation > 1:
            parts.append(f"generation={self.generation}")
        parts += [self.state, f"in_flight={self.in_flight}", f"waiting={self.waiting}"]
        if self.last_error:
            parts.append(f"error={self.last_error.splitlines()[-1]!r}")
        return f"<{' '.join(parts)}>"

    @property
    def name(self) -> Name:
        """Which start this is: what completions carry, so that a late one is not taken for a newer
        start's."""
        return self.id, self.generation

    def warn(self, text: str) -> None:
        """For whoever finds out what people should know of it."""
        self.warnings += (text,)

    def fail(self, why: str, now_s: float) -> bool:
        """It fails. False: that is held against no other start, as it has proven itself, or failed
        already."""
        served_s = 0.0 if self.ready_s is None else now_s - self.ready_s
        if self.failed or self.proven or served_s >= PROVEN_S:
            return False
        self.failed, self.last_error = True, why
        return True

    @property
    def waiting_for_it(self) -> int:
        """How many requests joined its start, or are in its line."""
        return self.waiting + len(self.places)

    def has_place(self, event: Acquire) -> bool:
        """Whether it could take a request on at once."""
        return event.work is None or self.places.are_free(event.work)

    def take_on(self, event: Acquire, now_s: float) -> None:
        """It has one more request."""
        self.in_flight += 1
        self.last_used_s = now_s
        self.default_keep_alive_s = event.matching.default_keep_alive_s
        # Of the names that share it, one is enough.
        if event.matching.pinned and not self.pinned.by_policy:
            self.pinned.set(True, by_policy=True)
        if event.keep_alive_s is not None:
            self.keep_alive_s = event.keep_alive_s

    @property
    def matching(self) -> MatchPolicy:
        """What a start in its place comes with."""
        pinned = self.pinned.by_policy
        return MatchPolicy(self.default_keep_alive_s, coexist=self.coexist, pinned=pinned)

    def take_over(self, old: "Backend") -> None:
        """It is to take the place of `old` once it is ready, and stays loaded as that would."""
        self.replaces, self.keep_alive_s = old.name, old.keep_alive_s
        self.pinned = replace(old.pinned)

    @property
    def splits_by_replacing(self) -> bool:
        """Whether another split of the policies takes a successor that is loaded with it. One that
        stands beside others has the split that it was asked for."""
        fixed = self.options.split is not None or self.engine.moves_by_reload
        return fixed and not self.coexist

    @property
    def idle(self) -> bool:
        return self.in_flight == 0 and self.state is BackendState.READY

    def is_due(self, now_s: float) -> bool:
        """Whether it has been idle for as long as it may be."""
        return self.idle and self.expires_s is not None and self.expires_s <= now_s

    @property
    def ttl_s(self) -> float:
        """How long it stays loaded once idle. Infinity: for ever."""
        if self.pinned:
            return inf
        return self.default_keep_alive_s if self.keep_alive_s is None else self.keep_alive_s


class IllegalMove(Exception):
    """A backend was to go from one state to another that cannot follow it: a bug in the
    scheduler."""


def advance(backend: Backend, state: BackendState, why: str) -> Changed:
    """Change the state of `backend`, and return the effect that tells of it. Raises IllegalMove."""
    old = backend.state
    if state not in LEGAL[old]:
        raise IllegalMove(f"{backend!r} cannot become {state} ({why})")
    backend.state = state
    return Changed(backend.id, backend.generation, old.value, state.value, why)
