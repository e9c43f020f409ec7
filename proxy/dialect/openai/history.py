"""What a chat is told of its own past, and of the parts of a message, as llama-server takes it:
clients send back what they got from wherever, and it would refuse the rest of the conversation as
its own fault. Pure.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from proxy.dialect.body import Body
from proxy.errors import BadRequest

# What stands for text in other protocols, and in answers.
TEXTS: Final[Mapping[str, str]] = {
    "text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal",
}  # fmt: skip
NOTHING: Final = "{}"
Fields = dict[str, msgspec.Raw]

_messages = msgspec.json.Decoder(list[Fields])
_items = msgspec.json.Decoder(list[msgspec.Raw])
_decode = msgspec.json.decode


def mend_history(body: Body) -> None:
    """Change those messages of the body that need it. Raises BadRequest that names what is no call
    of a tool."""
    messages = _messages.decode(body.fields["messages"])
    changed = [_message(message, f"messages[{at}]") for at, message in enumerate(messages)]
    if any(one is not other for one, other in zip(messages, changed, strict=True)):
        body.change({"messages": changed})


def arguments_of(given: Any) -> str:
    """The arguments of a call as text: of a JSON object, since that is what templates go through.
    What is none, as where an answer was cut, stands in one."""
    if isinstance(given, str):
        try:
            value = _decode(given) if given.strip() else None
        except (msgspec.DecodeError, RecursionError):
            value = given
        if isinstance(value, dict):
            return given
    else:
        value = given
    if value is None:
        return NOTHING
    wrapped = value if isinstance(value, dict) else {"arguments": value}
    return msgspec.json.encode(wrapped).decode()


def _message(message: Fields, where: str) -> Fields:
    found: Fields = {}
    if (calls := message.get("tool_calls")) is not None:
        where = f"{where}.tool_calls"
        if bytes(calls)[:1] != b"[":
            raise BadRequest(f"{where}: use a list of calls", param=where)
        _change(found, "tool_calls", calls, lambda each, at: _call(each, f"{where}[{at}]"))
    if (parts := message.get("content")) is not None and bytes(parts)[:1] == b"[":
        _change(found, "content", parts, lambda each, _: _part(each))
    return {**message, **found} if found else message


def _change(
    found: Fields, name: str, raw: msgspec.Raw, mend: Callable[[msgspec.Raw, int], Any]
) -> None:
    items = _items.decode(raw)
    mended = [mend(item, at) for at, item in enumerate(items)]
    if any(one is not other for one, other in zip(items, mended, strict=True)):
        found[name] = msgspec.Raw(msgspec.json.encode(mended))


def _call(raw: msgspec.Raw, where: str) -> Any:
    call = _decode(raw)
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRequest(f"{where}: a call has a function, and that a name", param=where)
    given = function.get("arguments")
    arguments = arguments_of(given)
    if arguments == given and call.get("type") == "function":
        return raw
    return {**call, "type": "function", "function": {**function, "arguments": arguments}}


def _part(raw: msgspec.Raw) -> Any:
    if bytes(raw)[:1] != b"{":
        return raw
    part = _decode(raw, type=Fields)
    kind = _decode(part["type"]) if "type" in part else None
    if not isinstance(kind, str) or kind not in TEXTS:
        return raw
    text = _decode(part[TEXTS[kind]]) if TEXTS[kind] in part else ""
    if kind == "text" and "text" in part and isinstance(text, str):
        return raw
    return {"type": "text", "text": text if isinstance(text, str) else ""}
