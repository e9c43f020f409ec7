"""What a request for a response has been told so far, its items, as the messages of a chat. Pure.

Clients send back what they got from wherever, so there are items of tools that only OpenAI has.
What a model can read is translated, the rest is left out: an old search must not end a
conversation.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from proxy.errors import BadRequest, Unsupported

SYSTEM_ROLES: Final = ("system", "developer")
TEXTS: Final = ("input_text", "output_text", "text", "summary_text", "reasoning_text")
NO_FILES: Final = "files are not taken; put their text into an input_text, or send an image"
Item = Mapping[str, Any]
Message = dict[str, Any]


def messages_of(items: Sequence[Any]) -> list[Message]:
    """The messages. Raises BadRequest that names the item that is none."""
    made: list[Message] = []
    for number, item in enumerate(items):
        where = f"input[{number}]"
        if not isinstance(item, dict) or not ("type" in item or "role" in item):
            raise BadRequest(f"{where}: an item is an object with a type or a role", param="input")
        if isinstance(item.get("role"), str):
            _add_message(made, item, where)
        elif (read := _READERS.get(str(item.get("type")))) is not None:
            read(made, item, where)
    return _with_one_system_prompt([each for each in made if _says_something(each)])


def item_of_text(text: str) -> dict[str, Any]:
    """What a text alone is as an item."""
    content = [{"type": "input_text", "text": text}]
    return {"type": "message", "role": "user", "content": content}


def _add_message(made: list[Message], item: Item, where: str) -> None:
    content = _content(item.get("content"), f"{where}.content")
    if item["role"] != "assistant":
        made.append({"role": item["role"], "content": content})
        return
    answer = _answer(made)
    text = content if isinstance(content, str) else "".join(p.get("text", "") for p in content)
    answer["content"] = answer.get("content", "") + text


def _add_thought(made: list[Message], item: Item, where: str) -> None:
    """It belongs to the answer that follows. Our own are in `encrypted_content` too, since clients
    keep that where they drop the text."""
    parts = (_parts(item.get(key)) for key in ("content", "summary"))
    said = ("".join(str(part.get("text") or "") for part in some) for some in parts)
    sealed = item.get("encrypted_content")
    text = next(filter(None, said), None) or unsealed(sealed)
    if text:
        answer = _answer(made)
        before = answer.get("reasoning_content")
        answer["reasoning_content"] = f"{before}\n\n{text}" if before else text


def _add_call(
    made: list[Message], item: Item, name: Callable[[Item], Any], arguments: Callable[[Item], Any]
) -> None:
    given = arguments(item)
    text = given if isinstance(given, str) else msgspec.json.encode(given).decode()
    function = {"name": str(name(item) or ""), "arguments": text or "{}"}
    call = {"id": _call_id(item), "type": "function", "function": function}
    _answer(made).setdefault("tool_calls", []).append(call)


def _add_result(made: list[Message], item: Item, where: str) -> None:
    given = item.get("output")
    if isinstance(given, list) and all(_kind(part) in (*TEXTS, "input_image") for part in given):
        content = _content(given, f"{where}.output")
    elif isinstance(given, str):
        content = given
    else:
        content = msgspec.json.encode(given).decode() if given is not None else ""
    made.append({"role": "tool", "tool_call_id": _call_id(item), "content": content})


def _add_remote(made: list[Message], item: Item, where: str) -> None:
    """A tool that a server called: the call and what came of it in one."""
    _add_call(made, item, _field("name"), _field("arguments"))
    said = item.get("output") or item.get("error") or ""
    _add_result(made, {**item, "output": said}, where)


def _field(name: str) -> Callable[[Item], Any]:
    return lambda item: item.get(name)


def _calls(
    name: Callable[[Item], Any], arguments: Callable[[Item], Any]
) -> Callable[[list[Message], Item, str], None]:
    return lambda made, item, where: _add_call(made, item, name, arguments)


def _own(name: str, field: str) -> Callable[[list[Message], Item, str], None]:
    return _calls(lambda _: name, _field(field))


# What is not here, such as searches, has no place in a chat.
_READERS: Final[Mapping[str, Callable[[list[Message], Item, str], None]]] = {
    "reasoning": _add_thought,
    "function_call": _calls(
        lambda item: full_name(item.get("namespace"), item.get("name")), _field("arguments")
    ),
    "custom_tool_call": _calls(_field("name"), lambda item: {"input": item.get("input")}),
    "local_shell_call": _own("local_shell", "action"),
    "shell_call": _own("shell", "action"),
    "apply_patch_call": _own("apply_patch", "operation"),
    "mcp_call": _add_remote,
    **{
        f"{kind}_output": _add_result
        for kind in (
            *("function_call", "custom_tool_call", "local_shell_call", "shell_call"),
            "apply_patch_call",
        )
    },
}


def full_name(space: Any, name: Any) -> str:
    """How the model knows a function of a namespace."""
    return f"{space}__{name}" if isinstance(space, str) and space else str(name or "")


SEAL: Final = "moe-proxy:"


def sealed(text: str) -> str:
    """A thought as `encrypted_content`. It hides nothing: whoever gets it may read it."""
    return SEAL + text


def unsealed(content: Any) -> str:
    """The thought in an `encrypted_content` of ours; nothing in another's."""
    return content.removeprefix(SEAL) if str(content).startswith(SEAL) else ""


