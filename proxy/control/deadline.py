"""A wait with a bound, on a clock that tests own."""

import asyncio
from collections.abc import Collection
from typing import Any

from proxy.clock import Clock
from proxy.tasks import spawn


async def wait_within(
    clock: Clock, tasks: "Collection[asyncio.Future[Any]]", seconds: float
) -> bool:
    """Wait until `tasks` are done, but no longer than `seconds` on `clock`; whether they are.

    They go on, whatever comes of this; what they failed by is for others to see.
    """
    pending = {task for task in tasks if not task.done()}
    if not pending:
        return True
    timer = spawn(clock.sleep(seconds), name="timer")
    try:
        while pending and not timer.done():
            await asyncio.wait({*pending, timer}, return_when=asyncio.FIRST_COMPLETED)
            pending = {task for task in pending if not task.done()}
    finally:
        timer.cancel()
    return not pending
