"""What clients send back of a conversation, as an engine takes it."""

import json
from typing import Any

import pytest

from proxy.dialect.body import Body
from proxy.dialect.openai.history import mend_history
from proxy.errors import BadRequest

USER = {"role": "user", "content": "hi"}


def mended(*messages: dict[str, Any]) -> Any:
    body = Body(json.dumps({"model": "m", "messages": messages}).encode())
    mend_history(body)
    return json.loads(body.encode())["messages"]


def called(**call: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": [call]}


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"arguments": "{}"}, "{}"),
        ({"arguments": '{"a": 1}'}, '{"a": 1}'),
        ({}, "{}"),
        ({"arguments": None}, "{}"),
        ({"arguments": ""}, "{}"),
        ({"arguments": " "}, "{}"),
        ({"arguments": "null"}, "{}"),
        ({"arguments": {"a": 1}}, '{"a":1}'),
        ({"arguments": '{"a": "cut of'}, r'{"arguments":"{\"a\": \"cut of"}'),
        ({"arguments": "[1]"}, '{"arguments":[1]}'),
        ({"arguments": "[" * 5000}, json.dumps({"arguments": "[" * 5000}, separators=(",", ":"))),
    ],
)
def test_arguments_are_an_object(given: dict[str, Any], meant: str) -> None:
    (message,) = mended(called(type="function", id="c", function={"name": "f", **given}))

    function = {"name": "f", "arguments": meant}
    assert message["tool_calls"] == [{"type": "function", "id": "c", "function": function}]


def test_a_call_is_one_of_a_function() -> None:
    function = {"name": "f", "arguments": "{}"}
    assert mended(called(id="c", function=function)) == [
        called(id="c", type="function", function=function)
    ]


@pytest.mark.parametrize("call", [None, 5, {}, {"function": None}, {"function": {"name": None}}])
def test_what_is_no_call_is_named(call: Any) -> None:
    message = {"role": "assistant", "tool_calls": [call]}
    with pytest.raises(BadRequest) as refusal:
        mended(USER, message)
    assert refusal.value.param == "messages[1].tool_calls[0]"
    with pytest.raises(BadRequest, match="use a list"):
        mended({"role": "assistant", "tool_calls": 5})


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ({"type": "text"}, ""),
        ({"type": "text", "text": None}, ""),
        ({"type": "refusal", "refusal": "no"}, "no"),
        ({"type": "input_text", "text": "a"}, "a"),
        ({"type": "output_text", "text": "a", "annotations": []}, "a"),
    ],
)
def test_parts_that_are_text(part: dict[str, Any], text: str) -> None:
    (message,) = mended({"role": "assistant", "content": [part]})

    assert message["content"] == [{"type": "text", "text": text}]


def test_what_needs_nothing_stays_as_it_is() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    call = called(id="c", type="function", function={"name": "f", "arguments": '{ "a" : 1 }'})
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, image, 5]},
        call,
        {"role": "tool", "content": "x", "tool_call_id": "c"},
        {"content": None, "role": "assistant"},
    ]
    body = Body(data := json.dumps({"messages": messages}, indent=1).encode())

    mend_history(body)

    assert body.encode() == data
