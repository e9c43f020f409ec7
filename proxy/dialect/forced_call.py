"""A chat that has to end in the call of a tool. llama-server's grammar for that lets most models
say whatever they like before the call, so it may never come. So the answer is asked for as JSON
that is a call, by a grammar that begins with it; thoughts may come before. `called` makes a call of
it again. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from proxy.dialect.body import Body
from proxy.dialect.synonyms import LENGTHS

# Who has one of these asks for another shape of the answer.
SHAPES: Final = ("grammar", "json_schema", "response_format")
BUDGETS: Final = ("reasoning_budget_tokens", "thinking_budget_tokens")
COMPOSED: Final = ("type", "$ref", "anyOf", "oneOf", "allOf")


@dataclass(frozen=True, slots=True)
class Calling:
    """How llama-server is made to begin with a call. `as_json`: by a format for the answer, where
    `names_choice` says whether it looks at that only while a call is required. `opener`: else by
    what begins a call in this template, which costs the model its thoughts.
    """

    as_json: bool = True
    names_choice: bool = False
    opener: str = ""


# By what stands in a template llama-server knows those that it treats differently.
FAMILIES: Final = (
    # gpt-oss: its own grammar lets nothing but thoughts and a preamble come before.
    ("<|channel|>", Calling(as_json=False)),
    # Kimi K2 and K3, Ling 3, Functionary 3.2, GigaChat 3.1 and 3
    ("<|tool_calls_section_begin|>", Calling(False, opener="<|tool_call_begin|>functions.")),
    ("<|end_of_msg|>", Calling(False, opener="<|open|>tools<|sep|>")),
    ("<role>ASSISTANT</role>", Calling(False, opener="<tool_call>")),
    (">>>all", Calling(False)),
    ("<|function_call|>", Calling()),
    ("<|role_sep|>", Calling(False, opener="<|message_sep|>\n\nfunction call<|role_sep|>\n")),
    # DeepSeek 3.2 and 4
    ("dsml_token", Calling(names_choice=True)),
)
PLAIN: Final = Calling()


def calling_of(template: str) -> Calling:
    """What holds for a chat template."""
    return next((calling for mark, calling in FAMILIES if mark in template), PLAIN)


def force_call(body: Body, calling: Calling) -> bool:
    """Have the answer be a call, where `tool_choice` says that it has to be. Whether that comes as
    JSON."""
    if _value(body, "tool_choice") != "required":
        return False
    tools = _tools(_value(body, "tools"))
    if not tools or any(_is_shape(_value(body, name)) for name in SHAPES):
        return False
    messages = _value(body, "messages")
    if not isinstance(messages, list) or not messages or _role(messages[-1]) == "assistant":
        return False  # an answer that has begun goes on as it began
    if not calling.as_json:
        if calling.opener:
            begun = {"role": "assistant", "content": calling.opener}
            body.change({"messages": [*messages, begun]})
        return False
    schema = call_schema(tools, several=_value(body, "parallel_tool_calls") is True)
    changed: dict[str, Any] = {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "call", "schema": schema},
        },
    }
    said = [n for name in LENGTHS if isinstance(n := _value(body, name), int) and n > 0]
    if said and all(_value(body, name) is None for name in BUDGETS):
        # Whoever thinks to the end of what the answer may have does not call.
        changed[BUDGETS[0]] = max(min(said) // 2, 1)
    if not calling.names_choice:
        # The template still shows the tools; calls as it writes them are not looked for.
        changed["tool_choice"] = "none"
    body.change(changed)
    return True


def call_schema(tools: Mapping[str, Any], *, several: bool) -> dict[str, Any]:
    """The JSON schema of a call of one of the tools (name -> the schema of its parameters), or of a
    list of calls."""
    where = "#/items" if several else "#"
    if len(tools) == 1:
        ((name, parameters),) = tools.items()
        schema = _call(name, parameters, where)
    else:
        calls = [
            _call(name, parameters, f"{where}/anyOf/{at}")
            for at, (name, parameters) in enumerate(tools.items())
        ]
        schema = {"anyOf": calls}
    return {"type": "array", "items": schema, "minItems": 1} if several else schema


def _call(name: str, parameters: Any, where: str) -> dict[str, Any]:
    given = parameters if isinstance(parameters, dict) else {}
    if not any(key in given for key in COMPOSED):
        given = {"type": "object", **given}
    return {
        "type": "object",
        "properties": {
            "name": {"const": name},
            "arguments": _moved(given, f"{where}/properties/arguments"),
        },
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _moved(schema: Any, where: str) -> Any:
    """A schema as it stands in another one: what refers to its root means that place there."""
    if isinstance(schema, list):
        return [_moved(each, where) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: where + value[1:]
        if key == "$ref" and isinstance(value, str) and value.startswith("#")
        else _moved(value, where)
        for key, value in schema.items()
    }


def _tools(value: Any) -> dict[str, Any]:
    found = {}
    for tool in value if isinstance(value, list) else ():
        function = tool.get("function") if isinstance(tool, dict) else None
        if isinstance(function, dict) and isinstance(name := function.get("name"), str):
            found[name] = function.get("parameters")
    return found


def _is_shape(value: Any) -> bool:
    """Whether it says anything of an answer's shape. "text", as many clients say anyway, does
    not."""
    if isinstance(value, dict) and "type" in value:
        return value["type"] not in (None, "text")
    return value not in (None, "", {})


def _role(message: Any) -> Any:
    return message.get("role") if isinstance(message, dict) else None


def _value(body: Body, name: str) -> Any:
    raw = body.fields.get(name)
    return None if raw is None else msgspec.json.decode(raw)
