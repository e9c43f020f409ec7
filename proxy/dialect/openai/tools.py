"""The tools of a request for a response, as those of a chat, and which of them is which when the
model calls it. Pure.

A model can call functions. A custom tool takes a text, so it is a function with one; tools that
OpenAI runs itself (searches and the like) are nobody's here and left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from proxy.dialect.openai.items import full_name
from proxy.errors import BadRequest

NO_PARAMETERS: Final = {"type": "object", "properties": {}}
CHOICES: Final = ("auto", "none", "required")


@dataclass(frozen=True, slots=True)
class Tools:
    """What a request offers."""

    chat: tuple[dict[str, Any], ...] = ()
    told: tuple[dict[str, Any], ...] = ()  # the same, as the request had them
    custom: frozenset[str] = frozenset()  # which take a text
    spaces: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # name -> namespace, name


def read_tools(given: Any) -> Tools:
    """Raises BadRequest for what is no list of tools."""
    if given is None:
        return Tools()
    if not isinstance(given, list):
        raise BadRequest("tools: use a list of tools", param="tools")
    chat: list[dict[str, Any]] = []
    told: list[dict[str, Any]] = []
    custom: set[str] = set()
    spaces: dict[str, tuple[str, str]] = {}
    for number, tool in enumerate(given):
        kind = tool.get("type") if isinstance(tool, dict) else None
        where = f"tools[{number}]"
        match kind:
            case "function":
                chat.append(_function(tool, where))
            case "custom":
                custom.add(_name(tool, where))
                chat.append(_taking_text(tool))
            case "namespace":
                inside = tool.get("tools")
                for each in inside if isinstance(inside, list) else ():
                    if isinstance(each, dict) and each.get("type") == "function":
                        name = _name(each, where)
                        full = full_name(tool.get("name"), name)
                        spaces[full] = (str(tool.get("name")), name)
                        chat.append(_function({**each, "name": full}, where))
            case str():
                continue
            case _:
                raise BadRequest(f"{where}: a tool is an object with a type", param="tools")
        told.append(tool)
    return Tools(tuple(chat), tuple(told), frozenset(custom), spaces)


def read_choice(choice: Any, tools: Tools) -> tuple[Any, Tools]:
    """The choice as a chat has it, and the tools that it leaves. Raises BadRequest."""
    if choice is None:
        return None, tools
    if isinstance(choice, str) and choice in CHOICES:
        if choice == "required" and not tools.chat:
            raise _refused("required, and there is no function or custom tool among the tools")
        return choice if tools.chat else None, tools
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind in ("function", "custom") and isinstance(choice.get("name"), str):
        # Whether it is among the tools is looked at for all protocols alike.
        name = full_name(choice.get("namespace"), choice["name"])
        if not tools.chat:
            raise _refused(f"{name[:80]!r} is not among the tools")
        return {"type": "function", "function": {"name": name}}, tools
    if kind == "allowed_tools" and isinstance(choice.get("tools"), list):
        allowed = [tool.get("name") for tool in choice["tools"] if isinstance(tool, dict)]
        left = tuple(tool for tool in tools.chat if tool["function"]["name"] in allowed)
        fewer = Tools(left, tools.told, tools.custom, tools.spaces)
        return read_choice(choice.get("mode", "auto"), fewer)
    raise _refused(
        "use auto, none, required, or an object that names a function, a custom tool or the "
        "allowed_tools; OpenAI's own tools are not here"
    )


def _function(tool: dict[str, Any], where: str) -> dict[str, Any]:
    if isinstance(tool.get("function"), dict):  # as in a chat
        tool = tool["function"]
    function = {"name": _name(tool, where), "parameters": tool.get("parameters") or NO_PARAMETERS}
    more = {key: tool[key] for key in ("description", "strict") if tool.get(key) is not None}
    if not isinstance(more.get("description", ""), str):
        raise BadRequest(f"{where}.description: use a text", param="tools")
    return {"type": "function", "function": function | more}


def _taking_text(tool: dict[str, Any]) -> dict[str, Any]:
    told = str(tool.get("description") or "")
    wanted = tool.get("format")
    if isinstance(wanted, dict) and isinstance(grammar := wanted.get("definition"), str):
        told += f"\n\nThe input follows this {wanted.get('syntax')} grammar:\n{grammar}"
    parameters = {
        "type": "object",
        "properties": {"input": {"type": "string"}},
        "required": ["input"],
    }
    function = {"name": tool["name"], "description": told, "parameters": parameters}
    return {"type": "function", "function": function}


def _name(tool: dict[str, Any], where: str) -> str:
    name = tool.get("name")
    if not isinstance(name, str) or not name:
        raise BadRequest(f"{where}.name: a tool has a name", param="tools")
    return name


def _refused(why: str) -> BadRequest:
    return BadRequest(f"tool_choice: {why}", param="tool_choice")
