"""What clients send back, as the messages of a chat."""

from typing import Any

import pytest

from proxy.dialect.openai.items import item_of_text, messages_of, sealed
from proxy.errors import BadRequest

USER: Any = {"role": "user", "content": "hi"}
SAID: Any = {"type": "output_text", "text": "Rome", "annotations": []}
ANSWER: Any = {"type": "message", "id": "msg_1", "role": "assistant", "content": [SAID]}
THOUGHT: Any = {"type": "reasoning", "id": "rs_1", "summary": []}
CALL: Any = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a":1}'}
RESULT: Any = {"type": "function_call_output", "call_id": "c1", "output": "sunny"}
CHAT_CALL: Any = {
    **{"id": "c1", "type": "function"},
    "function": {"name": "f", "arguments": '{"a":1}'},
}


def test_messages_of_all_roles() -> None:
    assert messages_of([item_of_text("hi"), ANSWER, USER]) == [
        USER,
        {"role": "assistant", "content": "Rome"},
        USER,
    ]


def test_what_is_said_in_one_turn_is_one_message() -> None:
    thought = THOUGHT | {"content": [{"type": "reasoning_text", "text": "hm"}]}
    other = CALL | {"call_id": "c2"}

    assert messages_of([USER, thought, ANSWER, CALL, other, RESULT])[1:] == [
        {
            **{"role": "assistant", "content": "Rome", "reasoning_content": "hm"},
            "tool_calls": [CHAT_CALL, {**CHAT_CALL, "id": "c2"}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ]


@pytest.mark.parametrize(
    ("thought", "text"),
    [
        ({}, None),
        ({"content": None, "encrypted_content": ""}, None),
        ({"content": []}, None),
        ({"encrypted_content": "gAAAAABo"}, None),
        ({"encrypted_content": sealed("hm")}, "hm"),
        ({"summary": [{"type": "summary_text", "text": "hm"}]}, "hm"),
        ({"content": [{"type": "reasoning_text", "text": "hm"}], "summary": None}, "hm"),
    ],
)
def test_a_thought_goes_with_the_answer_after_it(thought: Any, text: str | None) -> None:
    """One that only OpenAI can read is left out."""
    _, answer = messages_of([USER, THOUGHT | thought, ANSWER])

    assert answer.get("reasoning_content") == text


def test_a_thought_without_an_answer_is_no_message() -> None:
    thought = THOUGHT | {"content": [{"type": "reasoning_text", "text": "hm"}]}

    assert messages_of([USER, thought]) == messages_of([thought, USER]) == [USER]


@pytest.mark.parametrize(
    "kind",
    [
        *("web_search_call", "file_search_call", "code_interpreter_call", "computer_call"),
        *("image_generation_call", "mcp_list_tools", "mcp_approval_request", "compaction"),
        *("computer_call_output", "tool_search_call", "something_new"),
    ],
)
def test_what_a_model_here_cannot_read_is_skipped(kind: str) -> None:
    item = {"type": kind, "id": "x", "status": "completed", "action": {"query": "Rome"}}

    assert messages_of([USER, item, ANSWER, USER]) == messages_of([USER, ANSWER, USER])


@pytest.mark.parametrize(
    ("item", "name", "arguments"),
    [
        ({"type": "custom_tool_call", "name": "p", "input": "a\nb"}, "p", '{"input":"a\\nb"}'),
        ({"type": "local_shell_call", "action": {"x": 1}}, "local_shell", '{"x":1}'),
        ({"type": "shell_call", "action": {"commands": []}}, "shell", '{"commands":[]}'),
        ({"type": "apply_patch_call", "operation": {}}, "apply_patch", "{}"),
        (CALL | {"namespace": "n"}, "n__f", '{"a":1}'),
        (CALL | {"arguments": {"a": 1}}, "f", '{"a":1}'),
    ],
)
def test_calls_of_other_tools_are_calls_of_functions(item: Any, name: str, arguments: str) -> None:
    call = {"call_id": "c1", **item}
    result = {"type": f"{call['type']}_output", "call_id": "c1", "output": "done"}
    _, answer, told = messages_of([USER, call, result])

    function = {"name": name, "arguments": arguments}
    assert answer["tool_calls"] == [{"id": "c1", "type": "function", "function": function}]
    assert told == {"role": "tool", "tool_call_id": "c1", "content": "done"}


def test_a_tool_that_a_server_called_has_its_result_with_it() -> None:
    call = {"type": "mcp_call", "id": "m1", "name": "f", "arguments": "{}", "output": "42"}
    _, answer, told = messages_of([USER, call])

    assert answer["tool_calls"][0]["id"] == told["tool_call_id"] == "m1"
    assert told["content"] == "42"


@pytest.mark.parametrize(
    ("output", "content"),
    [
        ([{"type": "input_text", "text": "sunny"}], "sunny"),
        ([{"stdout": "x"}], '[{"stdout":"x"}]'),
        ({"a": 1}, '{"a":1}'),
        (None, ""),
    ],
)
def test_results_of_all_kinds(output: Any, content: str) -> None:
    assert messages_of([USER, CALL, RESULT | {"output": output}])[-1]["content"] == content


def test_pictures() -> None:
    parts = [
        {"type": "input_text", "text": "what?"},
        {"type": "input_image", "image_url": "data:,"},
    ]

    assert messages_of([{"role": "user", "content": parts}])[0]["content"] == [
        {"type": "text", "text": "what?"},
        {"type": "image_url", "image_url": {"url": "data:,"}},
    ]


def test_what_a_system_says_first_is_one_message() -> None:
    """Templates read only the first one, or refuse a second."""
    system, developer = ({"role": role, "content": role} for role in ("system", "developer"))

    assert messages_of([system, developer, USER]) == [
        {"role": "system", "content": "system\n\ndeveloper"},
        USER,
    ]
    assert messages_of([developer, USER, system]) == [developer, USER, system]


@pytest.mark.parametrize(
    ("item", "says"),
    [
        (5, r"input\[1\]"),
        ({"id": "x"}, "a type or a role"),
        ({"role": "user", "content": 5}, r"input\[1\]\.content"),
        ({"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}, "files"),
        ({"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}, "files"),
        ({"role": "user", "content": [{"type": "video"}]}, "video is not known"),
        ({"role": "user", "content": ["x"]}, "without a type"),
    ],
)
def test_what_is_no_item_is_named(item: Any, says: str) -> None:
    with pytest.raises(BadRequest, match=says) as error:
        messages_of([USER, item])
    assert error.value.param == "input"
