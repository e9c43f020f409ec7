"""When a worker that waits for a model is started, and when it has to go."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from proxy.clock import RealClock
from proxy.control.warm_keeper import (
    BACK_OFF_MOST_S,
    QUIET_S,
    ROOM_BYTES,
    Situation,
    Step,
    WarmKeeper,
    back_off_s,
    next_step,
)
from proxy.engine.warm import WarmWorkers
from proxy.memory.pressure import LOW_BYTES
from proxy.memory.readings import HostReading
from proxy.memory.snapshot import Snapshot
from proxy.pool.state import Backend
from tests.control.world.world import policies_of
from tests.support.guard import until

NOW_S = 100.0
PLENTY = HostReading(available_bytes=ROOM_BYTES, pressure=0.0)


def step(
    wanted: int = 1,
    waiting: int = 0,
    host: HostReading = PLENTY,
    *,
    loading: bool = False,
    changed_s: float = 0.0,
    died: int = 0,
    died_s: float = float("-inf"),
) -> Step:
    return next_step(Situation(wanted, waiting, host, loading, changed_s, died, died_s), NOW_S)


def test_one_that_is_missing_is_started_once_it_is_quiet() -> None:
    assert step() == Step(1, start=True)
    assert step(wanted=2, waiting=1) == Step(2, start=True)
    assert step(changed_s=NOW_S) == Step(1, again_s=QUIET_S)
    assert step(changed_s=NOW_S - QUIET_S) == Step(1, start=True)


def test_none_is_started_where_there_are_enough_or_a_model_loads() -> None:
    assert step(waiting=1) == Step(1)
    assert step(loading=True) == Step(1), "who loads has the machine for itself; its end is news"
    assert step(wanted=0) == Step(0)


def test_too_many_go() -> None:
    assert step(wanted=0, waiting=1) == Step(0)
    assert step(wanted=1, waiting=3, loading=True) == Step(1)


@pytest.mark.parametrize(
    "short",
    [HostReading(available_bytes=LOW_BYTES - 1), HostReading(pressure=0.5)],
    ids=["little left", "programs wait for it"],
)
def test_while_ram_is_short_all_go(short: HostReading) -> None:
    assert step(waiting=1, host=short) == Step(0)
    assert step(host=short) == Step(0)


def test_where_there_is_just_enough_none_comes_and_none_goes() -> None:
    """Or it would come and go."""
    cramped = HostReading(available_bytes=ROOM_BYTES - 1)
    assert step(host=cramped) == Step(1)
    assert step(waiting=1, host=cramped) == Step(1)


def test_where_nothing_is_known_of_ram_one_waits() -> None:
    assert step(host=HostReading()) == Step(1, start=True)


def test_one_that_dies_again_and_again_is_started_ever_more_seldom() -> None:
    assert [back_off_s(died) for died in (0, 1, 2, 3)] == [0.0, 1.0, 2.0, 4.0]
    assert back_off_s(50) == BACK_OFF_MOST_S
    assert step(died=3, died_s=NOW_S - 1) == Step(1, again_s=3.0)
    assert step(died=3, died_s=NOW_S - 4) == Step(1, start=True)


class NobodyLoads:
    """A pool without backends."""

    def backends(self) -> list[Backend]:
        return []


class Kept:
    """A keeper that runs, under policies that can be changed."""

    def __init__(self, text: str = "") -> None:
        self.policies = policies_of(text)
        self.warm = WarmWorkers()
        self.keeper = WarmKeeper(
            warm=self.warm, pool=NobodyLoads(), policies=lambda: self.policies, clock=RealClock()
        )

    async def until_ready(self, count: int) -> None:
        await until(lambda: self.keeper.ready == count, f"{count} wait")

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Kept"]:
        run = asyncio.ensure_future(self.keeper.run())
        try:
            yield self
        finally:
            run.cancel()
            await asyncio.wait([run])
            await self.warm.end()


@pytest.mark.llama
async def test_it_goes_while_ram_is_short_and_comes_back() -> None:
    async with Kept().running() as kept:
        await kept.until_ready(1)

        kept.keeper.look(Snapshot(host=HostReading(available_bytes=LOW_BYTES - 1)))
        await kept.until_ready(0)

        kept.keeper.look(Snapshot(host=PLENTY))
        await kept.until_ready(1)


@pytest.mark.llama
async def test_where_no_model_is_hosted_none_waits() -> None:
    command = """
[defaults]
engine = "command"
command = ["serve", "{port}"]
"""
    async with Kept().running() as kept:
        await kept.until_ready(1)
        assert kept.keeper.wanted == 1

        kept.policies = policies_of(command)
        await kept.keeper.policies_changed()

        await kept.until_ready(0)
        assert kept.keeper.wanted == 0
