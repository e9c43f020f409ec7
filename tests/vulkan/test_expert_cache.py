"""On a GPU's driver: a layer that an expert cache leaves alone moves, and is computed where it is.
The cache is a stand-in's (tests/support/cache_build)."""

from pathlib import Path
from typing import Any

import pytest

from proxy.engine.types import CPU
from tests.support.cache_build import cache_build
from tests.support.hosted import hosted
from tests.support.llama import Client
from tests.support.models import model
from tests.support.vulkan import DEVICE, SMALL_BATCHES, plain
from tests.vulkan.test_every_split import PROMPT, SIZES

pytestmark = pytest.mark.llama

LAYERS, CACHED, TOKENS = 2, 1, 4


async def test_the_text_is_that_of_the_same_split(backend: Path) -> None:
    path = model(layers=LAYERS, sizes=SIZES)
    arguments = ("-c", "256", *SMALL_BATCHES)
    async with plain(backend, path, CACHED, *arguments, "-np", "1") as client:
        expected = await client.text(PROMPT, TOKENS)
    options: dict[str, Any] = {
        "backends": (backend,),
        "libdir": cache_build(),
        "args": SMALL_BATCHES,
    }
    options |= {"cache_mib": 2, "cached_layers": CACHED, "ctx": 256, "parallel": 1}

    async with hosted(path, **options) as engine, Client(engine.address) as client:
        status = engine.known()
        assert status.cached == (0,)
        assert status.held[DEVICE]["cache"] == 2 << 20
        await engine.place({CACHED: DEVICE})
        assert await client.text(PROMPT, TOKENS) == expected
        assert engine.known().moe_cpu_layers == CACHED
        await engine.place({CACHED: CPU})
        assert await client.text(PROMPT, TOKENS)
        assert engine.known().held[DEVICE]["experts"] == 0
