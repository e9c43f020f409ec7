"""What of a chat llama-server would not refuse, or as if it were its own fault. Pure."""

from typing import Any, Final

import msgspec

from proxy.dialect.body import Body
from proxy.errors import BadRequest, EmptyArray, MissingParameter

COMPLETIONS: Final = "/v1/completions"
NULL: Final = b"null"
TOOLS: Final = b'"tools"'


class _Message(msgspec.Struct):
    role: Any = None


class _Tool(msgspec.Struct):
    type: Any = None
    function: Any = None


_messages = msgspec.json.Decoder(list[_Message])
_tools = msgspec.json.Decoder(list[_Tool] | None)


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
    if body.mentions(TOOLS) and (tools := body.fields.get("tools")) is not None:
        _check_tools(tools)


def _check_tools(raw: msgspec.Raw) -> None:
    try:
        tools = _tools.decode(raw) or ()
    except msgspec.ValidationError as error:
        raise BadRequest("tools: use a list of tools", param="tools") from error
    for number, tool in enumerate(tools):
        function = tool.function if isinstance(tool.function, dict) else {}
        told = function.get("description")
        named = isinstance(function.get("name"), str) and isinstance(told, str | None)
        if tool.type != "function" or not named:
            where = f"tools[{number}]"
            raise BadRequest(
                f"{where}: a tool of a chat has the type function, and a function with a name "
                "(and a description, as text)",
                param=where,
            )
