"""The choice of a certain tool."""

import json
from typing import Any

import pytest

from proxy.dialect.body import Body
from proxy.dialect.tool_choice import has_tools, narrow_tools
from proxy.errors import BadRequest

OPENAIS = [{"type": "function", "function": {"name": name}} for name in "ab"]
RESPONSES = [{"name": name} for name in "ab"]


def narrowed(data: bytes) -> bytes:
    body = Body(data)
    narrow_tools(body)
    return body.encode()


@pytest.mark.parametrize(
    ("tools", "choice"),
    [
        (OPENAIS, {"type": "function", "function": {"name": "b"}}),
        (RESPONSES, {"type": "function", "name": "b"}),
    ],
)
def test_the_others_are_left_out(tools: Any, choice: Any) -> None:
    body = {"model": "m", "tools": tools, "tool_choice": choice}
    made = json.loads(narrowed(json.dumps(body).encode()))

    assert made == {"model": "m", "tools": tools[1:], "tool_choice": "required"}


def test_a_name_with_escapes_is_the_same_name() -> None:
    tools = json.dumps(OPENAIS).encode()
    body = b'{"tool\\u0073": %s, "tool_ch\\u006fice": {"name": "b"}}' % tools

    assert json.loads(narrowed(body)) == {"tools": OPENAIS[1:], "tool_choice": "required"}
    assert has_tools(Body(body))


@pytest.mark.parametrize("mode", ["auto", "required", None])
def test_some_of_them_may_be_allowed(mode: str | None) -> None:
    allowed = {"tools": OPENAIS[1:]} | ({"mode": mode} if mode else {})
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    made = json.loads(narrowed(json.dumps({"tools": OPENAIS, "tool_choice": choice}).encode()))

    assert made == {"tools": OPENAIS[1:], "tool_choice": mode or "auto"}


@pytest.mark.parametrize(
    "allowed", [5, {"tools": []}, {"mode": "must", "tools": []}, {"tools": [{"name": "c"}]}]
)
def test_what_cannot_be_allowed(allowed: Any) -> None:
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    with pytest.raises(BadRequest) as error:
        narrowed(json.dumps({"tools": OPENAIS, "tool_choice": choice}).encode())
    assert error.value.param == "tool_choice"


@pytest.mark.parametrize(
    ("body", "has"),
    [
        ({"tools": OPENAIS}, True),
        ({"tools": []}, False),
        ({"tools": None}, False),
        ({"tools": 5}, False),
        ({"messages": [{"content": '"tools"'}]}, False),
    ],
)
def test_whether_there_are_any(body: Any, has: bool) -> None:
    assert has_tools(Body(json.dumps(body).encode())) is has


@pytest.mark.parametrize(
    "body",
    [
        b'{"tools": [{}]}',
        b'{"tools": [{}], "tool_choice": "auto"}',
        b'{"tools": [{}], "tool_choice": {"type": "any"}}',
        b'{"tools": [{}], "tool_choice": {"type": "function", "function": 5}}',
        b'{"tools": 5, "tool_choice": {"type": "function", "function": {"name": "a"}}}',
        b'{"tool_choice": {"type": "function", "function": {"name": "a"}}}',
        b'{"messages": [{"content": "\\"tool_choice\\""}]}',
    ],
)
def test_other_bodies_stay_as_they_are(body: bytes) -> None:
    assert narrowed(body) == body


def test_a_tool_that_is_not_there() -> None:
    body = b'{"tools": [5, {"name": "a"}], "tool_choice": {"type": "tool", "name": "c"}}'

    with pytest.raises(BadRequest, match="'c' is not among the tools") as error:
        narrowed(body)
    assert error.value.param == "tool_choice"