def _call_id(item: Item) -> str:
    return str(item.get("call_id") or item.get("id") or "")


def _answer(made: list[Message]) -> Message:
    """The assistant's message at the end: what it says in one turn is one message."""
    if not made or made[-1]["role"] != "assistant":
        made.append({"role": "assistant"})
    return made[-1]


def _parts(value: Any) -> list[Item]:
    return [part for part in value if isinstance(part, dict)] if isinstance(value, list) else []


def _kind(part: Any) -> str:
    return str(part.get("type")) if isinstance(part, dict) else ""


def _content(value: Any, where: str) -> Any:
    """A text, or the parts of a chat's message."""
    if value is None or isinstance(value, str):
        return value or ""
    if not isinstance(value, list):
        raise BadRequest(f"{where}: use a text, or a list of parts", param="input")
    parts = [_part(part, f"{where}[{number}]") for number, part in enumerate(value)]
    if len(parts) == 1 and parts[0]["type"] == "text":
        return parts[0]["text"]
    return parts


def _part(part: Any, where: str) -> dict[str, Any]:
    kind = _kind(part)
    if kind in TEXTS and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind == "refusal" and isinstance(part.get("refusal"), str):
        return {"type": "text", "text": part["refusal"]}
    if kind in ("input_image", "image_url") and part.get("image_url"):
        url = part["image_url"]
        return {"type": "image_url", "image_url": {"url": url} if isinstance(url, str) else url}
    if kind == "input_audio" and part.get("input_audio"):
        return {"type": kind, "input_audio": part["input_audio"]}
    if kind == "input_file" or kind == "input_image":
        raise Unsupported(f"{where}: {NO_FILES}", param="input")
    raise BadRequest(
        f"{where}: {kind[:80] or 'a part without a type'} is not known, or lacks its value; "
        "there are input_text, output_text, refusal, input_image and input_audio",
        param="input",
    )


def _says_something(message: Message) -> bool:
    """Whether an answer is more than a thought: such a one would be gone on with."""
    if message["role"] != "assistant":
        return True
    return bool(message.get("content") or message.get("tool_calls"))


def _with_one_system_prompt(messages: list[Message]) -> list[Message]:
    """What a system says at the beginning in one message: many templates read only the first."""
    count = 0
    while count < len(messages) and messages[count]["role"] in SYSTEM_ROLES:
        count += 1
    texts = [message["content"] for message in messages[:count]]
    if count < 2 or not all(isinstance(text, str) for text in texts):
        return messages
    return [{"role": "system", "content": "\n\n".join(filter(None, texts))}, *messages[count:]]
