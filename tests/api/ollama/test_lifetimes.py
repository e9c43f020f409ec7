"""Clients that leave, and what they leave behind."""

import asyncio
import json
import os
import signal
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from tests.api.ollama.conftest import LONG, TINY
from tests.support.guard import until

pytestmark = pytest.mark.llama
ENDLESS = {"num_predict": 900, "num_ctx": 1024, "temperature": 0}


async def backends(http: aiohttp.ClientSession, model: str) -> list[dict[str, Any]]:
    async with http.get("/admin/state") as answer:
        found = (await answer.json())["backends"]
    return [b for b in found if b["model"] == model and b["state"] != "gone"]


async def the_backend(
    http: aiohttp.ClientSession, seen: Callable[[dict[str, Any]], bool] = bool
) -> dict[str, Any]:
    """The only backend of the model, once it is what is waited for."""

    async def looked() -> list[dict[str, Any]] | None:
        found = await backends(http, TINY)
        return found if found and all(map(seen, found)) else None

    [backend] = await until(looked, "the backend is as wanted")
    return dict(backend)


def idle(backend: dict[str, Any]) -> bool:
    return backend["state"] == "ready" and not backend["in_flight"]


async def at_work(http: aiohttp.ClientSession) -> bool:
    async with http.get(f"/upstream/{TINY}/slots") as answer:
        return any(slot["is_processing"] for slot in await answer.json())


async def generated(http: aiohttp.ClientSession) -> float:
    """How many tokens of whole answers the model's worker has counted."""
    async with http.get(f"/upstream/{TINY}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    (line,) = [line for line in lines if line.startswith("llamacpp:tokens_predicted_total ")]
    return float(line.split()[1])


async def test_a_client_that_leaves_stops_the_generation(http: aiohttp.ClientSession) -> None:
    body = {"model": TINY, "prompt": "hi", "options": ENDLESS, "raw": True}
    before = await generated(http)
    async with http.post("/api/generate", json=body) as answer:
        assert answer.headers["X-Moe-Proxy-Backend"]
        assert answer.headers["X-Moe-Proxy-Moe-Cpu-Layers"] == "4"
        await answer.content.readline()

    backend = await the_backend(http, idle)

    assert backend["last_error"] is None

    async def stopped() -> bool:
        return not await at_work(http)

    # llama-server looks at its connections a moment later.
    await until(stopped, "nothing is generated any more")
    assert await generated(http) - before < ENDLESS["num_predict"]


async def test_a_client_that_leaves_while_a_model_loads(http: aiohttp.ClientSession) -> None:
    """The load goes on, for whoever comes next."""
    async with http.post("/api/generate", json={"model": TINY, "keep_alive": 0}):
        pass
    leaver = asyncio.create_task(
        http.post("/api/chat", json={"model": TINY, "messages": [], "keep_alive": "10s"})
    )
    await the_backend(http)
    leaver.cancel()
    await asyncio.gather(leaver, return_exceptions=True)

    backend = await the_backend(http, idle)

    assert backend["last_error"] is None


async def test_a_worker_that_dies_in_the_middle(http: aiohttp.ClientSession) -> None:
    """The lines so far stay, the last one says why; the next request has a new worker."""
    body = {"model": TINY, "prompt": "hi", "options": ENDLESS, "raw": True}
    async with http.post("/api/generate", json=body) as answer:
        first = json.loads(await answer.content.readline())
        [backend] = await backends(http, TINY)
        os.kill(backend["pid"], signal.SIGKILL)
        rest = [json.loads(line) async for line in answer.content]

    assert first["response"]
    assert list(rest[-1]) == ["error"]
    assert "the engine went away" in rest[-1]["error"]
    assert not any(line["done"] for line in rest[:-1])
    short = body | {"options": {"num_predict": 2}, "stream": False}
    async with http.post("/api/generate", json=short) as answer:
        assert (await answer.json())["done_reason"] == "length"


async def test_a_worker_that_dies_before_anything_was_sent(http: aiohttp.ClientSession) -> None:
    """Without streaming nothing is sent before the end, so another worker can begin again."""
    body = {"model": TINY, "prompt": "hi", "options": ENDLESS, "raw": True, "stream": False}
    async with http.post("/api/generate", json=body) as answer:
        whole = await answer.json()
    asked = asyncio.create_task(http.post("/api/generate", json=body))
    backend = await the_backend(http, lambda backend: bool(backend["in_flight"]))
    os.kill(backend["pid"], signal.SIGKILL)

    async with await asked as answer:
        assert answer.status == 200
        again = await answer.json()

    assert again["response"] == whole["response"]
    assert again["eval_count"] == whole["eval_count"]


async def test_a_larger_context_needs_another_load_a_smaller_one_does_not(
    http: aiohttp.ClientSession,
) -> None:
    async def context(num_ctx: int) -> tuple[str, int]:
        body = {"model": TINY, "prompt": "x", "stream": False}
        options = {"num_predict": 1, "num_ctx": num_ctx}
        async with http.post("/api/generate", json=body | {"options": options}) as answer:
            assert answer.status == 200
            used = answer.headers["X-Moe-Proxy-Backend"]
        async with http.get("/api/ps") as answer:
            entries = (await answer.json())["models"]
        return used, next(e["context_length"] for e in entries if e["backend"] == used)

    first = await context(2048)
    second = await context(512)

    assert first[1] == 4096, "a step"
    assert second == first
    async with http.post("/api/generate", json={"model": TINY, "keep_alive": 0}) as answer:
        assert answer.status == 200


async def test_a_chat_that_grows_takes_one_load(http: aiohttp.ClientSession) -> None:
    """What aider asks for as its chat grows."""
    used = []
    for num_ctx in (8993, 9100, 9700, 10300):
        options = {"num_predict": 1, "num_ctx": num_ctx}
        body = {"model": LONG, "prompt": "x", "stream": False, "options": options}
        async with http.post("/api/generate", json=body) as answer:
            assert answer.status == 200
            used.append(answer.headers["X-Moe-Proxy-Backend"])
    async with http.get("/api/ps") as answer:
        (loaded,) = [m for m in (await answer.json())["models"] if m["model"].startswith(LONG)]

    assert set(used) == {loaded["backend"]}
    assert loaded["context_length"] in (12288, 16384)
    async with http.post("/api/generate", json={"model": LONG, "keep_alive": 0}) as answer:
        assert answer.status == 200
