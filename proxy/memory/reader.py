"""One source on a thread of its own, so that a call which hangs holds up nobody else."""

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from proxy.memory.readings import Unreadable

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ReadResult(Generic[T]):
    """What the last call that returned gave. `value` is the last good one, true at `at_s`;
    `problem` says why this one gave none."""

    value: T | None = None
    at_s: float | None = None
    problem: str | None = None


class Reader(Generic[T]):
    """Calls `read` when asked, never twice at a time: while a call hangs, there is one thread that
    waits for it, however often somebody asks."""

    def __init__(self, name: str, read: Callable[[], T], now: Callable[[], float]) -> None:
        self.name = name
        self.answer: ReadResult[T] = ReadResult()
        self.busy = False
        self._read = read
        self._now = now
        self._orders: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # Daemon: a driver that never returns must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def ask(self, done: Callable[[], None]) -> bool:
        """Start a call and return at once; `done` is called on the reader's thread when `answer` is
        new. False: the last call has not returned yet."""
        if self.busy:
            return False
        self.busy = True
        self._orders.put(done)
        return True

    def stop(self) -> None:
        """End the thread, as soon as its call returns."""
        self._orders.put(None)

    def _work(self) -> None:
        while (done := self._orders.get()) is not None:
            # Not the time of the end: what happened during the call may be missing in its answer.
            began = self._now()
            value, at_s, problem = self.answer.value, self.answer.at_s, None
            try:
                value, at_s = self._read(), began
            except Unreadable as error:
                problem = str(error)
            except Exception as error:  # whatever it is, it is about this source only
                problem = f"{self.name}: {error!r}"
            self.answer = ReadResult(value, at_s, problem)
            self.busy = False
            done()
