"""Whether a conversation has pictures or sounds in it. Pure."""

import re
from typing import Any, Final

import msgspec

from proxy.dialect.body import Body

LEVELS: Final = 3  # messages, the parts of one, the result of a tool; none is deeper
KINDS: Final = ("image_url", "input_image", "image", "input_audio")
# In a text the quotes would have backslashes.
_TRACES: Final = re.compile(f'"(?:{"|".join(KINDS)})"'.encode())


def has_media(body: Body) -> bool:
    """Whether a body of any protocol but Ollama's has some."""
    if not body.has(_TRACES):
        return False
    parts = (body.fields.get(key) for key in ("messages", "input"))
    return any(_some(msgspec.json.decode(part), LEVELS) for part in parts if part is not None)


def _some(parts: Any, levels: int) -> bool:
    return isinstance(parts, list) and any(
        isinstance(part, dict)
        and (part.get("type") in KINDS or (levels > 1 and _some(part.get("content"), levels - 1)))
        for part in parts
    )
