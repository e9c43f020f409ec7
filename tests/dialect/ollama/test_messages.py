"""Ollama's messages as those of an OpenAI chat."""

import base64

import pytest

from proxy.dialect.ollama.messages import media_part, to_openai
from proxy.dialect.ollama.requests import ChatMessage, ToolCall, ToolFunction


def call(name: str, call_id: str | None = None, **arguments: object) -> ToolCall:
    return ToolCall(id=call_id, function=ToolFunction(name=name, arguments=arguments))


def test_roles_and_texts() -> None:
    assert to_openai(
        [
            ChatMessage(role="System", content="s"),
            ChatMessage(role="user"),
            ChatMessage(role="assistant", content="a", thinking="t"),
        ]
    ) == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": ""},
        {"role": "assistant", "content": "a", "reasoning_content": "t"},
    ]


def test_calls_get_ids_that_every_template_takes() -> None:
    [message] = to_openai([ChatMessage(role="assistant", tool_calls=[call("f", "long-id", a=1)])])

    assert message["tool_calls"] == [
        {
            "id": "call00001",
            "type": "function",
            "function": {"name": "f", "arguments": '{"a":1}'},
        }
    ]


def test_a_result_of_nothing() -> None:
    [message] = to_openai([ChatMessage(role="tool", content="x")])

    assert message == {"role": "tool", "content": "x"}


def test_results_find_their_calls() -> None:
    """By the id, else by the tool's name, else in the order of the calls."""
    made = to_openai(
        [
            ChatMessage(role="assistant", tool_calls=[call("f", "x"), call("g"), call("f")]),
            ChatMessage(role="tool", content="1", tool_name="f"),
            ChatMessage(role="tool", content="2"),
            ChatMessage(role="tool", content="3", tool_name="f"),
            ChatMessage(role="assistant", tool_calls=[call("f", "y"), call("f", "z")]),
            ChatMessage(role="tool", content="4", tool_call_id="z"),
            ChatMessage(role="tool", content="5", tool_call_id="lost", tool_name="f"),
        ]
    )

    results = [
        (m["tool_call_id"], m["content"], m.get("name")) for m in made if m["role"] == "tool"
    ]
    assert results == [
        ("call00001", "1", "f"),
        ("call00002", "2", None),
        ("call00003", "3", "f"),
        ("call00005", "4", None),
        ("lost", "5", "f"),
    ]


@pytest.mark.parametrize(
    ("head", "mime"),
    [
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"BM1234", "image/bmp"),
        (b"RIFF1234WEBP", "image/webp"),
        (b"who knows", "image/jpeg"),
    ],
)
def test_images(head: bytes, mime: str) -> None:
    data = base64.b64encode(head + bytes(100)).decode()
    [message] = to_openai([ChatMessage(role="user", content="see", images=[data])])

    assert message["content"] == [
        {"type": "text", "text": "see"},
        {"type": "image_url", "image_url": {"url": f"data:{mime};base64,{data}"}},
    ]
    [silent] = to_openai([ChatMessage(role="user", images=[data])])
    assert [part["type"] for part in silent["content"]] == ["image_url"]


@pytest.mark.parametrize(
    ("head", "kind"), [(b"RIFF1234WAVE", "wav"), (b"ID3\x03", "mp3"), (b"\xff\xfb\x90", "mp3")]
)
def test_sounds(head: bytes, kind: str) -> None:
    data = base64.b64encode(head + bytes(50)).decode()

    assert media_part(data) == {
        "type": "input_audio",
        "input_audio": {"data": data, "format": kind},
    }
