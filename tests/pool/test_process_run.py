"""One start of a backend that is stopped at every point of its way."""

import asyncio
import os
import signal
from dataclasses import replace

import pytest

from proxy.pool.pool import Pool
from proxy.pool.state import Backend, BackendState
from tests.pool.conftest import House
from tests.pool.helpers import until_gone
from tests.support.serving import pid_of


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


class Steps:
    """What is done when a backend has loaded, and before it is stopped: each step waits for the
    test."""

    def __init__(self, pool: Pool) -> None:
        self.done: list[str] = []
        self.reached, self.opened = asyncio.Event(), asyncio.Event()
        pool.hooks.subscribe(loaded=self.loaded, before_stop=self.before_stop)

    async def loaded(self, backend: Backend) -> None:
        await self._step("loaded", backend)

    async def before_stop(self, backend: Backend) -> None:
        await self._step("before stop", backend)

    async def _step(self, what: str, backend: Backend) -> None:
        self.done.append(f"{what} {backend.id}")
        self.reached.set()
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.done.append("cancelled")
            raise


async def test_a_backend_takes_requests_once_what_follows_its_load_is_done(house: House) -> None:
    pool = house.pool()
    steps = Steps(pool)
    load = asyncio.ensure_future(pool.load(house.options()))
    await steps.reached.wait()

    (backend,) = pool.backends()
    assert (backend.state, load.done()) == (BackendState.STARTING, False)
    assert backend.engine.pid is not None
    steps.opened.set()
    assert await load is backend


async def test_what_a_backend_leaves_is_taken_from_a_process_that_runs(house: House) -> None:
    pool = house.pool()
    steps = Steps(pool)
    steps.opened.set()
    backend = await pool.load(house.options())
    steps.opened.clear()
    steps.reached.clear()
    unload = asyncio.ensure_future(pool.unload("m"))
    await steps.reached.wait()

    assert "stopping" in repr(backend)
    assert backend.engine.pid is not None
    steps.opened.set()
    await unload
    assert steps.done == ["loaded b1", "before stop b1"]
    assert "gone" in repr(backend)


async def test_a_stop_does_not_wait_for_what_follows_a_load(house: House) -> None:
    pool = house.pool()
    steps = Steps(pool)
    load = asyncio.ensure_future(pool.load(house.options()))
    await steps.reached.wait()
    await let_go_of(load)

    await pool.unload("m")

    assert steps.done == ["loaded b1", "cancelled"]
    assert repr(pool) == "<Pool empty queue=0/100>"


async def test_a_drain_takes_nothing_from_anybody(house: House) -> None:
    pool = house.pool()
    steps = Steps(pool)
    steps.opened.set()
    await pool.load(house.options())
    steps.opened.clear()

    await pool.drain(60.0)

    assert steps.done == ["loaded b1"]


@pytest.mark.parametrize("how", ["drain", "kill"])
async def test_the_end_of_all_does_not_wait_for_one_that_leaves(house: House, how: str) -> None:
    pool = house.pool()
    steps = Steps(pool)
    steps.opened.set()
    await pool.load(house.options())
    steps.opened.clear()
    steps.reached.clear()
    unload = asyncio.ensure_future(pool.unload("m"))
    await steps.reached.wait()

    await (pool.drain(60.0) if how == "drain" else pool.kill())

    await unload
    assert steps.done == ["loaded b1", "before stop b1", "cancelled"]


async def test_a_step_that_crashes_costs_nobody_anything(house: House) -> None:
    pool = house.pool()

    async def broken(backend: Backend) -> None:
        raise RuntimeError("a bug in a step")

    pool.hooks.subscribe(loaded=broken, before_stop=broken)
    await pool.load(house.options())

    assert await pool.unload("m") == 1


@pytest.mark.parametrize(
    ("number", "killed"),
    [(signal.SIGKILL, True), (signal.SIGTERM, True), (signal.SIGABRT, False)],
)
async def test_it_is_known_whether_a_worker_crashed(
    house: House, number: signal.Signals, killed: bool
) -> None:
    pool = house.pool()
    backend = await pool.load(house.options())

    os.kill(pid_of(backend.engine), number)
    await until_gone(backend)

    assert backend.crashed is not killed


async def test_one_that_aborts_as_a_device_elsewhere_goes_has_not_crashed(house: House) -> None:
    """llama.cpp aborts then. What it was asked has nothing to do with it."""
    pool = house.pool()
    backend = await pool.load(replace(house.options(), rpc=("127.0.0.1:1",)))

    os.kill(pid_of(backend.engine), signal.SIGABRT)
    await until_gone(backend)

    assert not backend.crashed
