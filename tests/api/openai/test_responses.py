"""OpenAI's responses, over HTTP, from a real engine."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import Proxy, proxy

pytestmark = pytest.mark.llama
PATH = "/v1/responses"
ASK: Any = {"model": "tiny", "input": "hello", "max_output_tokens": 4}
COLOURS = ["red", "blue"]
FORMAT: Any = {
    **{"type": "json_schema", "name": "colour", "strict": True},
    "schema": {
        "type": "object",
        "properties": {"colour": {"type": "string", "enum": COLOURS}},
        "required": ["colour"],
        "additionalProperties": False,
    },
}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Proxy]:
    async with proxy(tmp_path, text()) as server:
        yield server


def text(**server: Any) -> str:
    path = model(layers=2)
    thinks = 'root ::= "<think>\\nhm\\n</think>\\n\\nRome"'
    models = {
        "tiny": {"path": path, "params": {"temperature": 0.0, "cache_prompt": False}},
        "thinker": {
            "path": model(layers=2, template="Qwen-Qwen3-0.6B"),
            "params": {"grammar": thinks},
        },
    }
    return policies(models, server=server, defaults={"ctx": 1024, "parallel": 2})


async def streamed(server: Proxy, body: Any) -> list[Any]:
    async with server.session.post(PATH, json={**body, "stream": True}) as answer:
        assert answer.status == 200, await answer.text()
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert answer.headers["X-Moe-Proxy-Backend"]
        lines = (await answer.read()).splitlines()
    return [json.loads(line[6:]) for line in lines if line.startswith(b"data: ")]


async def test_streamed_and_whole_say_the_same(server: Proxy) -> None:
    whole = await server.post(PATH, ASK)
    events = await streamed(server, ASK)

    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    created = events[0]["response"]
    assert events[0]["type"] == "response.created"
    assert (created["model"], created["output"], created["status"]) == ("tiny", [], "in_progress")
    assert created["created_at"] > 0
    last = events[-1]["response"]
    changing = {"id", "created_at", "completed_at", "output", "timings", "usage"}
    assert {k: v for k, v in last.items() if k not in changing} == {
        k: v for k, v in whole.items() if k not in changing
    }
    assert last["output"][0]["content"] == whole["output"][0]["content"]
    deltas = [e["delta"] for e in events if e["type"] == "response.output_text.delta"]
    assert "".join(deltas) == whole["output"][0]["content"][0]["text"]
    assert last["usage"]["output_tokens"] == whole["usage"]["output_tokens"] == 4
    assert last["incomplete_details"] == {"reason": "max_output_tokens"}


async def test_a_schema_is_obeyed(server: Proxy) -> None:
    made = await server.post(PATH, {**ASK, "text": {"format": FORMAT}, "max_output_tokens": 100})

    assert made["status"] == "completed"
    assert json.loads(made["output"][0]["content"][0]["text"])["colour"] in COLOURS
    assert made["text"]["format"] == FORMAT


async def test_what_clients_send_back_is_read_or_skipped(server: Proxy) -> None:
    """Each of them was a 400 once. What a model can read counts."""
    said = {"type": "message", "role": "user", "content": "hello"}
    skipped: list[Any] = [
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA"},
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {}},
        {"type": "reasoning", "id": "rs_2", "summary": []},
    ]
    plain = await server.post(PATH, {**ASK, "input": [said]})
    more = await server.post(PATH, {**ASK, "input": [*skipped, said]})
    called = await server.post(
        PATH,
        {
            **ASK,
            "input": [
                said,
                {"type": "custom_tool_call", "call_id": "c", "name": "patch", "input": "x"},
                {"type": "custom_tool_call_output", "call_id": "c", "output": "done"},
            ],
        },
    )

    assert more["usage"]["input_tokens"] == plain["usage"]["input_tokens"]
    assert more["output"][0]["content"] == plain["output"][0]["content"]
    assert called["usage"]["input_tokens"] > plain["usage"]["input_tokens"]


async def test_thoughts(server: Proxy) -> None:
    ask = {**ASK, "model": "thinker", "max_output_tokens": 60}
    plain = await server.post(PATH, ask)
    summary = await server.post(PATH, {**ask, "reasoning": {"summary": "auto"}})
    events = await streamed(server, ask)

    thought, answer = plain["output"]
    assert thought["content"] == [{"type": "reasoning_text", "text": "hm\n"}]
    assert answer["content"][0]["text"] == "Rome"
    assert summary["output"][0]["summary"] == [{"type": "summary_text", "text": "hm\n"}]
    said = [e["delta"] for e in events if e["type"] == "response.reasoning_text.delta"]
    assert "".join(said) == "hm\n"


async def test_a_conversation_goes_on_from_its_last_response(server: Proxy) -> None:
    first = await server.post(PATH, {**ASK, "instructions": "be brief"})
    told = first["output"][0]["content"][0]["text"]
    assistant = {"role": "assistant", "content": told}
    spelled = [{"role": "user", "content": "hello"}, assistant, {"role": "user", "content": "more"}]
    expected = await server.post(PATH, {**ASK, "input": spelled})

    ask = {**ASK, "input": "more", "previous_response_id": first["id"]}
    second = await server.post(PATH, ask)
    streams = await streamed(server, ask)
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    referred = await server.post(PATH, {**ASK, "input": [spelled[0], reference, spelled[2]]})

    assert second["previous_response_id"] == first["id"]
    for made in (second, streams[-1]["response"], referred):
        assert made["usage"]["input_tokens"] == expected["usage"]["input_tokens"]
        assert made["output"][0]["content"] == expected["output"][0]["content"]
    third = await server.post(PATH, {**ask, "previous_response_id": second["id"]})
    assert third["usage"]["input_tokens"] > second["usage"]["input_tokens"]


async def test_what_is_kept_can_be_had_and_forgotten(server: Proxy) -> None:
    made = await server.post(PATH, ASK)
    where = f"{PATH}/{made['id']}"

    kept = await server.get(where)
    assert {**made, "timings": None} == {**kept, "timings": None}
    async with server.session.get(f"{where}?stream=true") as answer:
        assert (await answer.json())["error"]["code"] == "unsupported_parameter"
    async with server.session.delete(where) as answer:
        assert (await answer.json())["deleted"] is True
    async with server.session.get(where) as answer:
        assert answer.status == 404
    error = await server.post(PATH, {**ASK, "previous_response_id": made["id"]}, status=400)
    assert error["error"]["code"] == "previous_response_not_found"
    assert error["error"]["param"] == "previous_response_id"


async def test_what_is_not_to_be_kept_is_not(server: Proxy, tmp_path: Path) -> None:
    private = await server.post(PATH, {**ASK, "store": False})
    assert private["store"] is False
    await server.apply(text(keep_responses="0"))
    other = await server.post(PATH, ASK)

    for made in (private, other):
        await server.post(PATH, {**ASK, "previous_response_id": made["id"]}, status=400)


async def test_tokens_are_counted(server: Proxy) -> None:
    counted = await server.post(f"{PATH}/input_tokens", ASK)
    made = await server.post(PATH, ASK)

    assert counted == {
        "object": "response.input_tokens",
        "input_tokens": made["usage"]["input_tokens"],
    }


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"input": []}, "empty_array"),
        ({"input": None}, "missing_required_parameter"),
        ({"input": "word " * 3000}, "context_length_exceeded"),
        ({"background": True}, "unsupported_parameter"),
        ({"temperature": "hot"}, "invalid_request_error"),
    ],
)
async def test_errors(server: Proxy, fields: Any, code: str) -> None:
    for stream in (False, True):
        body = {**ASK, **fields, "stream": stream}
        error = (await server.post(PATH, body, status=400))["error"]

        assert (error["code"], error["type"]) == (code, "invalid_request_error")


async def test_the_path_without_a_version_is_the_same(server: Proxy) -> None:
    made = await server.post("/responses", ASK)

    assert made["object"] == "response"
