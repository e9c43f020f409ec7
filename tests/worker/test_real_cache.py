"""Beside llama.cpp's real expert cache (of another release than ours, and without a server): it has
the layers that it is to have, and what moves beside it changes no text. With --thorough, as its
libraries are a package of their own."""

import asyncio
import contextlib
import json
import re
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from proxy.engine.ports import free_port
from tests.support.guard import until
from tests.support.llama import child
from tests.support.models import model
from tests.support.real_cache import DEVICE, libraries

LAYERS, CACHED = 12, 8
PROGRAM = (sys.executable, "-m", "tests.support.real_cache")


@pytest.fixture
def package(thorough: bool) -> Path:
    if not thorough:
        pytest.skip("it downloads other libraries of llama.cpp's: --thorough")
    return libraries()


@contextlib.asynccontextmanager
async def device(package: Path) -> AsyncIterator[str]:
    port = free_port()

    def listens() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    endpoint = f"127.0.0.1:{port}"
    async with child(*PROGRAM, "serve", str(package), endpoint):
        await until(listens, "the RPC server listens")
        yield endpoint


async def moved(package: Path, path: Path, mib: int) -> tuple[dict[str, Any], str]:
    """What was seen, and what llama.cpp said."""
    async with device(package) as endpoint:
        arguments = (str(package), endpoint, str(path), str(CACHED), str(mib))
        process = await asyncio.create_subprocess_exec(
            *(*PROGRAM, "move", *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()[-2000:]
    return json.loads(out), errors.decode()


@pytest.mark.parametrize("shape", ["qwen3moe", "gpt-oss", "mixtral", "deepseek2", "glm4moe"])
async def test_it_has_what_it_is_to_have_and_the_rest_moves(package: Path, shape: str) -> None:
    path = model(shape, layers=LAYERS)
    without, _ = await moved(package, path, 0)
    beside, said = await moved(package, path, 8)

    first = min(map(int, without["places"]))  # of some shapes, layers without experts come first
    (layers,) = re.findall(r"(\d+) layers, \w+: +\d+ slots", said)
    assert int(layers) == CACHED - first
    assert beside["cached"] == [*range(first, CACHED)]
    assert beside["places"] == {str(layer): DEVICE for layer in range(CACHED, LAYERS)}
    assert 7 << 20 < beside["held"]["cache"] <= 8 << 20
    assert abs(beside["held"]["kv"] - without["held"]["kv"]) < 1 << 17
    (text,) = {tuple(map(tuple, text)) for text in without["texts"] + beside["texts"]}
    assert len(text) > 1
