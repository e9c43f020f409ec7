"""A call that is required."""

import json
from typing import Any

import pytest

from proxy.dialect.body import Body
from proxy.dialect.forced_call import PLAIN, Calling, call_schema, calling_of, force_call
from tests.support.archive import template

USER = {"role": "user", "content": "hi"}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": CITY}}]
ASK: Any = {"messages": [USER], "tools": TOOLS, "tool_choice": "required"}


def forced(calling: Calling = PLAIN, **body: Any) -> tuple[bool, Any]:
    made = Body(json.dumps(ASK | body).encode())
    as_json = force_call(made, calling)
    return as_json, json.loads(made.encode())


def call(name: str, arguments: Any) -> Any:
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def test_it_is_asked_for_as_json() -> None:
    as_json, body = forced()

    assert as_json
    assert body["tools"] == TOOLS, "the model still sees them"
    assert body["tool_choice"] == "none", "and nothing else looks for a call"
    assert body["response_format"]["json_schema"]["schema"] == call("f", CITY)
    _, named = forced(Calling(names_choice=True))
    assert named["tool_choice"] == "required"


@pytest.mark.parametrize("said", [{"type": "text"}, {"type": None}, {}, None])
def test_a_format_that_says_nothing_is_no_reason_against_it(said: Any) -> None:
    """Many clients send it with every request."""
    as_json, body = forced(response_format=said)

    assert as_json
    assert body["response_format"]["json_schema"]["schema"] == call("f", CITY)


@pytest.mark.parametrize(
    "changed",
    [
        {"tool_choice": "auto"},
        {"tool_choice": "none"},
        {"tool_choice": {"type": "function"}},
        {"tools": []},
        {"tools": None},
        {"tools": [{"type": "web_search"}, 5]},
        {"messages": []},
        {"messages": "x"},
        {"messages": [USER, {"role": "assistant", "content": "It is"}]},
        {"grammar": "root ::= x"},
        {"response_format": {"type": "json_object"}},
    ],
)
def test_otherwise_nothing_is_changed(changed: Any) -> None:
    assert forced(**changed) == (False, ASK | changed)


def test_what_another_engine_grammar_has_to_begin_with() -> None:
    as_json, body = forced(Calling(as_json=False, opener="<call>"))

    assert not as_json
    assert body["messages"] == [USER, {"role": "assistant", "content": "<call>"}]
    assert body["tool_choice"] == "required"
    assert forced(Calling(as_json=False)) == (False, ASK)


@pytest.mark.parametrize(
    ("said", "budget"),
    [
        ({"max_tokens": 100}, 50),
        ({"max_tokens": 100, "n_predict": 10}, 5),
        ({"max_tokens": 1}, 1),
        ({"max_tokens": -1}, None),
        ({}, None),
        ({"max_tokens": 100, "reasoning_budget_tokens": 80}, 80),
    ],
)
def test_thoughts_leave_room_for_it(said: Any, budget: int | None) -> None:
    assert forced(**said)[1].get("reasoning_budget_tokens") == budget
    given = forced(max_tokens=100, thinking_budget_tokens=60)[1]
    assert "reasoning_budget_tokens" not in given


def test_the_schema_of_one_of_several() -> None:
    made = call_schema({"f": CITY, "g": None, "h": {"anyOf": [CITY]}}, several=False)

    plain = {"type": "object"}
    assert made == {"anyOf": [call("f", CITY), call("g", plain), call("h", {"anyOf": [CITY]})]}


def test_the_schema_of_a_list() -> None:
    _, body = forced(parallel_tool_calls=True)

    schema = body["response_format"]["json_schema"]["schema"]
    assert schema == {"type": "array", "items": call("f", CITY), "minItems": 1}


def test_what_refers_to_the_root_of_its_schema_does_so_where_that_is_now() -> None:
    one = {"properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"items": {"$ref": "#"}}}}

    def refers(schema: Any) -> tuple[str, str]:
        arguments = schema["properties"]["arguments"]
        return arguments["properties"]["a"]["$ref"], arguments["$defs"]["A"]["items"]["$ref"]

    alone = call_schema({"f": one}, several=False)
    second = call_schema({"f": {}, "g": one}, several=False)["anyOf"][1]
    listed = call_schema({"f": {}, "g": one}, several=True)["items"]["anyOf"][1]
    for schema, where in (
        (alone, "#/properties/arguments"),
        (second, "#/anyOf/1/properties/arguments"),
        (listed, "#/items/anyOf/1/properties/arguments"),
    ):
        assert refers(schema) == (f"{where}/$defs/A", where)


@pytest.mark.parametrize(
    ("name", "as_json"),
    [
        ("Qwen-Qwen3-0.6B", True),
        ("Qwen3-Coder", True),
        ("GLM-4.6", True),
        ("google-gemma-4-31B-it", True),
        ("deepseek-ai-DeepSeek-V3.2", True),
        ("GigaChat3.1-10B-A1.8B", True),
        ("openai-gpt-oss-120b", False),
        ("Kimi-K2-Instruct", False),
        ("Kimi-K3", False),
        ("inclusionai-ling-3.0-flash", False),
        ("meetkai-functionary-medium-v3.2", False),
        ("GigaChat3-10B-A1.8B", False),
    ],
)
def test_how_each_template_is_made_to_call(name: str, as_json: bool) -> None:
    """As trials with llama-server have shown."""
    assert calling_of(template(name)).as_json is as_json
