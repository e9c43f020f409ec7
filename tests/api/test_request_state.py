"""The requests that are here: what each waits for, how far it is, and how it is ended."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import aiohttp
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


WORDS = "the quick brown fox " * 150
TALK = [{"role": "user", "content": WORDS}]
ASKS: dict[str, Any] = {
    "/v1/chat/completions": {"messages": TALK, "max_tokens": 5000},
    "/v1/completions": {"prompt": WORDS, "max_tokens": 5000},
    "/v1/responses": {"input": WORDS, "max_output_tokens": 5000},
    "/v1/messages": {"messages": TALK, "max_tokens": 5000},
    "/api/chat": {"messages": TALK, "options": {"num_predict": 5000}},
    "/api/generate": {"prompt": WORDS, "raw": True, "options": {"num_predict": 5000}},
}
ASKED = [
    ("/v1/chat/completions", True),
    ("/v1/completions", False),
    ("/v1/responses", True),
    ("/v1/messages", True),
    ("/v1/messages", False),
    ("/api/chat", False),
    ("/api/generate", True),
]
OLLAMAS = ("/api/chat", "/api/generate")
# Whose bodies and answers pass as they are: llama-server is not asked how long the prompt is.
WITHOUT = ("/v1/chat/completions", "/v1/completions")


async def test_it_is_told_in_every_protocol_streamed_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.observe.rates.SAMPLE_S", 0.01)
    params = {"ignore_eos": True, "cache_prompt": False}
    batches = ["--batch-size", "32", "--ubatch-size", "32"]
    slow = {"path": model(layers=2), "ctx": 8192, "args": batches, "params": params}
    async with proxy(tmp_path, policies({"slow": slow | {"parallel": 1}})) as server:
        for path, streams in ASKED:
            body = ASKS[path] | {"model": "slow", "stream": streams}
            reading, writing, state = await _watched(server, path, body)

            assert (writing["path"], writing["max_tokens"]) == (path, 5000)
            assert [one["id"] for one in state] == [writing["id"]]
            if (streams and path not in WITHOUT) or path in OLLAMAS:
                assert 500 < writing["prompt_tokens"] < 2000
                assert reading["prompt_tokens_read"] < writing["prompt_tokens"]
            else:
                assert writing["prompt_tokens"] is None, "nobody has said"
                assert reading["prompt_tokens_read"] < 2000


async def _watched(server: Proxy, path: str, body: Any) -> tuple[Any, Any, Any]:
    """It while its prompt is read, and while it is written; and what the whole state says of it."""
    for _ in range(20):  # it may be read between two looks
        task = asyncio.create_task(_finish(server, path, body))
        seen: list[dict[str, Any]] = []
        while not (writing := await _writing(server)):
            seen += [one for one in await requests(server) if one["state"] == "reading"]
            await asyncio.sleep(0.005)  # looking takes time from what is looked at
        state = (await server.get("/admin/state"))["requests"]
        await server.post(f"/admin/requests/{writing['id']}/cancel")
        await task
        await until(lambda: _idle(server), "its slot is free")
        if seen:
            return seen[0], writing, state
    raise AssertionError("it is never seen while its prompt is read")


async def _idle(server: Proxy) -> bool:
    """A worker takes a second to see that somebody has left who waits for a whole answer."""
    return not any(slot["is_processing"] for slot in await server.get("/slots?model=slow"))


async def _finish(server: Proxy, path: str, body: Any) -> None:
    with suppress(aiohttp.ClientPayloadError):  # the end of one that is cancelled
        async with server.session.post(path, json=body) as answer:
            await answer.read()


async def _writing(server: Proxy) -> dict[str, Any] | None:
    found = [one for one in await requests(server) if one["state"] == "writing" and one["tokens"]]
    return found[0] if found else None


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
