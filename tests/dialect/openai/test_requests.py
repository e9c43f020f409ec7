"""Requests for a response, as chats."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from proxy.dialect.body import Body
from proxy.dialect.openai.requests import Asked, read_asked
from proxy.errors import BadRequest, ProxyError

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}

JSON = {"type": "json_object"}


def asked(**fields: Any) -> Asked:
    def expand(previous: str | None, given: Sequence[Any]) -> Sequence[Any]:
        before = [{"role": "user", "content": previous}] if previous else []
        return [*before, *given]

    return read_asked(Body(json.dumps({"model": "m", **fields}).encode()), expand)


def chat(**fields: Any) -> Any:
    return json.loads(Body.of(asked(**{"input": "hi", **fields}).chat).encode())


def test_a_text_and_instructions() -> None:
    assert chat(instructions="be brief") == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "hi"},
        ],
    }


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({"max_output_tokens": 5}, {"max_tokens": 5}),
        ({"reasoning": {"effort": "low"}}, {"reasoning_effort": "low"}),
        (
            {"text": {"format": {"type": "json_object"}}},
            {"response_format": {"type": "json_object"}},
        ),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": SCHEMA},
                }
            },
        ),
        ({"text": {"format": {"type": "text"}, "verbosity": "low"}}, {}),
        (
            {"stream": True},
            {"stream": True, "stream_options": {"include_usage": True}, "return_progress": True},
        ),
        (
            {"include": ["message.output_text.logprobs"], "top_logprobs": 2},
            {"logprobs": True, "top_logprobs": 2},
        ),
        ({"temperature": 0.5, "grammar": "g", "top_k": 3, "moe_cpu_layers": 1},) * 2,
        ({"metadata": {"a": "b"}, "truncation": "auto", "prompt_cache_key": "k"}, {}),
        ({"store": False, "include": ["reasoning.encrypted_content"]}, {}),
        (dict.fromkeys(("max_output_tokens", "text", "reasoning", "tools", "temperature")), {}),
    ],
)
def test_other_names_for_the_same(given: Any, made: Any) -> None:
    assert chat(**given) == {"model": "m", "messages": [{"role": "user", "content": "hi"}], **made}


def test_tools_and_the_choice_among_them() -> None:
    tools = [{"type": "function", "name": n, "parameters": SCHEMA} for n in ("f", "g")]
    made = chat(tools=tools, tool_choice={"type": "function", "name": "g"})

    assert [tool["function"]["name"] for tool in made["tools"]] == ["f", "g"]
    assert made["tool_choice"] == {"type": "function", "function": {"name": "g"}}
    assert "tools" not in chat(tools=[{"type": "web_search"}])


def test_a_response_repeats_what_it_was_asked() -> None:
    said = asked(input="hi", temperature=0.5, metadata={"a": "b"}, reasoning={"effort": "low"})

    assert said.repeats["temperature"] == 0.5
    assert said.repeats["metadata"] == {"a": "b"}
    assert said.repeats["reasoning"] == {"effort": "low", "summary": None}
    assert said.repeats["text"] == {"format": {"type": "text"}}
    assert said.repeats["tools"] == []


def test_what_came_before_comes_first() -> None:
    said = asked(input="more", previous_response_id="what was said")

    assert [message["content"] for message in said.chat["messages"]] == ["what was said", "more"]
    assert asked(previous_response_id="x").items, "it need not say anything new"
    assert said.stores
    assert not asked(input="x", store=False).stores


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({}, "input", "missing_required_parameter"),
        ({"input": None}, "input", "missing_required_parameter"),
        ({"input": []}, "input", "empty_array"),
        ({"input": [{"role": "system", "content": "x"}]}, "input", "empty_array"),
        ({"input": [{"type": "web_search_call"}]}, "input", "empty_array"),
        ({"input": 5}, "input", "invalid_request_error"),
        ({"input": "x", "instructions": 5}, "instructions", "invalid_request_error"),
        ({"input": "x", "text": 5}, "text", "invalid_request_error"),
        ({"input": "x", "reasoning": "low"}, "reasoning", "invalid_request_error"),
        ({"input": "x", "text": {"format": {"type": "x"}}}, "text.format.type", None),
        ({"input": "x", "text": {"format": {"type": "json_schema"}}}, "text.format.schema", None),
        ({"input": "x", "background": True}, "background", "unsupported_parameter"),
        ({"input": "x", "conversation": "c"}, "conversation", "unsupported_parameter"),
        ({"input": "x", "prompt": {"id": "p"}}, "prompt", "unsupported_parameter"),
        ({"input": "x", "previous_response_id": 5}, "previous_response_id", None),
    ],
)
def test_what_is_refused_is_named(fields: Any, param: str, code: str | None) -> None:
    with pytest.raises(BadRequest) as error:
        asked(**fields)
    refused: ProxyError = error.value
    assert refused.param == param
    assert code in (None, refused.code)
