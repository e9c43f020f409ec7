"""Processes that no signal reaches: the pool goes on without them."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import pytest

from proxy.clock import ManualClock
from proxy.engine.not_started import NotStarted
from proxy.engine.types import Engine, LoadOptions
from proxy.errors import LoadFailed
from proxy.pool.pool import Pool
from tests.pool.conftest import House
from tests.pool.helpers import until

T = TypeVar("T")


class Stuck(NotStarted):
    """Stands for an engine whose process is stuck in the kernel: its end, and with it the end of
    every stop, comes only when a test says so."""

    def __init__(self, *, loads: bool = True, fails: bool = False) -> None:
        self._loads, self._fails = loads, fails
        self.graces_s: list[float] = []
        self.ended = asyncio.Event()

    async def start(self) -> None:
        if self._fails:
            raise LoadFailed("it said nothing")
        if not self._loads:
            await self.wait_exit()
            raise LoadFailed("it ended while loading")

    async def wait_exit(self) -> int:
        await self.ended.wait()
        return -9

    async def stop(self, grace_s: float = 10.0) -> None:
        self.graces_s.append(grace_s)
        await self.ended.wait()


class Stage:
    """A pool whose engines these are, one after the other, and its time."""

    def __init__(self, house: House, *engines: Engine) -> None:
        self.clock = ManualClock()
        left = iter(engines)

        def make(backend_id: str, options: LoadOptions) -> Engine:
            return next(left)

        self.pool: Pool = house.pool(clock=self.clock, make=make)

    async def in_time(self, what: Awaitable[T]) -> T:
        """What it comes to, however long that takes on the pool's clock."""
        task = asyncio.ensure_future(what)
        while not task.done():
            await self.clock.advance(10.0)
        return await task


@pytest.mark.parametrize("loads", [True, False], ids=["serves", "loads"])
async def test_an_unload_ends(house: House, loads: bool) -> None:
    stage = Stage(house, Stuck(loads=loads))
    load = asyncio.ensure_future(stage.pool.load(house.options()))
    await until(stage.pool, "ready" if loads else "starting")
    load.cancel()
    await asyncio.wait([load])

    assert await stage.in_time(stage.pool.unload("m")) == 1
    assert repr(stage.pool) == "<Pool empty queue=0/100>"


async def test_it_has_its_grace_and_a_minute(house: House) -> None:
    engine = Stuck()
    stage = Stage(house, engine)
    await stage.pool.load(house.options())
    unload = asyncio.ensure_future(stage.pool.unload("m"))

    await stage.clock.advance(69.0)
    assert "stopping" in repr(stage.pool)
    assert engine.graces_s == [10.0]
    await stage.clock.advance(1.0)

    assert await unload == 1


async def test_who_waits_for_its_place_gets_one(house: House) -> None:
    stage = Stage(house, Stuck(), Stuck())
    await stage.pool.load(house.options())
    unload = asyncio.ensure_future(stage.pool.unload("m"))
    await until(stage.pool, "stopping")
    waiting = asyncio.ensure_future(stage.pool.acquire(house.options()))
    await until(stage.pool, "queue=1/")

    await stage.in_time(unload)

    async with await waiting as lease:
        assert lease.backend.id == "b2"
    await stage.in_time(stage.pool.kill())


@pytest.mark.parametrize("at_once", [True, False], ids=["kill", "drain"])
async def test_the_proxy_can_end(house: House, at_once: bool) -> None:
    stage = Stage(house, Stuck())
    await stage.pool.load(house.options())

    await stage.in_time(stage.pool.kill() if at_once else stage.pool.drain(0.0))

    assert repr(stage.pool) == "<Pool empty queue=0/100 draining>"


async def test_who_waits_for_a_load_that_failed_is_told(house: House) -> None:
    stage = Stage(house, Stuck(fails=True))

    with pytest.raises(LoadFailed, match="it said nothing"):
        await stage.in_time(stage.pool.acquire(house.options()))


async def test_its_end_is_no_news_when_it_comes_at_last(house: House) -> None:
    engine = Stuck()
    stage = Stage(house, engine)
    await stage.pool.load(house.options())
    await stage.in_time(stage.pool.unload("m"))
    before = house.kinds()

    engine.ended.set()
    await stage.clock.advance(100.0)

    assert house.kinds() == before
    assert repr(stage.pool) == "<Pool empty queue=0/100>"
