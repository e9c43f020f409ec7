"""When idle backends have to go."""

import asyncio
from pathlib import Path

import pytest

from proxy.clock import ManualClock
from proxy.engine.types import LoadOptions
from proxy.pool.state import Backend, BackendState, Name
from proxy.pool.timers import Timers

OPTIONS = LoadOptions("m", Path("m.gguf"))
READY = BackendState.READY


class Desk:
    """Timers, their time, and what has fired."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.fired: list[Name] = []
        self.timers = Timers(self.clock, self.fired.append)

    @property
    def waiting(self) -> int:
        """How many tasks wait for a time."""
        return sum(task.get_name() == "b1:keep_alive" for task in asyncio.all_tasks())


@pytest.fixture
async def desk() -> Desk:
    return Desk()


async def test_it_fires_when_its_time_has_come(desk: Desk) -> None:
    desk.timers.set(Backend("b1", OPTIONS, state=READY), 60.0)
    await desk.clock.advance(59.0)
    assert not desk.fired

    await desk.clock.advance(1.0)

    assert desk.fired == [("b1", 1)]
    assert not desk.waiting


async def test_the_last_time_that_was_set_counts(desk: Desk) -> None:
    """Later or earlier than the one before, and not while it is in use."""
    backend = Backend("b1", OPTIONS, state=READY)
    for at_s in (60.0, None, 90.0, 30.0, None, 40.0):
        desk.timers.set(backend, at_s)
        await desk.clock.advance(1.0)
    assert desk.waiting == 1

    await desk.clock.advance(33.0)
    assert not desk.fired
    await desk.clock.advance(1.0)
    assert desk.fired == [("b1", 1)]


async def test_nothing_waits_for_one_that_is_gone(desk: Desk) -> None:
    """Also where it was in use when it ended."""
    backend = Backend("b1", OPTIONS, state=READY)
    for last in (60.0, None):
        desk.timers.set(backend, 60.0)
        desk.timers.set(backend, last)
        await desk.clock.advance(1.0)

        desk.timers.forget(backend.name)
        await desk.clock.advance(1.0)

        assert not desk.waiting
    await desk.clock.advance(100.0)
    assert not desk.fired


async def test_a_restart_has_a_time_of_its_own(desk: Desk) -> None:
    first, second = (Backend("b1", OPTIONS, generation, state=READY) for generation in (1, 2))
    desk.timers.set(first, 10.0)
    desk.timers.set(second, 20.0)
    desk.timers.forget(first.name)

    await desk.clock.advance(30.0)

    assert desk.fired == [("b1", 2)]
