"""The pool over llama-server itself, as a command engine."""

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.engine.types import LoadOptions
from proxy.errors import LoadFailed
from proxy.pool.pool import Pool
from proxy.pool.state import Backend, BackendState
from tests.pool.conftest import House
from tests.support import models
from tests.support.commands import LLAMA_SERVER
from tests.support.serving import pid_of

pytestmark = pytest.mark.llama
IDLE = "<Pool <b1 tiny ctx=512 split=4 ready in_flight=0 waiting=0> queue=0/100>"


@pytest.fixture(scope="module")
def options() -> LoadOptions:
    path = models.model(layers=4)
    return LoadOptions(
        "tiny", path, ctx=512, parallel=2, engine="command", command=LLAMA_SERVER, split=4
    )


async def answer(house: House, pool: Pool, options: LoadOptions, tokens: int = 4) -> int:
    """One request, streamed: how many events came."""
    async with await pool.acquire(options) as lease:
        url = f"{lease.backend.engine.address.origin}/v1/completions"
        body = {"prompt": "once", "max_tokens": tokens, "stream": True, "ignore_eos": True}
        async with house.http.post(url, json=body) as response:
            assert response.status == 200
            return len([line async for line in response.content if line.startswith(b"data:")])


async def busy_slots(house: House, backend: Backend) -> int:
    async with house.http.get(f"{backend.engine.address.origin}/slots") as response:
        return sum(slot["is_processing"] for slot in await response.json())


async def test_ten_at_once_start_one_process(house: House, options: LoadOptions) -> None:
    pool = house.pool()

    events = await asyncio.gather(*(answer(house, pool, options) for _ in range(10)))

    assert all(events)
    assert house.made == ["b1"]
    assert repr(pool) == IDLE


async def test_a_client_that_leaves_mid_stream(house: House, options: LoadOptions) -> None:
    """The pool is idle at once, and so is the server's slot."""
    pool = house.pool()
    backend = await pool.load(options)
    started = asyncio.Event()

    async def endless() -> None:
        async with await pool.acquire(options) as lease:
            url = f"{lease.backend.engine.address.origin}/v1/completions"
            body = {"prompt": "once", "max_tokens": -1, "stream": True, "ignore_eos": True}
            async with house.http.post(url, json=body) as response:
                async for _ in response.content:
                    started.set()

    client = asyncio.ensure_future(endless())
    await started.wait()
    client.cancel()
    with pytest.raises(asyncio.CancelledError):
        await client

    assert repr(pool) == IDLE
    while await busy_slots(house, backend):
        await asyncio.sleep(0.01)
    assert await answer(house, pool, options)


async def test_killed_between_requests(house: House, options: LoadOptions) -> None:
    pool = house.pool()
    backend = await pool.load(options)
    os.kill(pid_of(backend.engine), signal.SIGKILL)
    await pool.until_left(backend, 60.0)

    assert await answer(house, pool, options)
    assert [(b.id, b.generation) for b in pool.backends()] == [("b1", 2)]


async def test_a_bad_file_then_a_good_one(
    house: House, options: LoadOptions, tmp_path: Path
) -> None:
    """Everybody who waits gets the server's own last words, and the next request tries anew."""
    pool, path = house.pool(), tmp_path / "model.gguf"
    path.write_bytes(options.path.read_bytes()[:100_000])
    bad = replace(options, path=path)
    clients = [answer(house, pool, bad) for _ in range(3)]

    errors = await asyncio.gather(*clients, return_exceptions=True)

    assert all(isinstance(e, LoadFailed) and "failed to load model" in e.message for e in errors)
    assert house.made == ["b1"]
    path.write_bytes(options.path.read_bytes())
    assert await answer(house, pool, bad)


async def test_another_split_starts_beside_and_takes_over(
    house: House, options: LoadOptions
) -> None:
    """A command engine cannot move experts: the second process answers, the first one goes."""
    pool = house.pool()
    old = await pool.load(options)

    assert await answer(house, pool, replace(options, split=1))

    while old.state is not BackendState.GONE:
        await asyncio.sleep(0.01)
    new = pool.backends()[0]
    assert new.engine.known().moe_cpu_layers == 1
