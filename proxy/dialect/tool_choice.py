"""A request that wants one certain tool, or some of those that it has: llama-server knows "some
tool" and "none" only, and takes names for "as you like". So the tools go on without the others.
Pure.
"""

from typing import Any, Literal

import msgspec

from proxy.dialect.body import Body
from proxy.errors import BadRequest


class _Named(msgspec.Struct):
    """A tool, or the choice of one, in each protocol's shape."""

    type: Any = None
    name: Any = None
    function: Any = None
    allowed_tools: Any = None

    @property
    def tool(self) -> str | None:
        name = self.function.get("name") if isinstance(self.function, dict) else self.name
        return name if isinstance(name, str) else None

    @property
    def allowed(self) -> "_Allowed | None":
        """Several of which the model may choose."""
        try:
            return msgspec.convert(self.allowed_tools, _Allowed) if self.allowed_tools else None
        except msgspec.ValidationError as error:
            raise BadRequest(
                "tool_choice.allowed_tools: use a mode (auto or required) and a list of tools",
                param="tool_choice",
            ) from error


class _Allowed(msgspec.Struct):
    tools: list[_Named]
    mode: Literal["auto", "required"] = "auto"


_tools = msgspec.json.Decoder(list[msgspec.Raw])
_named = msgspec.json.Decoder(_Named)


def has_tools(body: Body) -> bool:
    """Whether it offers the model any."""
    if "tools" not in body.fields:
        return False
    try:
        return bool(_tools.decode(body.fields["tools"]))
    except msgspec.ValidationError:
        return False


def narrow_tools(body: Body) -> None:
    """Leave those tools in the body that its `tool_choice` leaves; as it is where that names none.

    Raises BadRequest for a choice that is not among the tools.
    """
    if "tool_choice" not in body.fields:
        return
    try:
        choice = _named.decode(body.fields["tool_choice"])
        tools = _tools.decode(body.fields["tools"])
    except (KeyError, msgspec.ValidationError):
        return
    if choice.tool is not None:
        names, mode = [choice.tool], "required"
    elif (allowed := choice.allowed) is not None:
        names, mode = [str(tool.tool) for tool in allowed.tools], allowed.mode
    else:
        return
    left = [tool for tool in tools if _name(tool) in names]
    if not left:
        shown = ", ".join(repr(name[:80]) for name in names[:10]) or "what is chosen"
        raise BadRequest(f"tool_choice: {shown} is not among the tools", param="tool_choice")
    body.change({"tools": left, "tool_choice": mode})


def _name(tool: msgspec.Raw) -> str | None:
    try:
        return _named.decode(tool).tool
    except msgspec.ValidationError:
        return None
