"""What can happen to the pool: the scheduler's only input. Its answers are in `proxy.pool.effects`.

Whatever reports on a process carries the backend's id and the generation of its start, so that word
of an earlier start is never taken for word of the present one.

What each request brings is a Struct, here and wherever it goes: a frozen dataclass is the same and
takes ten times as long to make.
"""

from dataclasses import dataclass

import msgspec

from proxy.engine.files import Files
from proxy.engine.types import LoadOptions
from proxy.pool.work import Work


@dataclass(frozen=True, slots=True)
class MatchPolicy:
    """How free the pool is in serving a request, and what comes with it."""

    default_keep_alive_s: float = 300.0  # the policy's; used where no request has named one
    # Fields of the load options that the request did not name itself: "ctx", "split", "parallel".
    unpinned: frozenset[str] = frozenset()
    coexist: bool = False  # another split stands beside this one instead of replacing it
    max_queue: int | None = None  # requests that may wait for the model; None: any number
    pinned: bool = False  # by the policy, what is loaded stays loaded


class Acquire(msgspec.Struct, frozen=True):
    """A request wants a backend loaded with `options`."""

    request: int
    options: LoadOptions
    keep_alive_s: float | None = None  # None: as it is; 0: unload when idle; infinity: for ever
    matching: MatchPolicy = MatchPolicy()
    files: Files | None = None  # as they are now; None: nobody looked, as nothing has failed
    insists: bool = False  # it is tried also where it failed a moment ago
    work: Work | None = None  # None: it needs no slot, and so no place


class Released(msgspec.Struct, frozen=True):
    """A request is over: answered, failed, or its client is gone; waiting or holding a lease.

    `answered`: the backend computed a whole answer."""

    request: int
    answered: bool = False


class Yielded(msgspec.Struct, frozen=True):
    """A request needs its slot no more, though its client has not got all of its answer yet."""

    request: int


@dataclass(frozen=True, slots=True)
class Pin:
    """A backend is to stay loaded, however long it is idle and whoever needs its memory; or that is
    over. `by_policy`: not somebody says so now, but the policies."""

    backend: str
    pinned: bool
    by_policy: bool = False


@dataclass(frozen=True, slots=True)
class Started:
    """A backend serves now."""

    backend: str
    generation: int
    files: Files | None = None  # as they were before it was loaded


@dataclass(frozen=True, slots=True)
class StartFailed:
    """A backend could not be loaded. `killed`: from outside, so another try may well succeed."""

    backend: str
    generation: int
    message: str
    killed: bool = False
    files: Files | None = None  # as they were before it was tried


@dataclass(frozen=True, slots=True)
class Exited:
    """The process of a backend that had started is gone, by our doing or not. `killed`: it did not
    crash, somebody ended it, so nothing that it was asked is to blame."""

    backend: str
    generation: int
    message: str
    killed: bool = False


@dataclass(frozen=True, slots=True)
class NotServing:
    """A backend takes no connections any more, though its process is there."""

    backend: str
    generation: int
    message: str


@dataclass(frozen=True, slots=True)
class Hangs:
    """A backend does nothing any more, though its process is there."""

    backend: str
    generation: int
    message: str


@dataclass(frozen=True, slots=True)
class TimerFired:
    """The time that SetTimer named has come."""

    backend: str
    generation: int


@dataclass(frozen=True, slots=True)
class Unload:
    """Somebody wants a backend gone: it finishes what it has first."""

    backend: str


@dataclass(frozen=True, slots=True)
class Replace:
    """What is loaded as `backend` is to be loaded with other options, without a gap."""

    backend: str
    options: LoadOptions


@dataclass(frozen=True, slots=True)
class Drain:
    """The proxy is going to end: no new requests; those that are here are finished."""


@dataclass(frozen=True, slots=True)
class Abort:
    """The time for draining is over: everything stops now."""


# What is told of a start.
Report = Started | StartFailed | Exited | NotServing | Hangs | TimerFired
Event = Acquire | Released | Yielded | Report | Unload | Replace | Pin | Drain | Abort
