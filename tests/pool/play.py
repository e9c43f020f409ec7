"""The scheduler on a stage: who says what, and which lines come back."""

from dataclasses import replace
from pathlib import Path

from proxy.engine.types import LoadOptions
from proxy.pool.effects import Changed, Effect, SetTimer, Stop
from proxy.pool.events import (
    Acquire,
    Event,
    MatchPolicy,
    Released,
    Started,
)
from proxy.pool.scheduler import Scheduler

A = LoadOptions("a", Path("a.gguf"), ctx=8192)
A_SMALL = replace(A, ctx=4096)
A_LARGE = replace(A, ctx=16384)
B = LoadOptions("b", Path("b.gguf"))
KEEP_S = 300.0
OPEN = MatchPolicy(unpinned=frozenset({"ctx", "split"}))


class Play:
    """A scheduler and its time; each line of a test says what happens and what must come of it."""

    def __init__(self, *, max_queue: int = 10) -> None:
        self.scheduler = Scheduler(max_queue=max_queue)
        self.now_s = 0.0

    def __call__(self, *events: Event) -> list[Effect]:
        return [effect for event in events for effect in self.scheduler.handle(event, self.now_s)]

    def ready(self, backend: str, options: LoadOptions, matching: MatchPolicy = OPEN) -> None:
        """Get `options` loaded as `backend`, and idle."""
        self(Acquire(-1, options, None, matching), Started(backend, 1), Released(-1))

    def states(self) -> dict[str, str]:
        return {b.id: b.state.value for b in self.scheduler.backends.values()}


def changed(backend: str, old: str, new: str, why: str, generation: int = 1) -> Changed:
    return Changed(backend, generation, old, new, why)


LOADED = changed("b1", "starting", "ready", "loaded")


def stops(backend: str, why: str, old: str = "ready") -> list[Effect]:
    return [changed(backend, old, "stopping", why), Stop(backend, 1)]


def goes(backend: str, why: str) -> list[Effect]:
    """An idle backend with a timer is let go."""
    return [
        SetTimer(backend, 1, None),
        changed(backend, "ready", "draining", why),
        *stops(backend, "drained", "draining"),
    ]
