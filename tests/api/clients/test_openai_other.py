"""`openai`: everything but chats: models, plain completions, responses, embeddings."""

import base64
import struct
from typing import Any

import openai
import pytest

from tests.api.clients.conftest import (
    ALIAS,
    EMBEDDING_ALIAS,
    ENCODER,
    MEANS,
    SEER,
    TINY,
    USER,
    VARIANT,
)

pytestmark = pytest.mark.llama
ASK: Any = {"model": TINY, "max_output_tokens": 6}
BEGUN = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "'
WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "of a city",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Rome", "Oslo"]}},
        "required": ["city"],
    },
}


def test_models(mine: openai.OpenAI) -> None:
    listed = {entry.id: entry for entry in mine.models.list()}

    assert {TINY, VARIANT, ENCODER} <= listed.keys()
    assert ALIAS not in listed, "an alias is another name, not another model"
    assert mine.models.retrieve(ALIAS) == mine.models.retrieve(TINY) == listed[TINY]
    assert listed[TINY].owned_by == "moe-proxy"
    assert listed[TINY].created > 0
    created = [entry.created for entry in mine.models.list()]
    assert created == sorted(created, reverse=True), "the newest first"
    with pytest.raises(openai.NotFoundError, match="did you mean tiny:4l"):
        mine.models.retrieve("tiny:4x")


def test_plain_completions(mine: openai.OpenAI) -> None:
    ask: Any = {"model": ALIAS, "prompt": "once upon", "max_tokens": 6}
    whole = mine.completions.create(**ask, logprobs=2)
    chunks = list(
        mine.completions.create(**ask, stream=True, stream_options={"include_usage": True})
    )

    assert whole.choices[0].finish_reason == "length"
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 6
    assert whole.choices[0].logprobs is not None
    assert "".join(c.choices[0].text for c in chunks if c.choices) == whole.choices[0].text
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens


def test_responses(mine: openai.OpenAI) -> None:
    whole = mine.responses.create(**ASK, input="hello", instructions="be brief")
    events = list(mine.responses.create(**ASK, input="hello", instructions="be brief", stream=True))

    kinds = [event.type for event in events]
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert "response.output_item.added" in kinds
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    last = events[-1]
    assert last.type == "response.completed"
    assert text == whole.output_text == last.response.output_text
    assert whole.usage is not None
    assert whole.usage.output_tokens == 6
    assert last.response.usage is not None
    assert last.response.usage.total_tokens == whole.usage.total_tokens


async def test_responses_async(mine_async: openai.AsyncOpenAI) -> None:
    conversation: Any = [USER, {"type": "message", "role": "user", "content": "more"}]
    whole = await mine_async.responses.create(**ASK, input=conversation)
    stream = await mine_async.responses.create(**ASK, input=conversation, stream=True)

    text = "".join([e.delta async for e in stream if e.type == "response.output_text.delta"])
    assert text == whole.output_text


def test_responses_with_a_tool(mine: openai.OpenAI) -> None:
    said = {"type": "output_text", "text": BEGUN}
    begun: Any = {"type": "message", "role": "assistant", "content": [said]}
    other: Any = WEATHER | {"name": "get_time"}
    answer = mine.responses.create(
        model="qwen3",
        input=[USER, begun],
        tools=[WEATHER, other],
        tool_choice={"type": "function", "name": "get_weather"},
        max_output_tokens=100,
        extra_body={"chat_template_kwargs": {"enable_thinking": False}},
    )

    (call,) = [item for item in answer.output if item.type == "function_call"]
    assert call.name == "get_weather"
    assert call.call_id


def test_embeddings(mine: openai.OpenAI) -> None:
    """The client asks for base64 by itself, and decodes it."""
    default = mine.embeddings.create(model=EMBEDDING_ALIAS, input="hello")
    floats = mine.embeddings.create(model=ENCODER, input="hello", encoding_format="float")
    several = mine.embeddings.create(model=ENCODER, input=["hello", "world"])
    packed = mine.embeddings.with_raw_response.create(
        model=ENCODER, input="hello", encoding_format="base64"
    ).http_response.json()["data"][0]["embedding"]

    vector = floats.data[0].embedding
    assert len(vector) == 256
    assert sum(x * x for x in vector) == pytest.approx(1, abs=1e-4)
    assert default.data[0].embedding == pytest.approx(vector, abs=1e-6)
    assert struct.unpack("<256f", base64.b64decode(packed)) == pytest.approx(vector, abs=1e-6)
    assert [entry.index for entry in several.data] == [0, 1]
    assert several.data[0].embedding == pytest.approx(vector, abs=1e-3)
    assert several.data[1].embedding != pytest.approx(vector, abs=1e-3)
    assert default.usage.prompt_tokens > 0


def test_a_chat_model_embeds(mine: openai.OpenAI) -> None:
    """As with Ollama: by its last token, in a worker of its own."""
    answer = mine.embeddings.create(model=SEER, input=["hello", "word " * 600])

    short, long = (entry.embedding for entry in answer.data)
    assert len(short) == len(long) == 256
    assert sum(x * x for x in long) == pytest.approx(1, abs=1e-4)
    assert short != pytest.approx(long, abs=1e-3)


def test_inputs_that_are_longer_than_llama_servers_batch(mine: openai.OpenAI) -> None:
    answer = mine.embeddings.create(model=MEANS, input="word " * 1500)

    assert answer.usage.prompt_tokens > 1500
    answer = mine.embeddings.create(model=MEANS, input="word " * 3000)
    assert answer.usage.prompt_tokens == 2048, "as with Ollama, it is cut"


def test_embeddings_with_fewer_dimensions(mine: openai.OpenAI) -> None:
    answer = mine.embeddings.create(model=ENCODER, input="hello", dimensions=8)

    assert len(answer.data[0].embedding) == 8
    assert sum(x * x for x in answer.data[0].embedding) == pytest.approx(1, abs=1e-4)


async def test_embeddings_async(mine_async: openai.AsyncOpenAI) -> None:
    answer = await mine_async.embeddings.create(model=ENCODER, input=["a", "b", "c"])

    assert len(answer.data) == 3
