"""llama-server frees its model and loads it anew: no pointer into the old one is used again."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from proxy.engine.hosted import HostedEngine
from proxy.engine.types import CPU
from tests.support.guard import HANG_S
from tests.support.llama import Client, plain_text
from tests.support.models import model
from tests.worker.conftest import Hosted
from tests.worker.test_live import PROMPT, split

LAYERS = 12


async def asleep(engine: HostedEngine) -> None:
    """Until its model is gone, and it holds nothing."""
    async with asyncio.timeout(HANG_S):
        while engine.known().held:
            await asyncio.sleep(0.02)
    assert {layer.experts for layer in engine.known().layers} == {CPU}


@contextlib.asynccontextmanager
async def kept_awake(client: Client) -> AsyncIterator[None]:
    """By one short request after the other; the last one is over at the end, so that what comes
    then shares no batch with it."""
    enough = asyncio.Event()

    async def ask() -> None:
        while not enough.is_set():
            await client.text(PROMPT, 4)

    await client.text(PROMPT, 4)
    asking = asyncio.ensure_future(ask())
    try:
        yield
    finally:
        enough.set()
        await asking


@pytest.mark.usefixtures("unchecked")
async def test_experts_are_found_again_in_a_model_that_was_loaded_anew(hosted: Hosted) -> None:
    """By its own sleep, which nothing but a test can switch on."""
    path = model()
    async with (
        hosted(path, args=("--sleep-idle-seconds", "1")) as engine,
        Client(engine.address) as client,
    ):
        await split(engine, 0)
        texts = [await client.text(PROMPT)]
        await asleep(engine)
        texts.append(await client.text(PROMPT))
        async with kept_awake(client):
            await split(engine, 5)
            held = engine.known().held["RPC0"]["experts"]
        texts.append(await client.text(PROMPT))
        sizes = {layer.index: layer.experts_bytes for layer in engine.known().layers}

        # What was asked of the model before counts for the one that was loaded since.
        await asleep(engine)
        async with kept_awake(client), asyncio.timeout(HANG_S):
            while engine.known().moe_cpu_layers != 5:
                await asyncio.sleep(0.02)
        texts.append(await client.text(PROMPT))
        async with kept_awake(client):
            left = await engine.place(dict.fromkeys(range(LAYERS), CPU))
            after = engine.known().held["RPC0"]["experts"]
        texts.append(await client.text(PROMPT))

    # With these weights it is the same text wherever the experts are.
    assert set(texts) == {await plain_text(path, PROMPT, n) for n in (0, 5, LAYERS)}
    assert held >= sum(sizes[index] for index in range(5, LAYERS))
    assert (left.layers, after) == (LAYERS - 5, 0)
