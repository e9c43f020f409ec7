"""A request for Anthropic's messages, as the chat that engines take. Pure.

llama-server has such a translation too; but what it leaves out (a format for the answer, every
parameter of a policy that Anthropic has no word for) nobody could put back.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from proxy.dialect.anthropic.conversation import messages_of, refused, text_of
from proxy.dialect.effort import BUDGET, EFFORT, effort_fields

Fields = Mapping[str, msgspec.Raw]

# What llama-server takes where a request does not say how long its answer may be.
MOST_TOKENS: Final = 4096
# What this protocol alone knows: translated below, or nothing that an engine could do. What is not
# here goes on as it is: llama-server's own parameters may stand in a body of any protocol.
OWN: Final = frozenset(
    {
        *("messages", "system", "tools", "tool_choice", "stop_sequences", "thinking", "metadata"),
        *("output_config", "output_format", "cache_control", "container", "context_management"),
        *("inference_geo", "mcp_servers", "service_tier", "speed", "betas", "anthropic_version"),
        "n",  # one message is one answer
    }
)
# Tools that Anthropic's servers run themselves: nobody would answer their calls here.
ELSEWHERE: Final = ("web_search_", "web_fetch_", "code_execution_", "mcp_toolset", "tool_search_")
CHOICES: Final = {"auto": "auto", "any": "required", "none": "none"}
# gpt-oss and its like know three levels of these.
EFFORTS: Final = {"xhigh": "high", "max": "high"}
# Claude Code's first line of a system prompt has a check sum that is another one in each request:
# behind it no prompt would be found in the cache.
CHECK_SUM: Final = re.compile(r"(?<=^x-anthropic-billing-header:)(.*?\bcch=)[0-9a-f]{5}(?=;)")


def to_chat(fields: Fields) -> dict[str, Any]:
    """The body for `/v1/chat/completions`. Raises BadRequest in Anthropic's words."""
    chat: dict[str, Any] = {name: raw for name, raw in fields.items() if name not in OWN}
    chat["messages"] = [
        *_system(_value(fields, "system")),
        *messages_of(_value(fields, "messages")),
    ]
    for name, translate in _TRANSLATORS.items():
        if (value := _value(fields, name)) is not None:
            chat |= translate(value)
    if (stop := _value(fields, "stop")) is not None and "stop_sequences" not in fields:
        chat |= _stop_sequences([stop] if isinstance(stop, str) else stop)
    if _value(fields, "stream") is True:
        # How long the prompt is belongs into the first event and into the last.
        chat |= {"stream_options": {"include_usage": True}, "return_progress": True}
    return chat


def _value(fields: Fields, name: str) -> Any:
    return msgspec.json.decode(fields[name]) if name in fields else None


def _system(value: Any) -> list[dict[str, Any]]:
    if value is None:
        return []
    if isinstance(value, str):
        text = CHECK_SUM.sub(r"\g<1>fffff", value)
    else:
        blocks = _list(value, "system")
        text = "".join(CHECK_SUM.sub(r"\g<1>fffff", text_of(block)) for block in blocks)
    return [{"role": "system", "content": text}]


def _tools(value: Any) -> dict[str, Any]:
    tools = []
    for at, tool in enumerate(_list(value, "tools")):
        where = f"tools.{at}"
        if not isinstance(tool, dict):
            raise refused(where, "Input should be an object")
        kind, name = tool.get("type"), tool.get("name")
        if isinstance(kind, str) and kind.startswith(ELSEWHERE):
            continue
        if not isinstance(name, str) or not name:
            raise refused(f"{where}.name", "Field required")
        schema, told = tool.get("input_schema"), tool.get("description")
        function = {
            "name": name,
            "description": told if isinstance(told, str) else "",
            "parameters": schema if isinstance(schema, dict) else {"type": "object"},
        }
        tools.append({"type": "function", "function": function})
    return {"tools": tools} if tools else {}


def _tool_choice(value: Any) -> dict[str, Any]:
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "tool" and isinstance(value.get("name"), str):
        chosen: Any = {"type": "function", "function": {"name": value["name"]}}
    elif kind in CHOICES:
        chosen = CHOICES[kind]
    else:
        raise refused("tool_choice", "use auto, any, none, or tool and a name")
    made = {"tool_choice": chosen}
    if value.get("disable_parallel_tool_use") is True:
        made["parallel_tool_calls"] = False
    return made


def _stop_sequences(value: Any) -> dict[str, Any]:
    if not isinstance(value, list) or not all(isinstance(stop, str) for stop in value):
        raise refused("stop_sequences", "use a list of strings")
    # Which of them it was llama-server tells only among what it tells in detail.
    return {"stop": value, "verbose": True} if value else {}


def _thinking(value: Any) -> dict[str, Any]:
    thinking = value if isinstance(value, dict) else {}
    made = effort_fields({"type": thinking.get("type")})
    if EFFORT not in made and isinstance(budget := thinking.get("budget_tokens"), int):
        made[BUDGET] = budget
    return made


def _metadata(value: Any) -> dict[str, Any]:
    user = value.get("user_id") if isinstance(value, dict) else None
    return {"user": user} if isinstance(user, str) else {}


def _output_config(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise refused("output_config", "Input should be an object")
    made: dict[str, Any] = {}
    if value.get("format") is not None:
        made |= _format(value["format"], "output_config.format")
    if isinstance(effort := value.get("effort"), str):
        made[EFFORT] = EFFORTS.get(effort, effort)
    return made


def _format(value: Any, name: str = "output_format") -> dict[str, Any]:
    schema = value.get("schema") if isinstance(value, dict) else None
    if not isinstance(schema, dict) or value.get("type") != "json_schema":
        raise refused(name, "use a json_schema with a schema")
    wanted = {"name": "answer", "schema": schema}
    return {"response_format": {"type": "json_schema", "json_schema": wanted}}


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise refused(name, "Input should be a valid list")
    return value


# In this order: what is said of thinking counts more than what is said of effort.
_TRANSLATORS: Final[Mapping[str, Callable[[Any], dict[str, Any]]]] = {
    "tools": _tools,
    "tool_choice": _tool_choice,
    "stop_sequences": _stop_sequences,
    "metadata": _metadata,
    "output_format": _format,  # the name that it had in the beta
    "output_config": _output_config,
    "thinking": _thinking,
}
