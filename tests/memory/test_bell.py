"""What one task waits for."""

import asyncio

from proxy.memory.bell import Bell
from tests.support.guard import HANG_S


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
