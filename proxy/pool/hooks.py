"""What other parts do when a backend is about to be started, has loaded, is ready, has become idle,
is about to be stopped or is gone.

Made before the pool, which calls it, and before those parts, which need the pool: each of them
subscribes when it is there.
"""

from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from proxy.pool.state import Backend

log = structlog.get_logger()

Listener = Callable[[Backend], None]
Step = Callable[[Backend], Coroutine[Any, Any, None]]


class Hooks:
    """All are called in the order in which they subscribed."""

    def __init__(self) -> None:
        # What changes, and only grows:
        self._before_start: list[Step] = []
        self._loaded: list[Step] = []
        self._before_stop: list[Step] = []
        self._ready: list[Listener] = []
        self._idle: list[Listener] = []
        self._gone: list[Listener] = []

    def subscribe(
        self,
        *,
        before_start: Step | None = None,
        loaded: Step | None = None,
        before_stop: Step | None = None,
        ready: Listener | None = None,
        idle: Listener | None = None,
        gone: Listener | None = None,
    ) -> None:
        """From now on, call each of these.

        `before_start` is awaited before a backend's process is started: it makes room for it. It is
        cancelled if the backend is not wanted any more; if it raises, the start has failed.
        `loaded` is awaited when its process serves, before any request gets it. `before_stop` is
        awaited before its process is told to end, unless that is to be at once. Both are cancelled
        when that cannot wait, and have a bound of their own: others wait meanwhile.
        `ready`: it serves, and no request has it yet. `idle`: the last request has left, or none
        was waiting. `gone`: its process is no more.
        """
        for steps, step in (
            (self._before_start, before_start),
            (self._loaded, loaded),
            (self._before_stop, before_stop),
        ):
            if step is not None:
                steps.append(step)
        for hooks, hook in ((self._ready, ready), (self._idle, idle), (self._gone, gone)):
            if hook is not None:
                hooks.append(hook)

    async def before_start(self, backend: Backend) -> None:
        """Raises what a step raises."""
        for step in tuple(self._before_start):
            await step(backend)

    async def loaded(self, backend: Backend) -> None:
        await _try(self._loaded, backend)

    async def before_stop(self, backend: Backend) -> None:
        await _try(self._before_stop, backend)

    def ready(self, backend: Backend) -> None:
        _call(self._ready, backend)

    def idle(self, backend: Backend) -> None:
        _call(self._idle, backend)

    def gone(self, backend: Backend) -> None:
        _call(self._gone, backend)


def _call(listeners: list[Listener], backend: Backend) -> None:
    for listener in tuple(listeners):
        try:
            listener(backend)
        except Exception:
            # A listener's bug is no reason to lose a request.
            log.exception("listener_crashed", backend=backend.id)


async def _try(steps: list[Step], backend: Backend) -> None:
    for step in tuple(steps):
        try:
            await step(backend)
        except Exception:
            log.exception("step_crashed", backend=backend.id)
