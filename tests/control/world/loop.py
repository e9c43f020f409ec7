"""An event loop whose time passes only when everybody waits: hours take milliseconds, and whoever
waits for something that will never come is found out at once."""

import asyncio
import selectors
from collections.abc import Callable, Collection, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from proxy.clock import RealClock

T = TypeVar("T")


class Stuck(Exception):
    """Somebody waits, and nothing will ever happen any more."""


class _Selector(selectors.SelectSelector):
    """Waits for nothing but time."""

    def __init__(self, passed: Callable[[float], None]) -> None:
        super().__init__()
        self._passed = passed

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Stuck
        self._passed(max(timeout, 0.0))
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._passed_s = 0.0
        super().__init__(_Selector(self._pass))

    def time(self) -> float:
        return self._passed_s

    def _pass(self, seconds: float) -> None:
        self._passed_s += seconds


class VirtualClock:
    """The loop's time, as the product asks for it."""

    START = datetime(2025, 1, 1, tzinfo=UTC)

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def wall(self) -> datetime:
        return self.START + timedelta(seconds=self.now())

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def rest(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def wait(self, futures: "Collection[asyncio.Future[Any]]", seconds: float) -> bool:
        return await RealClock().wait(futures, seconds)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run it to its end, on a loop of its own."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(coroutine)
