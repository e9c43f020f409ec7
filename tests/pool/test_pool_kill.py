"""The end at once: nobody is asked politely, whatever they are at."""

import asyncio

import aiohttp
import pytest

from proxy.errors import Busy
from tests.pool.conftest import House


async def test_what_loads_and_what_answers_is_ended(house: House) -> None:
    pool, load, answer = house.pool(), house.gate(), house.gate()
    loading = asyncio.ensure_future(
        house.client(pool, house.options("a", "--hold-load", load.path))
    )
    answering = asyncio.ensure_future(house.client(pool, house.options("b"), answer))
    await load.reached()
    await answer.reached()
    engines = [backend.engine for backend in pool.backends()]

    await pool.kill()

    assert repr(pool) == "<Pool empty queue=0/100 draining>"
    assert [await engine.wait_exit() for engine in engines] == [-9, -9]
    with pytest.raises(Busy):
        await loading
    with pytest.raises(aiohttp.ClientError):
        await answering
    with pytest.raises(Busy):
        await pool.acquire(house.options("a"))


async def test_a_polite_end_that_is_under_way_is_hurried(house: House) -> None:
    pool, gate = house.pool(), house.gate()
    client = asyncio.ensure_future(house.client(pool, house.options(), gate))
    await gate.reached()
    drain = asyncio.ensure_future(pool.drain(3600.0))

    await pool.kill()

    await drain
    with pytest.raises(aiohttp.ClientError):
        await client
