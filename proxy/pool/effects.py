"""What the scheduler wants done: its only output, performed by `proxy.pool.pool`. The input is in
`events`."""

from dataclasses import dataclass
from typing import Literal

import msgspec

from proxy.pool.failures import Failure


@dataclass(frozen=True, slots=True)
class Start:
    """Make the engine of this backend and load it; answer with Started or StartFailed."""

    backend: str
    generation: int


@dataclass(frozen=True, slots=True)
class Stop:
    """End the process of this backend; its end is answered with Exited, or StartFailed if it still
    loads."""

    backend: str
    generation: int


class Grant(msgspec.Struct, frozen=True):
    """The request has a lease on this backend now."""

    request: int
    backend: str
    generation: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """The request is not taken (Busy), and may come again; or somebody has to act first, where one
    that is pinned is in the way (Conflict)."""

    request: int
    why: Literal["full", "draining", "pinned"]
    wait_s: float | None = None  # how long it would have waited; None: nobody knows
    model: str = ""  # the one that is pinned


@dataclass(frozen=True, slots=True)
class Fail:
    """What the request waited for could not be loaded (LoadFailed)."""

    request: int
    message: str
    retry_after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class NotYet:
    """What the request wants failed lately, and is not started so soon again (LoadRefused)."""

    request: int
    failure: Failure
    retry_after_s: float


class SetTimer(msgspec.Struct, frozen=True):
    """Send TimerFired at `at_s` (monotonic), and not at any earlier time named before. None: not at
    all."""

    backend: str
    generation: int
    at_s: float | None


@dataclass(frozen=True, slots=True)
class Idle:
    """The last request of a ready backend has left, or none was waiting when it became ready."""

    backend: str
    generation: int


@dataclass(frozen=True, slots=True)
class Changed:
    """The state of a backend changed: for the log, the event stream and the callbacks."""

    backend: str
    generation: int
    old: str
    new: str
    why: str


Effect = Start | Stop | Grant | Refuse | Fail | NotYet | SetTimer | Idle | Changed
