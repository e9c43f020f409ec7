"""Asks the workers for the devices as they see them now. Each is asked by itself: one that hangs is
waited for once, and by nobody after that until it answers again."""

import asyncio
from collections.abc import Callable, Iterable, Sequence

import structlog

from proxy.clock import Clock
from proxy.engine.types import Device
from proxy.errors import ProxyError
from proxy.pool.state import Backend, Name
from proxy.tasks import spawn

log = structlog.get_logger()

# A worker answers in milliseconds; on a machine that is busy with other things, in tenths of a
# second.
ANSWER_S = 2.0


class WorkerDevices:
    """One for all workers."""

    def __init__(self, serving: Callable[[], Iterable[Backend]], clock: Clock) -> None:
        self._serving, self._clock = serving, clock
        # What changes: the questions that are not answered yet, whose worker is late, and which
        # devices each has told of.
        self._told: dict[Name, frozenset[str]] = {}
        self._asked: dict[Name, asyncio.Task[Sequence[Device] | None]] = {}
        self._late: set[Name] = set()

    def answers(self, backend: Backend) -> bool:
        """Whether its worker answered when it was last asked."""
        return backend.name not in self._late

    async def ask_all(self, tell: Callable[[], None] | None = None) -> list[Device]:
        """What those who answer say, each device once. `tell`: as `Engine.devices` takes it."""
        backends = list(self._serving())
        asked = {backend.name: self._ask(backend, tell) for backend in backends}
        waited = [task for name, task in asked.items() if name not in self._late]
        await self._clock.wait(waited, ANSWER_S)
        found: dict[str, Device] = {}
        for backend in backends:
            answer = self._answer(backend, asked[backend.name])
            found |= {device.name: device for device in answer or ()}
        return list(found.values())

    def check(self, backend: Backend) -> None:
        """Find out whether its worker answers, without waiting for it."""
        if backend.name not in self._asked:
            spawn(self.ask(backend), name=f"{backend.id}:answers")

    async def ask(self, backend: Backend) -> Sequence[Device] | None:
        """The devices of one worker; None where it does not say."""
        task = self._ask(backend)
        await self._clock.wait((task,), ANSWER_S)
        return self._answer(backend, task)

    def silent(self) -> frozenset[str]:
        """The devices that only workers which do not answer have told of."""
        late = (names for name, names in self._told.items() if name in self._late)
        others = (names for name, names in self._told.items() if name not in self._late)
        return frozenset().union(*late) - frozenset().union(*others)

    def forget(self, backend: Backend) -> None:
        """It is gone."""
        self._told.pop(backend.name, None)
        self._late.discard(backend.name)
        if (task := self._asked.pop(backend.name, None)) is not None:
            task.cancel()

    def _ask(
        self, backend: Backend, tell: Callable[[], None] | None = None
    ) -> asyncio.Task[Sequence[Device] | None]:
        """The question that is not answered yet, or a new one."""
        if (asked := self._asked.get(backend.name)) is None:
            asked = spawn(_devices_of(backend, tell), name=f"{backend.id}:devices")
            self._asked[backend.name] = asked
        return asked

    def _answer(
        self, backend: Backend, task: asyncio.Task[Sequence[Device] | None]
    ) -> Sequence[Device] | None:
        """What came of a question: nothing yet, or nothing at all, makes its worker late."""
        answer = task.result() if task.done() and not task.cancelled() else None
        if self._asked.get(backend.name) is not task:
            return answer  # noted for another who had asked too; or it is gone, and forgotten
        if task.done():
            del self._asked[backend.name]
        if answer is not None:
            self._told[backend.name] = frozenset(device.name for device in answer)
        if (answer is None) != (backend.name in self._late):
            log.warning("worker_late" if answer is None else "worker_answers", backend=backend.id)
            (self._late.add if answer is None else self._late.discard)(backend.name)
        return answer


async def _devices_of(backend: Backend, tell: Callable[[], None] | None) -> Sequence[Device] | None:
    try:
        return await backend.engine.devices(tell)
    except ProxyError as error:
        log.debug("devices_not_told", backend=backend.id, error=error.message)
        return None
