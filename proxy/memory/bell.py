"""What one task waits for, for a while, many times an hour."""

import asyncio
from collections.abc import Callable
from contextlib import suppress


class Bell:
    """Rung by anybody on the event loop. Costs a third of a time limit around an `asyncio.Event`,
    which is most of what a wake-up costs that finds nothing to do."""

    def __init__(self) -> None:
        # What changes: whether it was rung since, and who waits.
        self._rung = False
        self._waiting: asyncio.Future[None] | None = None

    def ring(self) -> None:
        self._rung = True
        self._let_go()

    def from_threads(self) -> Callable[[], None]:
        """What rings it from any thread."""
        loop = asyncio.get_running_loop()

        def ring() -> None:
            with suppress(RuntimeError):  # the loop is closed, and nobody waits any more
                loop.call_soon_threadsafe(self.ring)

        return ring

    def hush(self) -> None:
        """What it was rung for until now is being done."""
        self._rung = False

    async def wait(self, seconds: float) -> None:
        """Return when it is rung, or was since the last wait or hush; after so long in any case."""
        if not self._rung and seconds > 0:
            loop = asyncio.get_running_loop()
            self._waiting = loop.create_future()
            timer = loop.call_later(seconds, self._let_go)
            try:
                await self._waiting
            finally:
                timer.cancel()
                self._waiting = None
        self._rung = False

    def _let_go(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
