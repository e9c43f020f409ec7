"""What the workers say of their devices, for those of which no driver of ours tells."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

from proxy.engine.types import Device
from proxy.memory.reader import ReadResult
from proxy.memory.readings import Sample
from proxy.memory.snapshot import as_reported
from proxy.tasks import spawn

# What asks all workers; they call what they are given, if anything, where their devices show
# something else later.
AskWorkers = Callable[[Callable[[], None] | None], Awaitable[Iterable[Device]]]


class WorkerReader:
    """Like a reader, for all workers together: asked again only when they have answered."""

    def __init__(self, ask: AskWorkers | None, now: Callable[[], float]) -> None:
        self._ask, self._now = ask, now
        # What changes: the question that is not answered yet, when it was asked, and the answers.
        self._asking: asyncio.Task[None] | None = None
        self._asked_s = 0.0
        self._reported: dict[str, ReadResult[Sample]] = {}

    @property
    def busy(self) -> bool:
        return self._asking is not None

    def hangs(self, since_s: float) -> bool:
        """Whether the last question was asked before then, and is not answered yet."""
        return self.busy and self._asked_s < since_s

    def answer(self, device: str) -> ReadResult[Sample]:
        return self._reported.get(device, ReadResult())

    def ask(self, done: Callable[[], None], changed: Callable[[], None] | None) -> bool:
        """Begin to ask, unless there is nobody to ask or they still owe the last answer (False)."""
        if self._ask is None or self.busy:
            return False
        self._asked_s = self._now()
        self._asking = spawn(self._ask_all(self._ask, done, changed), name="worker memory")
        return True

    def report(self, devices: Iterable[Device], at_s: float) -> None:
        """What they said of themselves, as it was then."""
        for device in devices:
            known = self._reported.get(device.name)
            # An answer that was on its way when newer numbers came is the older word.
            if known is None or known.at_s is None or at_s >= known.at_s:
                self._reported[device.name] = ReadResult(as_reported(device), at_s)

    def stop(self) -> None:
        if self._asking is not None:
            self._asking.cancel()

    async def _ask_all(
        self, ask: AskWorkers, done: Callable[[], None], changed: Callable[[], None] | None
    ) -> None:
        began = self._now()
        try:
            self.report(await ask(changed), began)
        except Exception as error:  # a worker that is going away may fail in any way
            problem = f"workers: {error!r}"
            self._reported = {
                name: replace(answer, problem=problem) for name, answer in self._reported.items()
            }
        finally:
            self._asking = None
            done()
