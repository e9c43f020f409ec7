"""Anthropic's requests as chats."""

import json
from typing import Any

import pytest

from proxy.dialect.anthropic.request import to_chat
from proxy.dialect.body import Body
from proxy.errors import BadRequest

USER = {"role": "user", "content": "hi"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


def chat(**body: Any) -> Any:
    made = to_chat(Body(json.dumps({"messages": [USER], **body}).encode()).fields)
    return json.loads(Body.of(made).encode())


def test_what_has_the_same_name_goes_on_as_it_is() -> None:
    said = {"model": "m", "max_tokens": 5, "temperature": 0.5, "top_k": 3, "min_p": 0.1, "seed": 1}

    assert chat(**said) == {"messages": [USER], **said}


def test_what_engines_have_no_use_for_stays_behind() -> None:
    assert chat(context_management={}, service_tier="auto", betas=["x"], n=3) == {
        "messages": [USER]
    }


def test_the_system_is_the_first_message() -> None:
    assert chat(system="be brief")["messages"][0] == {"role": "system", "content": "be brief"}
    blocks = [{"type": "text", "text": "be "}, {"type": "text", "text": "brief"}]
    assert chat(system=blocks)["messages"][0] == {"role": "system", "content": "be brief"}


@pytest.mark.parametrize("as_blocks", [False, True])
def test_a_check_sum_does_not_make_each_prompt_another_one(as_blocks: bool) -> None:
    """Claude Code's, which stands before all else: nothing behind it would be in the cache."""

    def system(check_sum: str) -> Any:
        text = f"x-anthropic-billing-header: cc_version=2.1; cc_entrypoint=cli; cch={check_sum};You"
        return [{"type": "text", "text": text}] if as_blocks else text

    made = [chat(system=system(each))["messages"] for each in ("a5145", "00b1f")]

    assert made[0] == made[1]
    assert made[0][0]["content"].endswith("; cch=fffff;You")
    other = "say: x-anthropic-billing-header: cch=a5145;"
    assert chat(system=other)["messages"][0]["content"] == other


def test_tools() -> None:
    tools = [
        {"name": "f", "description": "of a city", "input_schema": SCHEMA},
        {"type": "custom", "name": "g", "input_schema": None},
        {"type": "web_search_20250305", "name": "web_search"},
    ]
    assert chat(tools=tools)["tools"] == [
        {
            "type": "function",
            "function": {"name": "f", "description": "of a city", "parameters": SCHEMA},
        },
        {
            "type": "function",
            "function": {"name": "g", "description": "", "parameters": {"type": "object"}},
        },
    ]
    assert "tools" not in chat(tools=tools[2:])
    assert "tools" not in chat(tools=[])


@pytest.mark.parametrize(
    ("choice", "made"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        (
            {"type": "tool", "name": "f"},
            {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        ),
        (
            {"type": "auto", "disable_parallel_tool_use": True},
            {"tool_choice": "auto", "parallel_tool_calls": False},
        ),
    ],
)
def test_which_tool(choice: Any, made: Any) -> None:
    assert chat(tool_choice=choice) == {"messages": [USER], **made}


def test_a_format() -> None:
    wanted = {"type": "json_schema", "schema": SCHEMA}
    made = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}

    assert chat(output_config={"format": wanted})["response_format"] == made
    assert chat(output_format=wanted)["response_format"] == made
    assert "response_format" not in chat(output_config={"format": None})


def test_stop_sequences_and_which_it_was() -> None:
    assert chat(stop_sequences=["x"]) == {"messages": [USER], "stop": ["x"], "verbose": True}
    assert chat(stop_sequences=[]) == {"messages": [USER]}


def test_thinking_and_effort() -> None:
    enabled = {"type": "enabled", "budget_tokens": 100}
    thinks = {"messages": [USER], "chat_template_kwargs": {"enable_thinking": True}}
    assert chat(thinking=enabled) == {**thinks, "thinking_budget_tokens": 100}
    assert chat(output_config={"effort": "max"})["reasoning_effort"] == "high"
    both = chat(thinking={"type": "disabled"}, output_config={"effort": "low"})
    assert both["reasoning_effort"] == "none"
    assert chat(thinking={"type": "adaptive"}) == thinks


def test_a_stream_says_how_long_its_prompt_is() -> None:
    made = chat(stream=True)

    assert made["stream_options"] == {"include_usage": True}
    assert made["return_progress"] is True
    assert "stream_options" not in chat(stream=False)


def test_who_asks() -> None:
    assert chat(metadata={"user_id": "anna"})["user"] == "anna"


def test_null_is_what_absence_is() -> None:
    names = ("system", "tools", "tool_choice", "stop_sequences", "thinking", "output_config")
    assert chat(**dict.fromkeys(names)) == {"messages": [USER]}


@pytest.mark.parametrize(
    ("body", "says", "param"),
    [
        ({"tools": 5}, "tools: Input should be a valid list", "tools"),
        ({"tools": [5]}, "tools.0: Input should be an object", "tools"),
        ({"tools": [{"name": ""}]}, "tools.0.name: Field required", "tools"),
        ({"tool_choice": "any"}, "tool_choice: use auto, any", "tool_choice"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice: use auto, any", "tool_choice"),
        ({"system": 5}, "system: Input should be a valid list", "system"),
        ({"stop_sequences": "x"}, "stop_sequences: use a list of strings", "stop_sequences"),
        ({"output_config": 5}, "output_config: Input should be an object", "output_config"),
        (
            {"output_config": {"format": {"type": "json_object"}}},
            "output_config.format: use a json_schema with a schema",
            "output_config",
        ),
        ({"output_format": {"type": "x", "schema": {}}}, "output_format: use", "output_format"),
    ],
)
def test_what_makes_no_sense(body: Any, says: str, param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        chat(**body)
    assert refused.value.message.startswith(says)
    assert refused.value.param == param
