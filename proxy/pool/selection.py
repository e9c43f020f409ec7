"""Which of the backends there are is the one for a request. The scheduler decides what follows."""

from collections.abc import Iterable

from proxy.engine.types import LoadOptions
from proxy.pool.compatible import compatible, conflicts
from proxy.pool.events import Acquire, MatchPolicy
from proxy.pool.state import Backend, BackendState

STARTING, READY, DRAINING, STOPPING, GONE = BackendState
ALIVE = (STARTING, READY)
LEAVING = (DRAINING, STOPPING)


def can_serve(backend: Backend, asked: Acquire) -> bool:
    """Whether it is, or will be, loaded with what the request needs."""
    return compatible(backend.options, asked.options, asked.matching.unpinned)


def might_serve(backends: Iterable[Backend], options: LoadOptions, matching: MatchPolicy) -> bool:
    """Whether something that is loaded, or loads, would serve these options."""
    there = (backend.options for backend in backends if backend.state in ALIVE)
    return any(compatible(loaded, options, matching.unpinned) for loaded in there)


def ready_for(asked: Acquire, backends: Iterable[Backend]) -> Backend | None:
    """The ready backend for a request: exactly what it asked for, else the smallest, else the last
    used. Failing all, one whose successor it is meant for."""
    ready = [b for b in backends if b.state is READY]
    serving = [b for b in ready if can_serve(b, asked)] or [
        b for b in ready if _serves_as_predecessor(b, asked)
    ]
    if len(serving) == 1:  # as nearly always
        return serving[0]
    return min(
        serving,
        key=lambda b: (b.options != asked.options, b.options.ctx, -b.last_used_s),
        default=None,
    )


def starting_for(asked: Acquire, backends: Iterable[Backend]) -> Backend | None:
    """The loading backend for a request: its own options first, since another one may be larger,
    and take longer to load."""
    starting = [b for b in backends if b.state is STARTING and can_serve(b, asked)]
    return min(starting, key=lambda b: b.options != asked.options, default=None)


def in_the_way(options: LoadOptions, backends: Iterable[Backend]) -> list[Backend]:
    """Those that have to be gone before `options` can be loaded."""
    others = [b for b in backends if b.state is not GONE]
    blocking = conflicts(options, (b.options for b in others))
    return [b for b in others if b.options in blocking]


def pinned_in_the_way(options: LoadOptions, backends: Iterable[Backend]) -> str | None:
    """Another model that would have to go for `options`, and is pinned."""
    staying = (b for b in in_the_way(options, backends) if b.pinned and b.state not in LEAVING)
    return next((b.options.model for b in staying if b.options.model != options.model), None)


def leaving_for(asked: Acquire, backends: Iterable[Backend]) -> Backend | None:
    """The first backend on its way out that would have served a request."""
    return next((b for b in backends if b.state in LEAVING and can_serve(b, asked)), None)


def is_outdated(other: Backend, old: Backend, options: LoadOptions) -> bool:
    """Whether `other` is loading to take the place of `old`, which `options` are to have now."""
    loading = other.state is STARTING
    return loading and other.replaces == old.name and other.options != options


def is_meant_for(old: Backend, new: Backend) -> bool:
    """Whether `new` is to take the place of `old`; it may be to take that of several."""
    return new.replaces == old.name or new.options == old.successor


def is_replaced(other: Backend, by: Backend) -> bool:
    """Whether `other` is not needed any more, now that `by` is ready."""
    if is_meant_for(other, by):
        return True
    # What the new one does as well needs no second process: a smaller context, another split, as
    # many conversations as we chose.
    open_ones = (("split", not by.coexist), ("parallel", by.any_parallel))
    same = {name for name, is_open in open_ones if is_open}
    return other.state is READY and compatible(by.options, other.options, same)


def _serves_as_predecessor(old: Backend, asked: Acquire) -> bool:
    """Whether `old` may serve a request that is meant for its successor, as long as that one is not
    ready."""
    if old.successor is None:
        return False
    if not compatible(old.successor, asked.options, asked.matching.unpinned):
        return False
    return "ctx" in asked.matching.unpinned or old.options.ctx >= asked.options.ctx
