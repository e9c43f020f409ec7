"""Turns Ollama's chat messages into those of an OpenAI chat, which engines take. Pure."""

import base64
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from proxy.dialect.ollama.requests import ChatMessage, ToolCall

# How files of media begin. What is not known is called JPEG: the engine looks for itself.
MAGIC: Final = (
    (b"\x89PNG", "image/png"),
    (b"\xff\xd8", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
)
HEAD_CHARACTERS: Final = 64


def to_openai(messages: Iterable[ChatMessage]) -> list[dict[str, Any]]:
    """The messages as `/v1/chat/completions` takes them, tool results tied to their calls."""
    ids = _Ids()
    return [_message(message, ids) for message in messages]


class _Ids:
    """Numbers the calls of a conversation, and finds the call that a result answers.

    Ollama's clients may name a tool where others give the call's id, but templates want ids; those
    of Mistral take only ids of nine letters and digits. So every call gets a number, the same
    again when the conversation goes on, and a result without an id answers its tool's first open
    call.
    """

    def __init__(self) -> None:
        self._count = 0
        self._open: list[tuple[str, str | None, str]] = []  # tool, the client's id, ours

    def of_call(self, call: ToolCall) -> str:
        self._count += 1
        number = f"call{self._count:05d}"
        self._open.append((call.function.name, call.id, number))
        return number

    def of_result(self, message: ChatMessage) -> str | None:
        for call in self._open:
            name, client_id, number = call
            if message.tool_call_id:
                answers = client_id == message.tool_call_id
            else:
                answers = message.tool_name in (None, "", name)
            if answers:
                self._open.remove(call)
                return number
        return message.tool_call_id


def _message(message: ChatMessage, ids: _Ids) -> dict[str, Any]:
    role = message.role.lower()
    made: dict[str, Any] = {"role": role, "content": message.content or ""}
    if message.images:
        made["content"] = [*_text_parts(message.content), *map(media_part, message.images)]
    if message.thinking:
        made["reasoning_content"] = message.thinking
    if message.tool_calls:
        made["tool_calls"] = [_call(call, ids) for call in message.tool_calls]
    if role == "tool":
        if call_id := ids.of_result(message):
            made["tool_call_id"] = call_id
        if message.tool_name:
            made["name"] = message.tool_name
    return made


def media_part(data: str) -> dict[str, Any]:
    """A picture or a sound in base64 as a part of a message."""
    head = base64.b64decode(data[:HEAD_CHARACTERS])
    if head.startswith(b"ID3") or (head[:1] == b"\xff" and head[1:2] in (b"\xfb", b"\xf3")):
        return {"type": "input_audio", "input_audio": {"data": data, "format": "mp3"}}
    if head.startswith(b"RIFF") and head[8:12] == b"WAVE":
        return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    kind = next((mime for magic, mime in MAGIC if head.startswith(magic)), "image/jpeg")
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        kind = "image/webp"
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{data}"}}


def _text_parts(text: str | None) -> Iterator[dict[str, Any]]:
    if text:
        yield {"type": "text", "text": text}


def _call(call: ToolCall, ids: _Ids) -> dict[str, Any]:
    arguments = msgspec.json.encode(call.function.arguments or {}).decode()
    return {
        "id": ids.of_call(call),
        "type": "function",
        "function": {"name": call.function.name, "arguments": arguments},
    }
