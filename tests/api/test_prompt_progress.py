"""How far a prompt is read, as llama-server tells it where it is asked for (`return_progress`)."""

import json
import re
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from tests.support.models import model
from tests.support.policies import policies
from tests.support.served import served

pytestmark = pytest.mark.llama

BATCH = 64
PROMPT = "the quick brown fox " * 50  # more than llama-server reads in one go
MESSAGES = [{"role": "user", "content": PROMPT}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
ASKED: Any = {"stream": True, "max_tokens": 3, "seed": 1, "temperature": 0, "cache_prompt": False}
CHAT = ("/v1/chat/completions", {"messages": MESSAGES})
COMPLETION = ("/v1/completions", {"prompt": PROMPT})
# What differs from one request to the next.
ITS_OWN = re.compile(rb'"(?:created|time_ms|id)":(?:\d+|"[^"]*")')


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`always` is asked for it by its policy, whoever asks and for what."""
    path = model(layers=2, template="Qwen-Qwen3-0.6B")
    batches = ["--batch-size", str(BATCH), "--ubatch-size", str(BATCH)]
    tiny: Any = {"path": path, "ctx": 1024, "parallel": 1, "args": batches}
    models = {"tiny": tiny, "always": tiny | {"params": {"return_progress": True}}}
    with served(tmp_path_factory.mktemp("progress"), policies(models)) as url:
        yield url


async def events(url: str, path: str, **body: Any) -> list[bytes]:
    """The data of a stream's events, or the lines of Ollama's."""
    asked = {"model": "tiny"} | ASKED | body
    async with aiohttp.ClientSession(url) as session, session.post(path, json=asked) as answer:
        assert answer.status == 200, await answer.text()
        lines = [line.strip() async for line in answer.content]
    return [line.removeprefix(b"data: ") for line in lines if line.startswith((b"data:", b"{"))]


def progress(found: list[bytes]) -> list[bytes]:
    return [ITS_OWN.sub(b"", data) for data in found if b"prompt_progress" in data]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        CHAT,
        (CHAT[0], CHAT[1] | {"logprobs": True}),
        (CHAT[0], CHAT[1] | {"tools": [TOOL], "tool_choice": "required"}),
        COMPLETION,
        (COMPLETION[0], COMPLETION[1] | {"echo": True}),
        (COMPLETION[0], COMPLETION[1] | {"logprobs": 1}),
        ("/completion", COMPLETION[1]),
    ],
    ids=["chat", "chat, logprobs", "chat, tools", "text", "text, echo", "text, logprobs", "native"],
)
async def test_goes_to_openais_clients_as_it_comes(url: str, path: str, body: Any) -> None:
    found = await events(url, path, return_progress=True, **body)

    plain = body if "echo" not in body and "logprobs" not in body else dict([*body.items()][:1])
    if "tools" not in body:  # for one that has to be called, the prompt is another
        straight = await events(url, f"/upstream/tiny{path}", return_progress=True, **plain)
        assert progress(found) == progress(straight)
    told = [json.loads(data)["prompt_progress"] for data in found if b"prompt_progress" in data]
    assert len(told) > 3
    assert told[0]["processed"] == 0
    assert told[-1]["processed"] == told[-1]["total"] > 2 * BATCH
    rest = [data for data in found if b"prompt_progress" not in data]
    assert b"prompt_progress" in found[0]
    assert len(rest) > 1


async def test_a_response_does_without_as_it_has_no_event_for_it(url: str) -> None:
    body = {"input": PROMPT, "max_output_tokens": 3}

    found = await events(url, "/v1/responses", return_progress=True, **body)

    kinds = [json.loads(data)["type"] for data in found]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    assert kinds == [
        json.loads(data)["type"] for data in await events(url, "/v1/responses", **body)
    ]


async def test_a_message_counts_its_prompt_by_it_and_tells_no_more(url: str) -> None:
    found = await events(url, "/v1/messages", return_progress=True, messages=MESSAGES)

    told = [json.loads(data) for data in found]
    assert told[0]["type"] == "message_start"
    assert told[0]["message"]["usage"]["input_tokens"] > 2 * BATCH
    assert told[-1]["type"] == "message_stop"
    assert not progress(found)


@pytest.mark.parametrize(
    ("path", "body"),
    [("/api/chat", {"messages": MESSAGES}), ("/api/generate", {"prompt": PROMPT, "raw": True})],
)
@pytest.mark.parametrize("streams", [True, False])
async def test_ollamas_lines_have_no_room_for_it(
    url: str, path: str, body: Any, streams: bool
) -> None:
    found = await events(
        url, path, **body, model="always", stream=streams, options={"num_predict": 3}
    )

    told = [json.loads(line) for line in found]
    assert told[-1]["done"]
    assert told[-1]["eval_count"] == 3
    assert told[-1]["prompt_eval_count"] > 2 * BATCH
    assert not progress(found)


@pytest.mark.parametrize(
    ("path", "body"),
    [CHAT, COMPLETION, ("/v1/messages", CHAT[1]), ("/v1/responses", {"input": PROMPT})],
)
async def test_an_answer_in_one_piece_takes_no_notice(url: str, path: str, body: Any) -> None:
    asked = {"model": "always", "max_tokens": 3} | body
    async with aiohttp.ClientSession(url) as session, session.post(path, json=asked) as answer:
        assert answer.status == 200, await answer.text()
        assert (await answer.json())["usage"]
