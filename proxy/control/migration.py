"""The way of one backend's experts: where they are to be, the move that brings them there, and a
record of those that were made."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import structlog

from proxy.clock import Clock
from proxy.engine.types import Move, Status
from proxy.errors import ProxyError
from proxy.observe.events import EventLog
from proxy.placement.assign import Placement, placed, projected
from proxy.pool.selection import LEAVING
from proxy.pool.state import Backend
from proxy.tasks import spawn

log = structlog.get_logger()

MOVES_KEPT = 50


class Migration:
    """Runs on the event loop; a move may supersede an earlier one."""

    def __init__(
        self,
        backend: Backend,
        *,
        events: EventLog,
        clock: Clock,
        on_short: Callable[[str], None],
    ) -> None:
        """`on_short` is told when a device turned out to have no room for what was planned."""
        self._backend, self._events, self._clock = backend, events, clock
        self._on_short = on_short
        # What changes: where the experts are to be, the last move, and the record of those made,
        # oldest first.
        self.goal: Placement | None = None
        self._move: asyncio.Task[ProxyError | None] | None = None
        self.history: deque[dict[str, Any]] = deque(maxlen=MOVES_KEPT)

    @property
    def moving(self) -> bool:
        return self._move is not None and not self._move.done()

    async def reach(self, goal: Placement, why: str, *, settle_s: float) -> None:
        """Have the engine reach `goal`; returns once it is there, and waits up to `settle_s` more
        for repacking. Joins a move to the same goal, supersedes any other.

        Raises what the move failed by: Conflict where the engine refused, BackendDied and others
        where it is gone or does not answer.
        """
        status = self._backend.engine.known()
        move = self._move
        if goal != self.goal or move is None or move.done():
            if goal == self.goal == placed(status) and (status.settled or not settle_s):
                return
            move = self.start(goal, why, settle_s=settle_s)
        # Whoever asked may leave: the move goes on.
        if (error := await asyncio.shield(move)) is not None:
            raise error

    def start(
        self, goal: Placement, why: str, *, settle_s: float = 0.0, whom: str | None = None
    ) -> asyncio.Task[ProxyError | None]:
        """Begin a move, without waiting for it. Its result is what it failed by, if it did. `whom`:
        the model that it makes way for."""
        self.goal = goal
        move = self._perform(goal, why, settle_s, whom)
        self._move = spawn(move, name=f"{self._backend.id}:move")
        return self._move

    async def wait_idle(self) -> None:
        """Wait until no move is under way."""
        while self._move is not None and not self._move.done():
            await asyncio.wait((self._move,))

    def cancel(self) -> None:
        """Stop waiting for the engine, which may go on."""
        if self._move is not None:
            self._move.cancel()

    async def _perform(
        self, goal: Placement, why: str, settle_s: float, whom: str | None
    ) -> ProxyError | None:
        engine, at = self._backend.engine, self._clock.wall()
        before, failure, move = engine.known(), None, Move(0, 0.0, 0.0)
        leaves = False
        self._begin(before, goal, why, whom)
        try:
            move = await engine.place(goal, settle_s=settle_s)
        except ProxyError as error:
            # A model that is unloaded takes its moves with it, which is no failure.
            leaves = self._backend.state in LEAVING
            tell = log.debug if leaves else log.warning
            tell("move_failed", backend=self._backend.id, why=why, error=error.message)
            failure = error
        finally:
            if self.goal is goal:
                # What could not be had is not on its way any more.
                self.goal = placed(engine.known())
        if move.short_of_memory is not None:
            self._on_short(move.short_of_memory)
        if move.layers or move.short_of_memory:
            self._record(move, before, {"at": at.isoformat(), "why": why, "for": whom})
        elif placed(before) != placed(before) | goal:
            told = None if failure is None or leaves else failure.message
            self._tell("not_moved", why=why, error=told)
        return failure

    def _begin(self, before: Status, goal: Placement, why: str, whom: str | None) -> None:
        """For those who follow: it is of interest until it is done."""
        if placed(before) != placed(before) | goal:
            to = projected(before, goal).moe_cpu_layers
            self._tell("moving", why=why, to=to, **{"for": whom})

    def _tell(self, kind: str, **fields: Any) -> None:
        backend = self._backend
        now = backend.engine.known().moe_cpu_layers
        about = {"backend": backend.id, "model": backend.options.model, "moe_cpu_layers": now}
        self._events.tell(kind, **about, **fields)

    def _record(self, move: Move, before: Status, head: dict[str, Any]) -> None:
        backend = self._backend
        record = {
            **head,
            "from": before.moe_cpu_layers,
            "to": backend.engine.known().moe_cpu_layers,
            "layers": move.layers,
            "bytes": moved_bytes(before, backend.engine.known()),
            "staged_s": round(move.staged_s, 6),
            "gate_s": round(move.gate_s, 6),
            "short_of_memory": move.short_of_memory,
        }
        self.history.append(record)
        self._events.publish(
            "moved",
            backend=backend.id,
            model=backend.options.model,
            moe_cpu_layers=record["to"],
            **record,
        )


def moved_bytes(before: Status, after: Status) -> int:
    """Of the experts that are elsewhere now."""
    places = {layer.index: layer.experts for layer in before.layers}
    return sum(
        layer.experts_bytes
        for layer in after.layers
        if layer.experts != places.get(layer.index, layer.experts)
    )
