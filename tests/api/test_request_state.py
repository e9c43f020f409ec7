"""The requests that are here: what each waits for, how far it is, and how it is ended."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import GATED_SLOTS
from tests.support.gates import Gate
from tests.support.guard import until
from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import Proxy, proxy

pytestmark = pytest.mark.llama
GATED: Any = {"engine": "command", "command": list(GATED_SLOTS), "parallel": 1}
CHAT = "/v1/chat/completions"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Proxy]:
    tiny = {"path": model(layers=4), "ctx": 8192, "parallel": 2}
    async with proxy(tmp_path, policies({"gated": GATED, "tiny": tiny})) as made:
        yield made


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with closing(Gate(tmp_path / "gate")) as made:
        yield made


async def requests(server: Proxy) -> list[dict[str, Any]]:
    return list((await server.get("/admin/requests"))["requests"])


async def the_one(server: Proxy, **values: object) -> dict[str, Any]:
    """The only request that is so, once there is one."""

    async def found() -> dict[str, Any] | None:
        fitting = [one for one in await requests(server) if one | values == one]
        return fitting[0] if len(fitting) == 1 else None

    return dict(await until(found, f"one with {values}", lambda: requests(server)))


async def test_how_far_an_answer_is(server: Proxy) -> None:
    body = {"model": "tiny", "prompt": "once", "ignore_eos": True, "max_tokens": 5000,
            "stream": True}  # fmt: skip
    headers = {"X-Request-Id": "mine"}
    async with server.session.post("/v1/completions", json=body, headers=headers) as answer:
        first = await the_one(server, state="writing", backend="b1")
        assert (first["id"], first["path"], first["max_tokens"]) == (
            "mine",
            "/v1/completions",
            5000,
        )
        await until(lambda: _tokens(server), "tokens are counted")
        before = await _tokens(server)
        await until(lambda: _more(server, before), "and more of them")
        answer.close()
    await until(lambda: _none(server), "it has left")


async def _tokens(server: Proxy) -> int:
    return int((await requests(server))[0]["tokens"] or 0)


async def _more(server: Proxy, than: int) -> bool:
    return await _tokens(server) > than


async def _none(server: Proxy) -> bool:
    return not await requests(server)


async def test_how_far_a_prompt_is_read(server: Proxy) -> None:
    await server.post("/admin/models/tiny/load")
    # Each is read anew, until one is seen while it is.
    seen: list[dict[str, Any]] = []

    async def look() -> None:
        while not seen:
            seen.extend([one for one in await requests(server) if one["prompt_tokens"]])

    looking = asyncio.create_task(look())
    for number in range(50):
        text = f"{number} " + "the quick brown fox " * 1500
        await server.post("/v1/completions", {"model": "tiny", "prompt": text, "max_tokens": 1})
        if looking.done():
            break
    await looking

    assert seen[0]["state"] == "reading"
    assert 0 <= seen[0]["prompt_tokens_read"] <= seen[0]["prompt_tokens"] <= 8192


async def test_what_one_waits_for(server: Proxy, gate: Gate) -> None:
    ask = lambda **more: asyncio.create_task(  # noqa: E731
        server.post(CHAT, {"model": "gated", **more})
    )
    first = ask(gates=[gate.path])
    loading = await the_one(server, model="gated")
    assert loading["waits_for"] in ("load", "room", None)
    await gate.reached()
    second = ask()

    waiting = await the_one(server, state="waiting", waits_for="turn")

    assert (waiting["position"], waiting["backend"]) == (1, None)
    assert (await the_one(server, backend="b1"))["state"] == "writing"
    await gate.open()
    await asyncio.gather(first, second)
    assert await requests(server) == []


@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/api/chat"])
async def test_one_that_waits_is_cancelled_in_its_own_protocols_words(
    server: Proxy, gate: Gate, path: str
) -> None:
    holder = asyncio.create_task(server.post(CHAT, {"model": "gated", "gates": [gate.path]}))
    await gate.reached()
    body = {"model": "gated", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
    cancelled = asyncio.create_task(server.session.post(path, json=body))
    waiting = await the_one(server, state="waiting", waits_for="turn")

    await server.post(f"/admin/requests/{waiting['id']}/cancel")

    async with await cancelled as answer:
        assert answer.status == 400
        assert "somebody at the proxy has ended this request" in await answer.text()
    assert len(await requests(server)) == 1
    await gate.open()
    await holder


async def test_one_under_way_ends_and_gives_its_slot_back(server: Proxy, gate: Gate) -> None:
    asked = asyncio.create_task(
        server.session.post(CHAT, json={"model": "gated", "gates": [gate.path]})
    )
    await gate.reached()
    request = await the_one(server, backend="b1")

    assert await server.post(f"/admin/requests/{request['id']}/cancel") == {
        "cancelled": request["id"]
    }

    async with await asked as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (400, "request_cancelled")
    (backend,) = server.app.services.pool.backends()
    assert backend.in_flight == 0
    refused = await server.post(f"/admin/requests/{request['id']}/cancel", status=404)
    assert "it may have ended" in refused["error"]["message"]


async def test_what_computes_nothing_is_not_listed(server: Proxy) -> None:
    await server.post("/tokenize", {"model": "tiny", "content": "hi"})

    assert await requests(server) == []
