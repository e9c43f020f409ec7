"""The clock that tests own."""

import asyncio
from datetime import UTC, datetime, timedelta

from proxy.clock import ManualClock, RealClock


async def test_manual_time_passes_only_when_told() -> None:
    """Sleepers wake in order, each at its own time, those that go to sleep again too."""
    clock = ManualClock()
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, *times: float) -> None:
        for seconds in times:
            await clock.sleep(seconds)
            woken.append((name, clock.now()))

    tasks = [
        asyncio.ensure_future(sleeper("late", 3.0)),
        asyncio.ensure_future(sleeper("often", 1.0, 1.5)),
        asyncio.ensure_future(sleeper("cancelled", 2.0)),
    ]
    await clock.advance(0.5)
    tasks.pop().cancel()
    assert woken == []
    await clock.advance(4.5)
    await asyncio.gather(*tasks)

    assert woken == [("often", 1.0), ("often", 2.5), ("late", 3.0)]
    assert clock.wall() - datetime(2025, 1, 1, tzinfo=UTC) == timedelta(seconds=5)


async def test_real_time_passes() -> None:
    clock = RealClock()
    before = clock.now()
    await clock.sleep(0.01)

    assert clock.now() - before > 0.005
    assert abs(clock.wall() - datetime.now(UTC)) < timedelta(minutes=1)
