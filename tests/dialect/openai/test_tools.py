"""Tools of a request for a response."""

from typing import Any

import pytest

from proxy.dialect.openai.tools import Tools, read_choice, read_tools
from proxy.errors import BadRequest

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"type": "function", "name": "weather", "parameters": SCHEMA, "strict": True}
PATCH = {
    **{"type": "custom", "name": "patch", "description": "Edits."},
    "format": {"type": "grammar", "syntax": "lark", "definition": "start: X"},
}
SPACE = {"type": "namespace", "name": "git", "tools": [WEATHER | {"name": "log"}]}
SEARCH = {"type": "web_search"}


def names(tools: Tools) -> list[str]:
    return [tool["function"]["name"] for tool in tools.chat]


def test_functions_are_those_of_a_chat() -> None:
    (tool,) = read_tools([WEATHER]).chat
    nested = {"type": "function", "function": {"name": "weather", "parameters": None}}

    assert tool == {
        "type": "function",
        "function": {"name": "weather", "parameters": SCHEMA, "strict": True},
    }
    assert read_tools([nested]).chat[0]["function"]["parameters"]["type"] == "object"
    assert read_tools(None) == Tools()


def test_a_custom_tool_is_a_function_that_takes_a_text() -> None:
    tools = read_tools([PATCH])
    (tool,) = tools.chat

    assert tools.custom == {"patch"}
    assert tool["function"]["parameters"]["required"] == ["input"]
    assert tool["function"]["description"] == (
        "Edits.\n\nThe input follows this lark grammar:\nstart: X"
    )


def test_functions_of_a_namespace_have_its_name_before_theirs() -> None:
    tools = read_tools([SPACE])

    assert names(tools) == ["git__log"]
    assert tools.spaces == {"git__log": ("git", "log")}


def test_what_only_openai_can_do_is_left_out_and_not_told_of() -> None:
    tools = read_tools([SEARCH, WEATHER, {"type": "mcp", "server_label": "x"}])

    assert names(tools) == ["weather"]
    assert tools.told == (WEATHER,)


@pytest.mark.parametrize("given", [5, [5], [{}], [{"type": "function"}], [{"type": "custom"}]])
def test_what_is_no_tool_is_refused(given: Any) -> None:
    with pytest.raises(BadRequest) as error:
        read_tools(given)
    assert error.value.param == "tools"


@pytest.mark.parametrize(
    ("choice", "made", "left"),
    [
        (None, None, ["weather", "patch", "git__log"]),
        ("required", "required", ["weather", "patch", "git__log"]),
        ({"type": "function", "name": "weather"}, "weather", ["weather", "patch", "git__log"]),
        ({"type": "custom", "name": "patch"}, "patch", ["weather", "patch", "git__log"]),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"name": "patch"}]},
            *("required", ["patch"]),
        ),
    ],
)
def test_choices(choice: Any, made: Any, left: list[str]) -> None:
    found, tools = read_choice(choice, read_tools([WEATHER, PATCH, SPACE]))

    named = found["function"]["name"] if isinstance(found, dict) else found
    assert (named, names(tools)) == (made, left)


def test_without_a_tool_that_can_be_called_there_is_no_choice() -> None:
    assert read_choice("auto", read_tools([SEARCH]))[0] is None
    for choice in ("required", {"type": "function", "name": "weather"}):
        with pytest.raises(BadRequest, match="tool_choice"):
            read_choice(choice, read_tools([SEARCH]))


@pytest.mark.parametrize("choice", ["always", 5, {"type": "web_search"}, {"type": "function"}])
def test_choices_that_are_none(choice: Any) -> None:
    with pytest.raises(BadRequest) as error:
        read_choice(choice, read_tools([WEATHER]))
    assert error.value.param == "tool_choice"
