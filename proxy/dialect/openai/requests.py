"""A request for a response as one for a chat, which all engines answer. Pure.

What is OpenAI's own has its counterpart or is left out; what is the engine's own (samplers,
grammars) goes on as it is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from proxy.dialect.body import Body
from proxy.dialect.openai.items import SYSTEM_ROLES, item_of_text, messages_of
from proxy.dialect.openai.tools import Tools, read_choice, read_tools
from proxy.errors import BadRequest, EmptyArray, MissingParameter, Unsupported

LOGPROBS: Final = "message.output_text.logprobs"
SEALED: Final = "reasoning.encrypted_content"
# What a chat has by another name, or not at all.
TRANSLATED: Final = frozenset(
    {
        *("input", "instructions", "tools", "tool_choice", "text", "reasoning", "include"),
        *("max_output_tokens", "top_logprobs", "stream_options", "messages"),
        *("previous_response_id", "store", "metadata", "truncation", "background", "service_tier"),
        *("conversation", "prompt", "max_tool_calls", "prompt_cache_key", "safety_identifier"),
        *("prompt_cache_retention", "prompt_cache_options", "client_metadata", "moderation"),
        "context_management",
    }
)
# What nobody does here, and what it would do.
REFUSED: Final = {
    "background": "answers come while they are made",
    "conversation": "send the input, or previous_response_id",
    "prompt": "there are no stored prompts; send instructions and input",
}
# What a response repeats of its request, and what it says where that is silent.
REPEATED: Final[Mapping[str, Any]] = {
    **{"instructions": None, "max_output_tokens": None, "max_tool_calls": None},
    **{"metadata": {}, "parallel_tool_calls": True, "previous_response_id": None},
    **{"prompt_cache_key": None, "safety_identifier": None, "temperature": None, "top_p": None},
    **{"tool_choice": "auto", "top_logprobs": 0, "user": None},
}
Items = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked for: the body of a `chat`, and what its answer has to say beside the text."""

    chat: dict[str, Any]
    items: Items  # the whole conversation so far
    repeats: Mapping[str, Any] = field(default_factory=dict)
    tools: Tools = field(default_factory=Tools)
    stores: bool = True
    summarises: bool = False  # thoughts are shown as their own summary
    seals: bool = False  # thoughts are also in `encrypted_content`


def read_asked(body: Body, expand: Callable[[str | None, Items], Items]) -> Asked:
    """`expand` has a previous response, by its id, and an input; it makes the whole conversation.

    Raises BadRequest that names the field, and what `expand` raises.
    """
    fields = {key: raw for key, raw in body.fields.items() if bytes(raw) != b"null"}
    said = {key: msgspec.json.decode(raw) for key, raw in fields.items() if key in TRANSLATED}
    for name, instead in REFUSED.items():
        if said.get(name):
            raise Unsupported(f"{name} is not supported: {instead}", param=name)
    items = expand(_text_or_none(said, "previous_response_id"), _items(said))
    instructions = _instructions(said.get("instructions"))
    tools = read_tools(said.get("tools"))
    choice, left = read_choice(said.get("tool_choice"), tools)
    reasoning = _object(said, "reasoning")
    given = said.get("include")
    include: list[Any] = given if isinstance(given, list) else []
    messages = messages_of([*instructions, *items])
    if all(message["role"] in SYSTEM_ROLES for message in messages):
        raise EmptyArray("input: nobody says anything in it", param="input")
    chat: dict[str, Any] = {key: raw for key, raw in fields.items() if key not in TRANSLATED}
    chat["messages"] = messages
    if left.chat:
        chat |= {"tools": left.chat}
    optional = {
        "tool_choice": choice,
        "max_tokens": said.get("max_output_tokens"),
        "reasoning_effort": reasoning.get("effort"),
        "response_format": _format(said),
    }
    chat |= {key: value for key, value in optional.items() if value is not None}
    if LOGPROBS in include:
        chat |= {"logprobs": True, "top_logprobs": _likeliest(said)}
    if bytes(fields.get("stream", b"")) == b"true":
        # How long the prompt is, is for those who look at what the proxy is at.
        chat |= {"stream_options": {"include_usage": True}, "return_progress": True}
    repeated = {key: msgspec.json.decode(fields[key]) for key in REPEATED if key in fields}
    return Asked(
        chat,
        items,
        {
            **{**REPEATED, **repeated, "tools": list(tools.told), "store": _stores(said)},
            **{"reasoning": {"effort": None, "summary": None, **reasoning}},
            "text": {"format": {"type": "text"}, **_object(said, "text")},
        },
        left,
        stores=_stores(said),
        summarises=bool(reasoning.get("summary") or reasoning.get("generate_summary")),
        seals=SEALED in include,
    )


def _likeliest(said: Mapping[str, Any]) -> int:
    most = said.get("top_logprobs", 0)
    if isinstance(most, int) and not isinstance(most, bool) and most >= 0:
        return most
    raise BadRequest("top_logprobs: use a whole number, 0 or more", param="top_logprobs")


def _stores(said: Mapping[str, Any]) -> bool:
    return said.get("store") is not False


def _items(said: Mapping[str, Any]) -> Items:
    given = said.get("input")
    if given is None and "previous_response_id" in said:
        return []
    if given is None:
        raise MissingParameter("input is missing: a text, or a list of items", param="input")
    if isinstance(given, str):
        return [item_of_text(given)]
    if not isinstance(given, list):
        raise BadRequest("input: use a text, or a list of items", param="input")
    return given


def _instructions(given: Any) -> Items:
    if given is None or given == "":
        return []
    if isinstance(given, str):
        return [{"role": "system", "content": given}]
    if isinstance(given, list):
        return given
    raise BadRequest("instructions: use a text", param="instructions")


def _format(said: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the answer has to look like, as a chat has it."""
    wanted = _object(said, "text").get("format")
    if wanted is None:
        return None
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind in ("text", "json_object"):
        return None if kind == "text" else {"type": kind}
    if kind != "json_schema":
        raise BadRequest(
            "text.format.type: use text, json_object or json_schema", param="text.format.type"
        )
    if not isinstance(wanted.get("schema"), dict):
        raise MissingParameter("text.format.schema is missing", param="text.format.schema")
    named = {
        key: wanted[key] for key in ("name", "schema", "strict") if wanted.get(key) is not None
    }
    return {"type": kind, "json_schema": named}


def _object(said: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = said.get(name, {})
    if not isinstance(value, dict):
        raise BadRequest(f"{name}: use an object", param=name)
    return value


def _text_or_none(said: Mapping[str, Any], name: str) -> str | None:
    value = said.get(name)
    if value is not None and not isinstance(value, str):
        raise BadRequest(f"{name}: use a text", param=name)
    return value or None
