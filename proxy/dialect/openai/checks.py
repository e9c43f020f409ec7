"""What of a chat llama-server would not refuse, or as if it were its own fault. Pure."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from proxy.dialect.body import Body
from proxy.errors import BadRequest, EmptyArray, MissingParameter

COMPLETIONS: Final = "/v1/completions"
NULL: Final = b"null"


class _Message(msgspec.Struct):
    role: Any = None


_messages = msgspec.json.Decoder(list[_Message])


def check(path: str, body: Body, *, chats: bool) -> None:
    """Of a request to `path`, which takes chats or not. Raises BadRequest."""
    if chats:
        check_chat(body)
    elif path == COMPLETIONS and bytes(body.fields.get("prompt", NULL)) == NULL:
        raise MissingParameter("prompt is missing: a text, tokens, or a list", param="prompt")


def check_chat(body: Body) -> None:
    """Raise BadRequest for a chat in which nobody says anything, or whose parts are none."""
    if (raw := body.fields.get("messages")) is None:
        raise MissingParameter("messages is missing: a list of messages", param="messages")
    try:
        messages = _messages.decode(raw)
    except msgspec.ValidationError as error:
        raise BadRequest("messages: use a list of messages", param="messages") from error
    if not messages:
        raise EmptyArray("messages: it is empty, and nobody says anything", param="messages")
    for number, message in enumerate(messages):
        if not isinstance(message.role, str):
            where = f"messages[{number}].role"
            raise MissingParameter(
                f"{where} is missing: system, user, assistant or tool", param=where
            )
    if (tools := body.fields.get("tools")) is not None:
        _check_tools(tools, body)


def meant_tools(tools: Sequence[Any]) -> list[Any]:
    """The tools of a chat, each with the type that it has if it has none: of functions only. Raises
    BadRequest that names the one that is no tool."""
    return [_meant(tool, f"tools[{number}]") for number, tool in enumerate(tools)]


def _check_tools(raw: msgspec.Raw, body: Body) -> None:
    tools = msgspec.json.decode(raw)
    if not isinstance(tools, list | None):
        raise BadRequest("tools: use a list of tools", param="tools")
    meant = meant_tools(tools or ())
    if meant != (tools or []):
        body.change({"tools": meant})


def _meant(tool: Any, where: str) -> Any:
    function = tool.get("function") if isinstance(tool, dict) else None
    if (
        not isinstance(function, dict)
        or not isinstance(function.get("name"), str)
        or not isinstance(function.get("description"), str | None)
        or tool.get("type") not in (None, "function")
    ):
        raise BadRequest(
            f"{where}: a tool of a chat has the type function, and a function with a name (and a "
            "description, as text)",
            param=where,
        )
    return {**tool, "type": "function"}
