"""`openai`: chats, blocking and async, streamed and whole."""

import json
from typing import Any

import openai
import pytest

from tests.api.clients.conftest import ALIAS, TINY, USER

pytestmark = pytest.mark.llama
SHORT: Any = {"model": TINY, "messages": [USER], "max_tokens": 6}
SURE = {
    "type": "object",
    "properties": {"sure": {"type": "boolean"}},
    "required": ["sure"],
    "additionalProperties": False,
}


def test_whole_and_streamed_are_the_same_text(mine: openai.OpenAI) -> None:
    whole = mine.chat.completions.create(**SHORT)
    chunks = list(
        mine.chat.completions.create(**SHORT, stream=True, stream_options={"include_usage": True})
    )

    pieces = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert len([piece for piece in pieces if piece]) > 1
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 6
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    assert [c.usage for c in chunks[:-1]] == [None] * (len(chunks) - 1)


async def test_async(mine_async: openai.AsyncOpenAI) -> None:
    whole = await mine_async.chat.completions.create(**SHORT)
    stream = await mine_async.chat.completions.create(**SHORT, stream=True)

    pieces = [c.choices[0].delta.content or "" async for c in stream if c.choices]
    assert "".join(pieces) == whole.choices[0].message.content


def test_an_alias_is_answered_with_the_models_name(mine: openai.OpenAI) -> None:
    """As with OpenAI itself, where an alias is answered with the version it stands for."""
    assert mine.chat.completions.create(**SHORT | {"model": ALIAS}).model == TINY


def test_headers_tell_who_answered(mine: openai.OpenAI) -> None:
    raw = mine.chat.completions.with_raw_response.create(**SHORT)

    assert raw.headers["X-Moe-Proxy-Backend"].startswith("b")
    assert raw.headers["X-Moe-Proxy-Moe-Cpu-Layers"].isdecimal()
    assert raw.parse().choices


def test_the_split_in_the_extra_body(mine: openai.OpenAI) -> None:
    texts = set()
    for extra, layers in (
        ({"moe_cpu_layers": 2}, "2"),
        ({"options": {"moe_cpu_layers": "none"}}, "0"),
        ({"moe_cpu_layers": "full"}, "4"),
    ):
        raw = mine.chat.completions.with_raw_response.create(**SHORT, extra_body=extra)
        assert raw.headers["X-Moe-Proxy-Moe-Cpu-Layers"] == layers
        texts.add(raw.parse().choices[0].message.content)
    assert len(texts) == 1
    with pytest.raises(openai.BadRequestError, match=r"moe_cpu_layers.*is not allowed") as error:
        mine.chat.completions.create(**SHORT, extra_body={"moe_cpu_layers": "some"})
    assert error.value.param == "moe_cpu_layers"
    assert error.value.type == "invalid_request_error"


def test_answers_as_json(mine: openai.OpenAI) -> None:
    long = SHORT | {"max_tokens": 100}
    some = mine.chat.completions.create(**SHORT, response_format={"type": "json_object"})
    kept = mine.chat.completions.create(
        **long,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "sure", "schema": SURE, "strict": True},
        },
    )

    assert (some.choices[0].message.content or "").lstrip().startswith("{")
    assert json.loads(kept.choices[0].message.content or "")["sure"] in (True, False)


def test_probabilities(mine: openai.OpenAI) -> None:
    whole = mine.chat.completions.create(**SHORT, logprobs=True, top_logprobs=3)
    chunks = mine.chat.completions.create(**SHORT, logprobs=True, top_logprobs=3, stream=True)

    streamed = [
        entry
        for chunk in chunks
        if chunk.choices and chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content or ()
    ]
    assert whole.choices[0].logprobs is not None
    told = whole.choices[0].logprobs.content or []
    assert len(told) == 6
    assert [entry.token for entry in streamed] == [entry.token for entry in told]
    for entry in told:
        assert len(entry.top_logprobs) == 3
        assert entry.logprob <= 0
        assert entry.token == entry.top_logprobs[0].token, "the likeliest, at temperature 0"


def test_several_answers_at_once(mine: openai.OpenAI) -> None:
    answer = mine.chat.completions.create(**SHORT, n=2, temperature=1.5, seed=1)

    assert [choice.index for choice in answer.choices] == [0, 1]
    assert all(choice.message.content for choice in answer.choices)


def test_stop_and_seed(mine: openai.OpenAI) -> None:
    def say(seed: int, **more: Any) -> Any:
        warm = SHORT | {"temperature": 1.5, "seed": seed}
        return mine.chat.completions.create(**warm, **more).choices[0]

    first = say(3)
    text = first.message.content or ""
    stop = text.split()[2]
    cut = say(3, stop=[stop])

    assert say(3).message.content == first.message.content
    assert say(4).message.content != first.message.content
    assert cut.finish_reason == "stop"
    assert cut.message.content == text[: text.index(stop)]


def test_efforts_reach_the_template(mine: openai.OpenAI) -> None:
    begun = {"role": "assistant", "content": "", "reasoning_content": "I think"}
    texts = set()
    efforts: list[Any] = ["low", "medium", "high"]
    for effort in efforts:
        answer = mine.chat.completions.create(
            model="gpt-oss",
            messages=[USER, begun],  # type: ignore[list-item]
            max_tokens=8,
            reasoning_effort=effort,
        )
        texts.add(answer.choices[0].message.model_dump()["reasoning_content"])
    assert len(texts) == 3


def test_thinking_is_told_apart(mine: openai.OpenAI) -> None:
    ask: Any = {"model": "thinker", "messages": [USER], "max_tokens": 100}
    whole = mine.chat.completions.create(**ask)
    chunks = [c for c in mine.chat.completions.create(**ask, stream=True) if c.choices]

    message = whole.choices[0].message.model_dump()
    deltas = [chunk.choices[0].delta.model_dump() for chunk in chunks]
    assert message["content"].strip() == "Rome"
    assert message["reasoning_content"].strip() == "I think"
    for field in ("content", "reasoning_content"):
        assert "".join(delta.get(field) or "" for delta in deltas) == message[field]
