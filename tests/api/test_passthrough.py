"""Requests through a whole proxy to a real engine and back."""

import asyncio
import json
import os
import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.http_writer import StreamWriter

from proxy.app import Running
from proxy.upstream.call import Call
from tests.api.conftest import ALIAS, MODEL
from tests.support.guard import until
from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import proxy as serving

pytestmark = pytest.mark.llama

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 6}


async def slots_at_work(proxy: Running) -> int:
    (backend,) = proxy.services.pool.backends()
    async with Call(backend.engine.address, "GET", "/slots") as answer:
        slots = json.loads(await answer.read())
    return sum(slot["is_processing"] for slot in slots)


async def test_answers_come_back_with_where_they_came_from(client: aiohttp.ClientSession) -> None:
    async with client.post("/v1/chat/completions", json=CHAT) as answer:
        body = await answer.json()

        assert answer.status == 200, body
        assert answer.headers["X-Moe-Proxy-Backend"] == "b1"
        assert answer.headers["X-Moe-Proxy-Moe-Cpu-Layers"] == "4"
    assert body["model"] == MODEL
    assert body["usage"]["completion_tokens"] == 6


async def test_bytes_are_those_of_the_engine(proxy: Running, client: aiohttp.ClientSession) -> None:
    """The proxy's body is the engine's: here one that holds no changing parts."""
    body = json.dumps({"model": MODEL, "content": "hello wörld", "with_pieces": True}).encode()
    async with client.post("/tokenize", data=body) as answer:
        through = await answer.read()
    (backend,) = proxy.services.pool.backends()
    async with Call(backend.engine.address, "POST", "/tokenize", body=body) as direct:
        straight = await direct.read()

    assert through == straight
    assert answer.headers["Content-Type"] == direct.headers["Content-Type"]


