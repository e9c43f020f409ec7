"""Anthropic's messages, block by block, as those of a chat."""

from typing import Any

import pytest

from proxy.dialect.anthropic.conversation import messages_of
from proxy.errors import BadRequest

TEXT = {"type": "text", "text": "hi"}
DATA = {"type": "base64", "media_type": "image/png", "data": "eA=="}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,eA=="}}


def said(*blocks: Any, role: str = "user") -> Any:
    return messages_of([{"role": role, "content": list(blocks)}])


def test_text_is_text() -> None:
    assert messages_of([{"role": "user", "content": "hi"}]) == [{"role": "user", "content": "hi"}]
    marked = TEXT | {"cache_control": {"type": "ephemeral"}, "citations": None}
    assert said(marked) == [{"role": "user", "content": [TEXT]}]


def test_pictures() -> None:
    by_url = {"type": "url", "url": "http://x/y.png"}
    made = said({"type": "image", "source": DATA}, TEXT, {"type": "image", "source": by_url})

    assert made[0]["content"] == [
        PICTURE,
        TEXT,
        {"type": "image_url", "image_url": {"url": "http://x/y.png"}},
    ]


def test_calls_and_thoughts() -> None:
    made = said(
        {"type": "thinking", "thinking": "I think", "signature": ""},
        {"type": "redacted_thinking", "data": "x"},
        TEXT,
        {"type": "tool_use", "id": "a", "name": "f", "input": {"city": "Rome"}},
        {"type": "tool_use", "id": "b", "name": "g", "input": None},
        role="assistant",
    )

    assert made == [
        {
            "role": "assistant",
            "content": [TEXT],
            "reasoning_content": "I think",
            "tool_calls": [
                {
                    "id": "a",
                    "type": "function",
                    "function": {"name": "f", "arguments": '{"city":"Rome"}'},
                },
                {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
            ],
        }
    ]
    alone = said({"type": "tool_use", "id": "a", "name": "f", "input": {}}, role="assistant")
    assert alone[0]["content"] == ""


def test_results_come_before_what_is_said_beside_them() -> None:
    made = said(
        TEXT,
        {"type": "tool_result", "tool_use_id": "a", "content": "sunny"},
        {"type": "tool_result", "tool_use_id": "b", "content": [TEXT, TEXT]},
        {"type": "tool_result", "tool_use_id": "c"},
        {"type": "tool_result", "tool_use_id": "d", "content": [{"type": "image", "source": DATA}]},
    )

    assert made == [
        {"role": "tool", "tool_call_id": "a", "content": "sunny"},
        {"role": "tool", "tool_call_id": "b", "content": "hihi"},
        {"role": "tool", "tool_call_id": "c", "content": ""},
        {"role": "tool", "tool_call_id": "d", "content": [PICTURE]},
        {"role": "user", "content": [TEXT]},
    ]


def test_documents_that_are_text() -> None:
    made = said(
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "a"}},
        {"type": "document", "source": {"type": "content", "content": [TEXT]}},
        {"type": "document", "source": {"type": "content", "content": "b"}},
        {"type": "search_result", "source": "x", "title": "y", "content": [TEXT]},
    )

    assert [part["text"] for part in made[0]["content"]] == ["a", "hi", "b", "hi"]


def test_what_anthropics_servers_did_is_left_out() -> None:
    made = said(
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
        {"type": "mcp_tool_use", "id": "m", "name": "f", "input": {}, "server_name": "s"},
        {"type": "mcp_tool_result", "tool_use_id": "m", "content": []},
        TEXT,
        role="assistant",
    )

    assert made == [{"role": "assistant", "content": [TEXT]}]
    assert said({"type": "redacted_thinking", "data": "x"}, role="assistant") == []
    assert messages_of([{"role": "assistant"}, {"role": "user", "content": "x"}]) == [
        {"role": "user", "content": "x"}
    ]


def test_what_they_have_other_words_for_is_text() -> None:
    """A conversation in short, and a tool that a search has found."""
    found = [{"type": "tool_reference", "tool_name": "f"}]

    assert said({"type": "compaction", "content": "before"}, role="assistant") == [
        {"role": "assistant", "content": [{"type": "text", "text": "before"}]}
    ]
    assert said({"type": "tool_result", "tool_use_id": "a", "content": found}) == [
        {"role": "tool", "tool_call_id": "a", "content": "f"}
    ]


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        (None, "messages: Field required"),
        (5, "messages: Input should be a valid list"),
        ([], "messages: at least one message is required"),
        ([5], "messages.0: Input should be an object"),
        ([{"role": "tool", "content": "x"}], "messages.0.role: use user or assistant"),
        ([{"role": "user", "content": "x"}, {"role": "user"}], "messages.1.content: Input should"),
        ([{"role": "user", "content": [5]}], "messages.0.content.0: Input should be an object"),
        ([{"role": "user", "content": [{"type": "x"}]}], "messages.0.content.0.type: a block of"),
        ([{"role": "user", "content": [{}]}], "messages.0.content.0.type: a block of"),
        (
            [{"role": "user", "content": [{"type": "image", "source": {"type": "file"}}]}],
            "messages.0.content.0.source: an image is taken as base64 or url",
        ),
        (
            [{"role": "user", "content": [{"type": "document", "source": DATA}]}],
            "messages.0.content.0.source: a document is taken as text",
        ),
        (
            [{"role": "user", "content": [{"type": "tool_result", "content": [{"type": "x"}]}]}],
            "messages.0.content.0.content.0.type: a block of",
        ),
    ],
)
def test_what_makes_no_sense(messages: Any, says: str) -> None:
    with pytest.raises(BadRequest) as refused:
        messages_of(messages)
    assert refused.value.message.startswith(says)
    assert refused.value.param == "messages"
