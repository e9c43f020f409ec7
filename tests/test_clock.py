"""The clock that tests own, and waiting."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from proxy.clock import Bell, ManualClock, RealClock, together
from tests.support.guard import HANG_S


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


async def test_who_can_wait_a_little_longer_ends_with_others() -> None:
    loop = asyncio.get_running_loop()
    ends = [loop.time() + together(seconds) for seconds in (1.0, 2.0, 2.3, 5.0)]

    assert [end - round(end) for end in ends] == pytest.approx([0.0] * 4, abs=0.01)
    assert [end - loop.time() for end in ends] == pytest.approx([1.0, 2.0, 2.3, 5.0], abs=0.6)


async def test_short_waits_stay_as_they_are() -> None:
    assert [together(seconds) for seconds in (0.25, 0.0, -1.0)] == [0.25, 0.0, -1.0]


async def test_who_waits_goes_on_when_it_is_rung() -> None:
    bell = Bell()
    waiting = asyncio.ensure_future(bell.wait(HANG_S))
    await asyncio.sleep(0)
    assert not waiting.done()

    bell.ring()
    await waiting


async def test_a_ring_before_the_wait_is_not_lost_and_counts_once() -> None:
    bell = Bell()
    bell.ring()
    bell.ring()
    await bell.wait(HANG_S)

    waiting = asyncio.ensure_future(bell.wait(HANG_S))
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()


async def test_what_is_being_done_already_is_no_reason_to_go_on() -> None:
    bell = Bell()
    bell.ring()
    bell.hush()
    waiting = asyncio.ensure_future(bell.wait(HANG_S))
    await asyncio.sleep(0)

    assert not waiting.done()
    waiting.cancel()


async def test_it_is_not_waited_for_for_ever() -> None:
    await Bell().wait(0.001)
    await Bell().wait(-1.0)
