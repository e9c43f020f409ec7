"""A request that wants one certain tool: llama-server knows "some tool" and "none" only, and takes
the name of one for "as you like". So the tools go on without the others. Pure.
"""

from typing import Any, Final

import msgspec

from proxy.dialect.body import Body
from proxy.errors import BadRequest

KEY: Final = b'"tool_choice"'
TOOLS: Final = b'"tools"'


class _Named(msgspec.Struct):
    """A tool, or the choice of one, in each protocol's shape."""

    type: Any = None
    name: Any = None
    function: Any = None

    @property
    def tool(self) -> str | None:
        name = self.function.get("name") if isinstance(self.function, dict) else self.name
        return name if isinstance(name, str) else None


_tools = msgspec.json.Decoder(list[msgspec.Raw])
_named = msgspec.json.Decoder(_Named)


def has_tools(body: Body) -> bool:
    """Whether it offers the model any."""
    if not body.mentions(TOOLS):
        return False
    try:
        return bool(_tools.decode(body.fields["tools"]))
    except (KeyError, msgspec.ValidationError):
        return False


def narrow_tools(body: Body) -> None:
    """Leave those tools in the body that its `tool_choice` leaves; as it is where that names none.

    Raises BadRequest for a choice that is not among the tools.
    """
    if not body.mentions(KEY):
        return
    try:
        choice = _named.decode(body.fields["tool_choice"])
        tools = _tools.decode(body.fields["tools"])
    except (KeyError, msgspec.ValidationError):
        return
    if choice.tool is None:
        return
    left = [tool for tool in tools if _name(tool) == choice.tool]
    if not left:
        raise BadRequest(
            f"tool_choice: {choice.tool[:80]!r} is not among the tools", param="tool_choice"
        )
    body.change({"tools": left, "tool_choice": "required"})


def _name(tool: msgspec.Raw) -> str | None:
    try:
        return _named.decode(tool).tool
    except msgspec.ValidationError:
        return None
