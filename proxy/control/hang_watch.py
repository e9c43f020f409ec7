"""Looks at each worker once a second while it has something to do, else every two, and has those
ended that hang. What is seen at a look is judged by `proxy.control.hang`."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Protocol

import structlog

from proxy.clock import Clock
from proxy.control.hang import (
    IDLE_LOOK_S,
    LOOK_S,
    SILENT_S,
    Answers,
    Limits,
    Look,
    Vigil,
    look_on,
    verdict,
)
from proxy.control.ports import Backends
from proxy.errors import BackendDied, ProxyError
from proxy.memory.process import Spent, read_spent
from proxy.policy.model import ModelPolicy
from proxy.pool.state import Backend, BackendState, Name
from proxy.tasks import spawn
from proxy.upstream.call import Call
from proxy.upstream.connection import BrokenAnswer
from proxy.upstream.open_calls import OpenCalls

log = structlog.get_logger()

WATCHED: Final = (BackendState.STARTING, BackendState.READY, BackendState.DRAINING)
# Questions that llama-server answers where its task loop goes round, which is between two steps.
# Of foreign servers, those that do not know it say so at once.
PROBES: Final[Mapping[str, str]] = MappingProxyType(
    {"hosted": "/lora-adapters", "command": "/slots"}
)


class Pool(Backends, Protocol):
    """Who is there, and who is to go."""

    def end_hanging(self, backend: Backend, why: str) -> None:
        """End its process, whatever it is at."""


@dataclass(slots=True)
class _Watched:
    """One start of a backend: what came of the looks, and the questions that are on their way."""

    vigil: Vigil
    answers: Answers = "yes"
    pulse: int | None = None
    has_work: bool = True
    bytes: int = 0
    spent: Spent = field(default_factory=Spent)
    asked: asyncio.Task[tuple[Answers, int | None]] | None = None
    probe: asyncio.Task[bool] | None = None

    def cancel(self) -> None:
        for task in (self.asked, self.probe):
            if task is not None:
                task.cancel()


class HangWatch:
    """One for all backends."""

    def __init__(
        self,
        pool: Pool,
        *,
        calls: OpenCalls,
        moving: Callable[[Backend], bool],
        policy_of: Callable[[str], ModelPolicy],
        clock: Clock,
    ) -> None:
        """`moving`: whether a move of its experts is under way. `policy_of`: what holds for a
        model."""
        self._pool, self._calls, self._moving = pool, calls, moving
        self._policy_of, self._clock = policy_of, clock
        # What changes:
        self._watched: dict[Name, _Watched] = {}

    def answers(self, backend: Backend) -> bool:
        """Whether its worker answered when it was asked last."""
        watched = self._watched.get(backend.name)
        return watched is None or watched.answers == "yes"

    async def run(self) -> None:
        """Look until cancelled."""
        try:
            while True:
                busy = any(map(_is_busy, self._watched.values()))
                await self._clock.rest(LOOK_S if busy else IDLE_LOOK_S)
                self.look()
        finally:
            self._keep(())

    def gone(self, backend: Backend) -> None:
        """Its process is no more, or it is given up."""
        if backend.engine.pid is not None:
            self._calls.forget(backend.engine.address)

    def look(self) -> None:
        """Take in what was answered since the last look, judge, and ask anew."""
        backends = [
            backend
            for backend in self._pool.backends()
            if backend.state in WATCHED
            and backend.engine.pid is not None
            and self._policy_of(backend.options.model).hang_timeout_s
        ]
        self._keep([backend.name for backend in backends])
        for backend in backends:
            self._look_at(backend)

    def _keep(self, names: Collection[Name]) -> None:
        for name in self._watched.keys() - set(names):
            self._watched.pop(name).cancel()

    def _look_at(self, backend: Backend) -> None:
        now_s = self._clock.now()
        watched = self._watched.setdefault(backend.name, _Watched(Vigil(now_s)))
        moves = self._moving(backend)
        # A foreign server says for itself when a load has taken too long.
        loads = backend.state is BackendState.STARTING and backend.options.engine == "hosted"
        watched.answers, went_on = self._heard(backend, watched)
        # A task loop that goes round says nothing of a copy to a device.
        went_on |= _goes_round(watched) and not moves
        if went_on and watched.answers == "no" and backend.options.engine == "command":
            # It has answered somebody: one that is busy may put us off.
            watched.answers = "yes"
        before, after = watched.spent, read_spent(backend.engine.pid or 0) or watched.spent
        watched.spent = after
        look = Look(
            now_s,
            answers=watched.answers,
            has_work=moves or loads or backend.in_flight > 0,
            went_on=went_on,
            pages=after.pages - before.pages,
            cpu_s=after.cpu_s - before.cpu_s,
        )
        watched.has_work = look.has_work
        watched.vigil = look_on(watched.vigil, look)
        if why := verdict(watched.vigil, self._limits(backend)):
            self._end(backend, why)
            return
        if watched.asked is None:
            watched.asked = spawn(_pulse(backend), name=f"{backend.id}:pulse")
        if look.has_work and not (went_on or loads or watched.probe):
            watched.probe = spawn(_probe(backend), name=f"{backend.id}:probe")

    def _heard(self, backend: Backend, watched: _Watched) -> tuple[Answers, bool]:
        """Whether it answers, and whether it did something since the last look."""
        received = self._calls.received_bytes(backend.engine.address)
        went_on, watched.bytes = received != watched.bytes, received
        asked = watched.asked
        if asked is None:
            return watched.answers, went_on
        if not asked.done():
            return "no", went_on
        watched.asked = None
        answers, pulse = asked.result()
        if pulse is not None:
            went_on, watched.pulse = went_on or pulse != watched.pulse, pulse
        return answers, went_on

    def _limits(self, backend: Backend) -> Limits:
        stalled_s = self._policy_of(backend.options.model).hang_timeout_s
        # A foreign server may have one thread for all, and answer nobody while it computes.
        hosted = backend.options.engine == "hosted"
        return Limits(min(SILENT_S, stalled_s) if hosted else stalled_s, stalled_s)

    def _end(self, backend: Backend, why: str) -> None:
        self._watched.pop(backend.name).cancel()
        address = backend.engine.address
        # In this order: who asks again finds that it has left.
        self._pool.end_hanging(backend, why)
        self._calls.break_off(address, why)


def _is_busy(watched: _Watched) -> bool:
    """Whether there may be something to see of it soon."""
    return watched.has_work or watched.answers != "yes"


def _goes_round(watched: _Watched) -> bool:
    """Whether the last question of that kind has been answered since."""
    probe = watched.probe
    if probe is None or not probe.done():
        return False
    watched.probe = None
    return not probe.cancelled() and probe.result()


async def _pulse(backend: Backend) -> tuple[Answers, int | None]:
    try:
        return "yes", await backend.engine.pulse()
    except BackendDied:
        return "lost", None
    except ProxyError as error:
        log.debug("pulse_not_told", backend=backend.id, error=error.message)
        return "no", None


async def _probe(backend: Backend) -> bool:
    """Whether its task loop went round, as far as it can be asked. May take as long as a step does,
    or for ever: whoever asks ends it."""
    try:
        async with Call(backend.engine.address, "GET", PROBES[backend.options.engine]):
            # Also an answer that it does not know of such a thing: then it cannot be told to hang.
            return True
    except (ProxyError, BrokenAnswer) as error:
        log.debug("probe_failed", backend=backend.id, error=str(error))
        return False
