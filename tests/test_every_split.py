"""What it is all about, from outside: the split is changed by a request, by an edit of the policies
and by the operator while four answers are streamed, and the text is that of plain llama-server."""

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.guard import HANG_S, until
from tests.support.llama import plain_text, rpc_server
from tests.support.models import MOE_SHAPES, model
from tests.support.policies import policies
from tests.support.proxy import Proxy, proxy

pytestmark = pytest.mark.llama

PROMPT = "the quick brown fox jumps over the lazy dog and then"
STREAMS = 4
TALKER = STREAMS + 1  # the slot of a conversation that goes on over all changes


def text(rpc: str, path: Path, split: int) -> str:
    of_m = {"path": path, "moe_cpu_layers": split, "ctx": 2048, "parallel": STREAMS + 2}
    return policies({"m": of_m}, devices={"rpc": [rpc], "settle": "60s"})


class Rig:
    """A proxy on a device, and the three ways to change the split of its one model."""

    def __init__(self, proxy: Proxy, rpc: str, path: Path) -> None:
        self.proxy, self._rpc, self._path = proxy, rpc, path

    async def complete(
        self, prompt: str | list[int], tokens: int, **more: object
    ) -> tuple[dict[str, Any], int]:
        """The answer of llama-server's own /completion, and the split that its header tells."""
        body = {"model": "m", "prompt": prompt, "n_predict": tokens, "temperature": 0}
        usual = {"ignore_eos": True, "cache_prompt": False}
        async with self.proxy.session.post("/completion", json=body | usual | more) as answer:
            result = await answer.json()
            assert answer.status == 200, result
            return result, int(answer.headers["X-Moe-Proxy-Moe-Cpu-Layers"])

    async def change(self, way: str, n: int) -> None:
        if way == "request":
            _, told = await self.complete(PROMPT, 1, options={"moe_cpu_layers": n})
            assert told == n
            return
        if way == "set":
            await self.proxy.put("/admin/backends/b1/split", {"moe_cpu_layers": n})
        else:
            self.proxy.edit(text(self._rpc, self._path, n))

        async def there() -> bool:
            return bool((await self.proxy.backend("m"))["moe_cpu_layers"] == n)

        await until(there, f"{n} layers on the CPU")

    async def goes_on(self, talk: list[int], slot: int = TALKER) -> tuple[list[int], int]:
        """One more turn of a conversation, in tokens, and how many of its prompt were evaluated."""
        body = {"cache_prompt": True, "id_slot": slot, "return_tokens": True}
        answer, _ = await self.complete(talk, 4, **body)
        return [*talk, *answer["tokens"]], answer["timings"]["prompt_n"]

    @contextlib.asynccontextmanager
    async def streams(self) -> AsyncIterator[None]:
        """Answers that are streamed as long as the block runs, one after the other in each of four
        places; none may break."""
        ended = 0

        async def one(number: int) -> None:
            nonlocal ended
            while True:
                body = {"model": "m", "prompt": f"{PROMPT} {number}", "n_predict": 30}
                body |= {"temperature": 0, "ignore_eos": True, "stream": True, "id_slot": number}
                async with self.proxy.session.post("/completion", json=body) as answer:
                    assert answer.status == 200, await answer.text()
                    events = [
                        line[6:] async for line in answer.content if line.startswith(b"data:")
                    ]
                last = json.loads(events[-1])
                assert last["stop"], last
                assert last["tokens_predicted"] == 30
                ended += 1

        tasks = [asyncio.ensure_future(one(number)) for number in range(STREAMS)]
        try:
            yield
            so_far = ended
            async with asyncio.timeout(HANG_S):
                # Each that ran during the change is seen to its end.
                while ended < so_far + STREAMS:
                    assert not any(task.done() for task in tasks)
                    await asyncio.sleep(0.02)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            assert task.cancelled(), task.exception()


@pytest.mark.parametrize("shape", MOE_SHAPES)
async def test_text_is_plain_llama_servers_whoever_changes_the_split(
    shape: str, tmp_path: Path, thorough: bool
) -> None:
    path = model(shape)
    async with rpc_server() as rpc:
        async with proxy(tmp_path, text(rpc, path, 12)) as served:
            rig = Rig(served, rpc, path)
            turns = changes(shape, thorough)
            # The last token, which was never decoded; with a sliding window the window once more,
            # and in older llama.cpp all since a checkpoint.
            usual, talk = [], [1, *range(40, 60)]
            for _ in range(len(turns) + 1):
                talk, evaluated = await rig.goes_on(talk, TALKER - 1)
                usual.append(evaluated)
            assert usual[1] < len(talk) / 2
            texts: dict[tuple[str, int], str] = {}
            talk, _ = await rig.goes_on([1, *range(60, 80)])
            for turn, (way, n) in enumerate(turns, 1):
                async with rig.streams():
                    await rig.change(way, n)
                answer, told = await rig.complete(PROMPT, 24)
                assert told == n
                texts[way, n] = answer["content"]

                talk, evaluated = await rig.goes_on(talk)
                assert evaluated <= usual[turn]
            (backend,) = (await served.get("/admin/state"))["backends"]
            assert (backend["id"], backend["in_flight"]) == ("b1", 0), "nothing was loaded again"
    expected = {n: await plain_text(path, PROMPT, n) for n in {n for _, n in texts}}

    assert texts == {(way, n): expected[n] for way, n in texts}
    assert len(set(expected[12].split())) > 3, "the text should be able to differ"


def changes(shape: str, thorough: bool) -> list[tuple[str, int]]:
    """(way, N) in the order in which they are made; each differs from the one before."""
    if not thorough:
        return [("edit", 0), ("set", 12), ("request", 5)]
    found = []
    for way in ("edit", "set", "request"):
        order = [*range(13)]
        random.Random(shape + way).shuffle(order)
        found += [(way, n) for n in order]
    return found
