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


@dataclass(frozen=True, slots=True)
class Tell:
    """From a question to the next one, look again every `every_s` seconds, and call `changed`
    where the answer is another one, once. On the thread that looks."""

    every_s: float
    changed: Callable[[], None]


class Reader(Generic[T]):
    """Calls `read` when asked, never twice at a time: while a call hangs, there is one thread that
    waits for it, however often somebody asks."""

    def __init__(self, name: str, read: Callable[[], T], now: Callable[[], float]) -> None:
        self.name = name
        self.answer: ReadResult[T] = ReadResult()
        self.busy = False
        self._read = read
        self._now = now
        self._orders: queue.SimpleQueue[tuple[Callable[[], None], Tell | None] | None]
        self._orders = queue.SimpleQueue()
        # Daemon: a driver that never returns must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def ask(self, done: Callable[[], None], tell: Tell | None = None) -> bool:
        """Start a call and return at once; `done` is called on the reader's thread when `answer` is
        new. False: the last call has not returned yet."""
        if self.busy:
            return False
        self.busy = True
        self._orders.put((done, tell))
        return True

    def stop(self) -> None:
        """End the thread, as soon as its call returns."""
        self._orders.put(None)

    def _work(self) -> None:
        order = self._orders.get()
        while order is not None:
            done, tell = order
            self._look()
            self.busy = False
            done()
            order = self._next(tell)

    def _next(self, tell: Tell | None) -> tuple[Callable[[], None], Tell | None] | None:
        """The next order. Until it comes, or there is something to tell, it is looked again."""
        while tell is not None:
            try:
                return self._orders.get(timeout=tell.every_s)
            except queue.Empty:
                before = self.answer
                self._look()
                if (before.value, before.problem) != (self.answer.value, self.answer.problem):
                    tell.changed()
                    break
        return self._orders.get()

    def _look(self) -> None:
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
