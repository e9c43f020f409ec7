"""Asking workers for their devices: who hangs is waited for once."""

import asyncio

from tests.control.test_control_loop import card, played, world
from tests.control.world.world import living


@played
async def test_one_that_hangs_is_waited_for_once_and_comes_back_when_it_answers() -> None:
    there = world(card(2000))
    async with living(there):
        for model in ("a", "b"):
            there.ask(model)
        await there.until_answered()
        there.engines["a"].hangs = True
        took_s = []
        for _ in range(3):
            began_s = there.clock.now()
            assert {device.name for device in await there.workers.ask_all()} == {"CPU", "G0"}
            took_s.append(there.clock.now() - began_s)
        assert took_s[0] >= 1
        assert max(took_s[1:]) < 0.1
        a, b = there.backend("a"), there.backend("b")
        assert [there.workers.answers(backend) for backend in (a, b)] == [False, True]

        there.engines["a"].hangs = False
        assert await there.workers.ask(a) is not None
        assert there.workers.answers(a)


@played
async def test_one_that_is_gone_is_forgotten() -> None:
    there = world(card(2000))
    async with living(there):
        there.ask("a")
        await there.until_answered()
        backend = there.backend("a")
        there.engines["a"].hangs = True
        await there.workers.ask(backend)
        await there.pool.kill()

        assert there.workers.answers(backend)
        assert await there.workers.ask_all() == []


@played
async def test_what_one_that_ended_had_told_hides_no_device_that_only_others_tell_of() -> None:
    """It ended while another one was waited for."""
    there = world(card(2000))
    async with living(there):
        for model in ("a", "b"):
            there.ask(model)
        await asyncio.sleep(5)
        there.engines["b"].hangs = True
        asking = asyncio.ensure_future(there.workers.ask_all())
        await asyncio.sleep(1)
        there.engines["a"].die()
        await asking

        assert there.workers.silent() == {"CPU", "G0"}


@played
async def test_one_that_ends_while_it_is_asked_is_not_taken_to_be_late() -> None:
    there = world(card(2000))
    async with living(there):
        there.ask("a")
        await there.until_answered()
        backend = there.backend("a")
        there.engines["a"].hangs = True
        asking = asyncio.ensure_future(there.workers.ask(backend))
        await asyncio.sleep(1)
        there.engines["a"].die()

        assert await asking is None
        assert there.workers.answers(backend)
