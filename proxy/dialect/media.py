"""Whether a conversation has pictures or sounds in it. Pure."""

from typing import Any, Final

import msgspec

KINDS: Final = ("image_url", "input_image", "image", "input_audio")
# In a text the quotes would have backslashes.
_TRACES: Final = tuple(f'"{kind}"'.encode() for kind in KINDS)


class _Body(msgspec.Struct):
    messages: Any = None
    input: Any = None


_body = msgspec.json.Decoder(_Body)


def has_media(body: bytes) -> bool:
    """Whether a body of any protocol but Ollama's has some."""
    if not any(trace in body for trace in _TRACES):
        return False
    fields = _body.decode(body)
    return _some(fields.messages) or _some(fields.input)


def _some(parts: Any) -> bool:
    """In messages, in the parts of a message, in the result of a tool."""
    return isinstance(parts, list) and any(
        isinstance(part, dict) and (part.get("type") in KINDS or _some(part.get("content")))
        for part in parts
    )