async def test_the_head_of_a_stream_comes_with_its_first_event(
    client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one piece, which wakes its client once."""
    written: list[bytes] = []
    write = StreamWriter._writelines

    def noted(self: StreamWriter, chunks: Sequence[bytes]) -> None:
        written.append(b"".join(chunks))
        write(self, chunks)

    monkeypatch.setattr(StreamWriter, "_writelines", noted)
    async with client.post("/v1/chat/completions", json=CHAT | {"stream": True}) as answer:
        await answer.read()

    (begun,) = (piece for piece in written if piece.startswith(b"HTTP/1.1 200"))
    assert b"data: {" in begun


async def test_each_event_of_several_prompts_is_a_chunk(client: aiohttp.ClientSession) -> None:
    """llama-server begins them with one that is null, which clients die of."""
    body = {"model": MODEL, "prompt": ["one", "two"], "max_tokens": 2, "stream": True}
    async with client.post("/v1/completions", json=body) as answer:
        text = await answer.text()

    *events, last = [event.removeprefix("data: ") for event in text.split("\n\n") if event]
    assert last == "[DONE]"
    assert {json.loads(event)["choices"][0]["index"] for event in events} == {0, 1}


@pytest.mark.parametrize(
    ("path", "extra"),
    [
        ("/v1/completions", {"prompt": "hi", "max_tokens": 2}),
        ("/v1/responses", {"input": "hi", "max_output_tokens": 2}),
        ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": "hi"}]}),
        ("/apply-template", {"messages": [{"role": "user", "content": "hi"}]}),
        ("/detokenize", {"tokens": [1, 2]}),
    ],
)
async def test_other_routes(client: aiohttp.ClientSession, path: str, extra: Any) -> None:
    async with client.post(path, json={"model": ALIAS} | extra) as answer:
        assert answer.status == 200, await answer.text()


async def test_questions_about_a_model_go_to_its_engine(client: aiohttp.ClientSession) -> None:
    async with client.get("/props", params={"model": MODEL}) as answer:
        assert (await answer.json())["total_slots"] == 2
    async with client.get("/slots", params={"model": MODEL}) as answer:
        assert len(await answer.json()) == 2
    async with client.get(f"/upstream/{MODEL}/v1/models") as answer:
        assert (await answer.json())["data"][0]["id"] == MODEL


async def test_policy_params_are_defaults(client: aiohttp.ClientSession) -> None:
    """The policy's temperature of 0 makes answers equal; a request's own counts more."""

    async def text(**more: Any) -> str:
        async with client.post("/v1/chat/completions", json=CHAT | more) as answer:
            body = await answer.json()
            assert answer.status == 200, body
            return str(body["choices"][0]["message"]["content"])

    assert await text() == await text()
    assert await text(temperature=1.5, seed=1) != await text(temperature=1.5, seed=2)


@pytest.mark.parametrize("before", ["", f"/upstream/{MODEL}"])
@pytest.mark.parametrize("headers", [{}, {"X-Conversation-Id": "mine"}])
async def test_a_client_that_leaves_ends_its_generation(
    proxy: Running, client: aiohttp.ClientSession, before: str, headers: dict[str, str]
) -> None:
    """Also one that llama-server would go on for, until others ask by the same name."""
    long: dict[str, Any] = CHAT | {"max_tokens": 1900, "stream": True, "ignore_eos": True}
    path = f"{before}/v1/chat/completions"
    async with client.post(path, json=long, headers=headers) as answer:
        await answer.content.readany()
        assert await slots_at_work(proxy) == 1
        answer.close()

    async def idle() -> bool:
        (backend,) = proxy.services.pool.backends()
        return not (await slots_at_work(proxy) or backend.in_flight)

    await until(idle, "nothing is generated any more")
    async with client.get(f"/upstream/{MODEL}/metrics") as told:
        (made,) = re.findall(r"^llamacpp:tokens_predicted_total (\d+)", await told.text(), re.M)
    assert int(made) < long["max_tokens"], "it did not just come to its end"


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"not json", 400, "not valid JSON"),
        (b'{"model": ""}', 400, "model is required"),
        (b'{"model": "no name"}', 400, "invalid model name"),
        (b'{"model": "nobody"}', 404, "model 'nobody' not found"),
        (b'{"model": "%b", "options": {"x": 1}}' % MODEL.encode(), 400, "options.x"),
        (b'{"model": "%b", "messages": 5}' % MODEL.encode(), 400, "messages"),
        (b'{"model": "a", "x": "' + b"a" * 70_000 + b'"}', 413, "64KiB"),
    ],
)
async def test_bad_requests_are_refused_and_disturb_nobody(
    client: aiohttp.ClientSession, body: bytes, status: int, says: str
) -> None:
    async with client.post("/v1/chat/completions", data=body) as answer:
        error = (await answer.json())["error"]
        assert (answer.status, says in error["message"]) == (status, True), error
    async with client.post("/v1/chat/completions", json=CHAT) as answer:
        assert answer.status == 200


async def test_an_oversized_body_that_hides_its_length(client: aiohttp.ClientSession) -> None:
    async def endless() -> Any:
        for _ in range(100):
            yield b" " * 1024

    async with client.post("/v1/messages", data=endless()) as answer:
        assert answer.status == 413
        assert (await answer.json())["error"]["type"] == "request_too_large"


async def test_a_worker_that_dies_before_the_first_byte_costs_no_request(
    proxy: Running, client: aiohttp.ClientSession
) -> None:
    async with client.post("/v1/chat/completions", json=CHAT) as answer:
        assert answer.status == 200
    (backend,) = proxy.services.pool.backends()
    assert backend.engine.pid is not None
    long = CHAT | {"max_tokens": 1000, "ignore_eos": True}
    waiting = asyncio.create_task(client.post("/v1/chat/completions", json=long).__aenter__())
    await until(lambda: slots_at_work(proxy), "it is generated")

    os.kill(backend.engine.pid, signal.SIGKILL)
    answered = await waiting

    assert answered.status == 200
    assert (await answered.json())["usage"]["completion_tokens"] == 1000


async def test_keys(proxy: Running, policies: Path) -> None:
    policies.with_name("keys.txt").write_text("secret\n")
    policies.write_text(
        policies.read_text().replace("[server]", '[server]\napi_keys_file = "keys.txt"')
    )
    await until(lambda: proxy.services.policies.generation > 1, "the keys are asked for")

    async with aiohttp.ClientSession(proxy.url) as session:
        async with session.get("/v1/models") as answer:
            assert answer.status == 401
            assert (await answer.json())["error"]["code"] == "invalid_api_key"
        async with session.get("/health") as answer:
            assert answer.status == 200
        async with session.get("/v1/models", headers={"x-api-key": "secret"}) as answer:
            assert answer.status == 200


@pytest.mark.parametrize("path", ["/v2/rerank", "/v2/rerank?x=1"])
async def test_coheres_name_for_a_path(tmp_path: Path, path: str) -> None:
    table = {"path": model("bert-rerank", layers=2), "mode": "rerank", "ctx": 512}
    text = policies({"judge": table}, catalog={"state": tmp_path / "state"})
    body = {"model": "judge", "query": "water", "documents": ["a river", "a stone"], "top_n": 1}
    async with serving(tmp_path, text) as asked:
        answer = await asked.post(path, body)
        known = await asked.post("/v1/rerank", body)

    assert [set(result) for result in answer["results"]] == [{"index", "relevance_score"}]
    assert answer["results"] == known["results"]
