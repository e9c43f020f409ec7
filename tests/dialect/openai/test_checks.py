"""Chats in which nobody says anything."""

import json
from typing import Any

import pytest

from proxy.dialect.body import Body
from proxy.dialect.openai.checks import check, check_chat
from proxy.errors import BadRequest

USER: Any = {"role": "user", "content": "hi"}
TOOL: Any = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [USER]},
        {"messages": [USER], "tools": []},
        {"messages": [USER], "tools": None},
        {"messages": [USER], "tools": [TOOL]},
        {"messages": [{"role": "assistant", "content": '"tools"'}]},
    ],
)
def test_what_somebody_says_is_a_chat(fields: Any) -> None:
    check_chat(Body.of(fields))


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({}, "messages", "missing_required_parameter"),
        ({"messages": []}, "messages", "empty_array"),
        ({"messages": None}, "messages", "invalid_request_error"),
        ({"messages": "hi"}, "messages", "invalid_request_error"),
        ({"messages": [5]}, "messages", "invalid_request_error"),
        ({"messages": [USER, {"content": "x"}]}, "messages[1].role", "missing_required_parameter"),
        ({"messages": [USER], "tools": 5}, "tools", "invalid_request_error"),
        ({"messages": [USER], "tools": [TOOL, {}]}, "tools[1]", "invalid_request_error"),
        ({"messages": [USER], "tools": [{**TOOL, "type": "x"}]}, "tools[0]", None),
        ({"messages": [USER], "tools": [{**TOOL, "function": {}}]}, "tools[0]", None),
        ({"messages": [USER], "tools": [None]}, "tools[0]", None),
        (
            {"messages": [USER], "tools": [{"function": {"name": "f", "description": 5}}]},
            *("tools[0]", None),
        ),
    ],
)
def test_what_is_none_is_named(fields: Any, param: str, code: str | None) -> None:
    with pytest.raises(BadRequest) as error:
        check_chat(Body.of(fields))
    assert error.value.param == param
    assert code in (None, error.value.code)


def test_a_tool_without_a_type_is_a_function() -> None:
    body = Body.of({"messages": [USER], "tools": [TOOL, {"function": {"name": "g"}}]})

    check_chat(body)

    made = json.loads(body.encode())
    assert made["tools"] == [TOOL, {"type": "function", "function": {"name": "g"}}]


def test_a_completion_of_nothing() -> None:
    nothings: list[Any] = [{}, {"prompt": None}]
    for fields in nothings:
        with pytest.raises(BadRequest, match="prompt is missing"):
            check("/v1/completions", Body.of(fields), chats=False)
    check("/v1/completions", Body.of({"prompt": ""}), chats=False)
    check("/v1/embeddings", Body.of({}), chats=False)
    with pytest.raises(BadRequest, match="messages is missing"):
        check("/v1/chat/completions", Body.of({}), chats=True)
