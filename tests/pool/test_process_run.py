"""One start of a backend that is stopped at every point of its way."""

import asyncio

import pytest

from proxy.pool.pool import Pool
from proxy.pool.state import Backend
from tests.pool.conftest import House


class Door:
    """Where a start waits before there is a process."""

    def __init__(self, pool: Pool) -> None:
        self.reached, self.opened = asyncio.Event(), asyncio.Event()
        pool.hooks.subscribe(before_start=self.wait)

    async def wait(self, backend: Backend) -> None:
        self.reached.set()
        await self.opened.wait()


async def let_go_of(load: "asyncio.Task[Backend]") -> None:
    """Nobody waits for it any more: an unload ends it at once."""
    load.cancel()
    with pytest.raises(asyncio.CancelledError):
        await load


@pytest.mark.parametrize("turns", range(8))
async def test_a_stop_when_all_is_prepared_loads_nothing(house: House, turns: int) -> None:
    """In whichever turn of the loop between the end of the preparation and the process."""
    pool = house.pool()
    door = Door(pool)
    load = asyncio.ensure_future(pool.load(house.options()))
    await door.reached.wait()
    await let_go_of(load)

    door.opened.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    before = list(house.loads)
    await pool.unload("m")

    assert house.loads == before
    assert repr(pool) == "<Pool empty queue=0/100>"


async def test_a_preparation_that_does_not_mind_being_cancelled_starts_nothing(
    house: House,
) -> None:
    pool = house.pool()
    reached = asyncio.Event()

    async def stubborn(backend: Backend) -> None:
        reached.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return

    pool.hooks.subscribe(before_start=stubborn)
    load = asyncio.ensure_future(pool.load(house.options()))
    await reached.wait()
    await let_go_of(load)

    await pool.unload("m")

    assert house.loads == []
