"""Loops that fail go on, and it is known that they failed."""

import asyncio
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from proxy.clock import ManualClock
from proxy.tasks import FIRST_WAIT_S, MOST_WAIT_S, WELL_S, Loops


class Loop:
    """Fails each time it is begun, as long as `failing` says so."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.failing = True
        self.begun_s: list[float] = []
        self.broken = asyncio.Event()

    async def run(self) -> None:
        self.begun_s.append(self._clock.now())
        if self.failing:
            raise OSError("no watches left")
        await self.broken.wait()
        raise ValueError("odd")


async def well() -> None:
    await asyncio.Event().wait()


async def test_a_loop_that_fails_is_begun_again_after_longer_and_longer_waits() -> None:
    clock = ManualClock()
    loop, loops = Loop(clock), Loops(clock)

    with capture_logs() as logs:
        async with loops.background(loop.run, name="look"):
            await clock.advance(60)

    waits_s = [
        after - before for before, after in zip(loop.begun_s, loop.begun_s[1:], strict=False)
    ]
    assert waits_s[:3] == [FIRST_WAIT_S, 2 * FIRST_WAIT_S, 4 * FIRST_WAIT_S]
    assert waits_s[-1] == MOST_WAIT_S == max(waits_s)
    assert {line["event"] for line in logs} == {"loop_failed"}
    assert logs[0]["loop"] == "look"
    assert logs[0]["exc_info"] is True


async def test_who_fails_is_told_until_it_has_gone_on_for_a_while() -> None:
    clock = ManualClock()
    began = clock.wall()
    loop, loops = Loop(clock), Loops(clock)

    async with (
        loops.background(loop.run, name="look"),
        loops.background(well, name="well"),
    ):
        await clock.advance(0.1)
        (failure,) = loops.degraded()
        assert (failure.loop, failure.since) == ("look", began)
        assert failure.error == "OSError('no watches left')"
        await clock.advance(3)
        assert [failure.since for failure in loops.degraded()] == [began]

        loop.failing = False
        await clock.advance(MOST_WAIT_S)
        assert loops.degraded(), "it goes on, but may yet fail again"
        await clock.advance(WELL_S)
        assert loops.degraded() == []

        loop.broken.set()
        await clock.advance(0.1)
        (failure,) = loops.degraded()
        assert (failure.wait_s, failure.error) == (FIRST_WAIT_S, "ValueError('odd')")
        assert failure.since - began > timedelta(seconds=WELL_S)


async def test_a_loop_that_ends_by_itself_has_failed() -> None:
    clock = ManualClock()
    begun = []

    async def ends() -> None:
        begun.append(clock.now())

    loops = Loops(clock)
    async with loops.background(ends, name="ends"):
        await clock.advance(FIRST_WAIT_S)

    assert len(begun) == 2
    assert "ended by itself" in loops.degraded()[0].error


async def test_a_loop_that_ends_since_what_it_waited_for_was_cancelled_has_failed() -> None:
    clock = ManualClock()
    begun = []

    async def awaits() -> None:
        begun.append(clock.now())
        other = asyncio.ensure_future(well())
        other.cancel()
        await other

    loops = Loops(clock)
    async with loops.background(awaits, name="awaits"):
        await clock.advance(FIRST_WAIT_S)

    assert len(begun) == 2
    assert loops.degraded()[0].error == "CancelledError()"


@pytest.mark.parametrize("end", [None, ValueError("it failed on its way out")])
async def test_leaving_the_block_ends_it_however_it_takes_that(end: Exception | None) -> None:
    running, ended, begun = asyncio.Event(), asyncio.Event(), []

    async def run() -> None:
        begun.append(1)
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
            if end is not None:
                raise end

    loops = Loops(ManualClock())
    async with loops.background(run, name="runs"):
        await running.wait()

    assert ended.is_set()
    assert begun == [1]
    assert loops.degraded() == []


async def test_one_that_waits_to_be_begun_again_ends_too() -> None:
    clock = ManualClock()
    loop = Loop(clock)
    async with Loops(clock).background(loop.run, name="look"):
        await clock.advance(0.1)

    assert loop.begun_s == [0.0]


async def test_what_is_called_again_and_again_is_told_of_like_a_loop() -> None:
    """And logged once, not each time."""
    clock = ManualClock()
    loops, heard = Loops(clock), list[int]()

    def step(number: int) -> None:
        if number < 3:
            raise ValueError(number)
        heard.append(number)

    guarded = loops.guarded(step, name="look")
    with capture_logs() as logs:
        for number in range(5):
            guarded(number)

    assert heard == [3, 4]
    assert [line["event"] for line in logs] == ["loop_failed"]
    (failure,) = loops.degraded()
    assert (failure.loop, failure.error) == ("look", "ValueError(2)")
    await clock.advance(WELL_S + MOST_WAIT_S)
    assert loops.degraded() == []
