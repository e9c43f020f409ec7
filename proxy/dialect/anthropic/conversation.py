"""The messages of Anthropic's protocol as those of an OpenAI chat, which engines take. Pure.

A message is made of blocks there: results of tools become messages of their own, before what the
user says beside them, since they answer the calls of the message before.
"""

from typing import Any, Final

import msgspec

from proxy.errors import BadRequest

ROLES: Final = ("user", "assistant", "system")
# What models cannot read of an earlier answer: it was made and read by Anthropic's servers.
SKIPPED: Final = ("redacted_thinking", "container_upload", "mcp_tool_use", "fallback")
SKIPPED_ENDINGS: Final = ("_tool_result", "server_tool_use")
Message = dict[str, Any]


def messages_of(value: Any) -> list[Message]:
    """The conversation. Raises BadRequest that names the message and the block."""
    if value is None:
        raise refused("messages", "Field required")
    if not isinstance(value, list):
        raise refused("messages", "Input should be a valid list")
    if not value:
        raise refused("messages", "at least one message is required")
    return [made for at, message in enumerate(value) for made in _message(message, at)]


def text_of(block: Any) -> str:
    """The text of a block; nothing where it has none."""
    text = block.get("text") if isinstance(block, dict) else None
    return text if isinstance(text, str) else ""


def refused(where: str, why: str) -> BadRequest:
    """The error that `where` something stands in a body is not as it has to be, as Anthropic words
    it."""
    return BadRequest(f"{where}: {why}", param=where.partition(".")[0])


def _message(message: Any, at: int) -> list[Message]:
    where = f"messages.{at}"
    if not isinstance(message, dict):
        raise refused(where, "Input should be an object")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise refused(f"{where}.role", "use user or assistant")
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    if content is None and role == "assistant":
        return []
    if not isinstance(content, list):
        raise refused(f"{where}.content", "Input should be a string or a list of blocks")
    turn = _Turn(role)
    for number, block in enumerate(content):
        turn.add(block, f"{where}.content.{number}")
    return turn.messages()


class _Turn:
    """One message, block by block."""

    def __init__(self, role: str) -> None:
        self._role = role
        # What changes:
        self._parts: list[Message] = []
        self._calls: list[Message] = []
        self._results: list[Message] = []
        self._thoughts = ""

    def add(self, block: Any, where: str) -> None:
        if not isinstance(block, dict):
            raise refused(where, "Input should be an object")
        kind = block.get("type")
        if kind == "thinking":
            self._thoughts += block["thinking"] if isinstance(block.get("thinking"), str) else ""
        elif kind == "tool_use":
            self._calls.append(_call(block))
        elif kind == "tool_result":
            self._results.append(_result(block, where))
        else:
            self._parts += _parts(block, where)

    def messages(self) -> list[Message]:
        made: Message = {"role": self._role}
        if self._parts:
            made["content"] = self._parts
        elif self._calls or self._thoughts:
            made["content"] = ""
        if self._calls:
            made["tool_calls"] = self._calls
        if self._thoughts:
            made["reasoning_content"] = self._thoughts
        return [*self._results, *([made] if len(made) > 1 else [])]


def _call(block: Message) -> Message:
    arguments = msgspec.json.encode(block.get("input") or {}).decode()
    function = {"name": _string(block.get("name")), "arguments": arguments}
    return {"id": _string(block.get("id")), "type": "function", "function": function}


def _result(block: Message, where: str) -> Message:
    content = block.get("content")
    if isinstance(content, list):
        parts = [
            part
            for number, inner in enumerate(content)
            for part in _parts(inner, f"{where}.content.{number}")
        ]
        only_text = all(part["type"] == "text" for part in parts)
        # Most templates take nothing but text here.
        content = "".join(map(text_of, parts)) if only_text else parts
    else:
        content = _string(content)
    return {"role": "tool", "tool_call_id": _string(block.get("tool_use_id")), "content": content}


def _parts(block: Any, where: str) -> list[Message]:
    """What a model is shown of a block."""
    kind = _string(block.get("type")) if isinstance(block, dict) else ""
    if kind == "text":
        return [_text(text_of(block))]
    if kind == "image":
        return [_image(block.get("source"), where)]
    if kind == "document":
        return _document(block.get("source"), where)
    if kind == "search_result":
        found = block.get("content")
        return [_text(text_of(inner)) for inner in found] if isinstance(found, list) else []
    if kind == "tool_reference":
        return [_text(_string(block.get("tool_name")))]
    if kind == "compaction":  # what was said before, in short
        return [_text(_string(block.get("content")))]
    if kind in SKIPPED or kind.endswith(SKIPPED_ENDINGS):
        return []
    raise refused(f"{where}.type", f"a block of type {kind[:40]!r} is not taken here")


def _image(source: Any, where: str) -> Message:
    source = source if isinstance(source, dict) else {}
    match source.get("type"):
        case "base64":
            kind = _string(source.get("media_type")) or "image/jpeg"
            url = f"data:{kind};base64,{_string(source.get('data'))}"
        case "url":
            url = _string(source.get("url"))
        case _:
            raise refused(f"{where}.source", "an image is taken as base64 or url")
    return {"type": "image_url", "image_url": {"url": url}}


def _document(source: Any, where: str) -> list[Message]:
    source = source if isinstance(source, dict) else {}
    content = source.get("content")
    match source.get("type"):
        case "text":
            return [_text(_string(source.get("data")))]
        case "content" if isinstance(content, str):
            return [_text(content)]
        case "content" if isinstance(content, list):
            return [part for inner in content for part in _parts(inner, where)]
    raise refused(f"{where}.source", "a document is taken as text; nobody here reads files")


def _text(text: str) -> Message:
    return {"type": "text", "text": text}


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""
