"""On a GPU's driver: the text is that of plain llama-server on the same device with the same split,
whoever changes the split, and whatever else is answered meanwhile."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.guard import HANG_S, until
from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import Proxy, proxy
from tests.support.vulkan import BATCH, SMALL_BATCHES, plain

pytestmark = pytest.mark.llama

LAYERS, STREAMS, TOKENS = 2, 2, 8
SIZES = {"width": 128, "expert_width": 128, "experts": 8}
PROMPT = "the quick brown fox jumps over the lazy dog"
LONG = " ".join(["river"] * (BATCH + 1))  # a whole batch, and some more
ASKED = {"temperature": 0, "ignore_eos": True, "cache_prompt": False, "n_probs": 1}
# Each number is reached in each way, and each differs from the one before.
CHANGES = [(way, n) for way in ("edit", "set", "request") for n in range(LAYERS + 1)]
Said = list[tuple[str, float]]


def text(backend: Path, split: int) -> str:
    of_m = {"path": model(layers=LAYERS, sizes=SIZES), "moe_cpu_layers": split, "ctx": 256}
    of_m |= {"parallel": STREAMS + 2, "args": SMALL_BATCHES}
    return policies({"m": of_m}, engine={"backends": [backend]}, devices={"settle": "60s"})


def said(answer: dict[str, Any]) -> Said:
    """The tokens, and how likely each was: that tells where it was computed."""
    return [(x["token"], x["logprob"]) for x in answer["completion_probabilities"]]


async def complete(served: Proxy, prompt: str, tokens: int, **more: object) -> tuple[Said, int]:
    """The answer, and the split that its header tells."""
    body = {"model": "m", "prompt": prompt, "n_predict": tokens} | ASKED
    async with served.session.post("/completion", json=body | more) as answer:
        result = await answer.json()
        assert answer.status == 200, result
        return said(result), int(answer.headers["X-Moe-Proxy-Moe-Cpu-Layers"])


async def change(served: Proxy, backend: Path, way: str, n: int) -> None:
    if way == "request":
        _, told = await complete(served, PROMPT, 1, options={"moe_cpu_layers": n})
        assert told == n
    elif way == "set":
        await served.put("/admin/backends/b1/split", {"moe_cpu_layers": n})
    else:
        served.edit(text(backend, n))

    async def there() -> bool:
        return bool((await served.backend("m"))["moe_cpu_layers"] == n)

    await until(there, f"{n} layers on the CPU")


@contextlib.asynccontextmanager
async def streams(served: Proxy) -> AsyncIterator[None]:
    """Two answers that are streamed while the block runs, again and again; none may break, and
    those that run at its end are seen to theirs."""
    done = asyncio.Event()

    async def one(number: int) -> None:
        while not done.is_set():
            body: dict[str, Any] = {"model": "m", "prompt": f"{PROMPT} {number}", "stream": True}
            body |= {"n_predict": TOKENS, "temperature": 0, "ignore_eos": True, "id_slot": number}
            async with served.session.post("/completion", json=body) as answer:
                assert answer.status == 200, await answer.text()
                events = [x[6:] async for x in answer.content if x.startswith(b"data:")]
            last = json.loads(events[-1])
            assert last["stop"], last
            assert last["tokens_predicted"] == TOKENS

    async with asyncio.timeout(2 * HANG_S), asyncio.TaskGroup() as group:
        for number in range(STREAMS):
            group.create_task(one(number))
        try:
            yield
        finally:
            done.set()


async def of_plain(backend: Path, n: int) -> tuple[tuple[Said, int], Said]:
    """What llama-server itself says with so many layers on the CPU."""
    more = ("-c", str(256 * (STREAMS + 2)), "-np", str(STREAMS + 2), *SMALL_BATCHES)
    async with plain(backend, model(layers=LAYERS, sizes=SIZES), n, *more) as server:
        long = said(await server.complete(LONG, 1, n_probs=1))
        return (said(await server.complete(PROMPT, TOKENS, n_probs=1)), n), long


async def test_text_is_plain_llama_servers_whoever_changes_the_split(
    backend: Path, tmp_path: Path
) -> None:
    found: dict[tuple[str, int], tuple[tuple[Said, int], Said]] = {}
    async with proxy(tmp_path, text(backend, LAYERS)) as served:
        await complete(served, PROMPT, 1)
        for way, n in CHANGES:
            async with streams(served):
                await change(served, backend, way, n)
            long, _ = await complete(served, LONG, 1)
            found[way, n] = (await complete(served, PROMPT, TOKENS), long)
        (only,) = (await served.get("/admin/state"))["backends"]
        assert (only["id"], only["in_flight"]) == ("b1", 0), "nothing was loaded again"
    # Each has one thread, here and on the device.
    expected = await asyncio.gather(*(of_plain(backend, n) for n in range(LAYERS + 1)))

    assert found == {(way, n): expected[n] for way, n in CHANGES}
    assert expected[0] != expected[LAYERS], "the numbers should be able to differ"
