"""What an engine is asked for an Ollama request: bodies of llama-server's endpoints. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from proxy.catalog.entry import Message
from proxy.dialect.ollama.messages import to_openai
from proxy.dialect.ollama.options import DEFAULTS
from proxy.dialect.ollama.requests import ChatMessage, GenerateBody, Generation
from proxy.dialect.preamble import Preamble
from proxy.dialect.synonyms import KWARGS, still_open

# gpt-oss and its like know three levels; Ollama's clients may ask for one more.
LEVELS = {"max": "high"}


def sampling(params: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """What counts for one request: what it asks for, else the model's policy, else the defaults."""
    return {**DEFAULTS, **still_open(params, asked), **asked}


def chat(
    body: Generation,
    messages: Sequence[ChatMessage],
    params: Mapping[str, Any],
    *,
    tools: Sequence[Any] = (),
    can_think: bool = False,
) -> dict[str, Any]:
    """For `/v1/chat/completions`, streamed. `params` are from `sampling`. `can_think`: the model is
    known to think where it is asked to, and so it is, as Ollama does, unless somebody says not."""
    made = {
        **_thinking(body, _left(body, params), can_think),
        "messages": to_openai(messages),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if tools:
        made["tools"] = list(tools)
    else:
        # Some policies ask for a certain tool; without any that is an error.
        made.pop("tool_choice", None)
    if body.logprobs:
        made["logprobs"] = True
        made["top_logprobs"] = max(body.top_logprobs or 0, 1)
    if (schema := body.schema) is not None:
        made["response_format"] = (
            {"type": "json_schema", "json_schema": {"name": "schema", "schema": schema}}
            if schema
            else {"type": "json_object"}
        )
    return made


def completion(
    body: Generation, prompt: str | Sequence[int], params: Mapping[str, Any]
) -> dict[str, Any]:
    """For `/completion`, streamed: a prompt as it is, as text or as tokens."""
    return {**_plain(body, params), "prompt": prompt}


def infill(body: GenerateBody, params: Mapping[str, Any]) -> dict[str, Any]:
    """For `/infill`, streamed: what belongs between prompt and suffix."""
    return {
        **_plain(body, params),
        "input_prefix": body.prompt or "",
        "input_suffix": body.suffix or "",
    }


def generate_messages(body: GenerateBody, preamble: Preamble) -> list[ChatMessage]:
    """A prompt as the chat that it is for a model with a template, which opens with `preamble`."""
    messages = [ChatMessage(role="user", content=body.prompt or "", images=body.images)]
    if body.system:
        messages.insert(0, ChatMessage(role="system", content=body.system))
    if body.context:
        # They were in the prompt that it comes from.
        preamble = replace(preamble, messages=())
    return chat_messages(messages, preamble)


def chat_messages(messages: Sequence[ChatMessage], preamble: Preamble) -> list[ChatMessage]:
    """The messages after what the model says before every conversation."""

    def own(message: Message) -> ChatMessage:
        return ChatMessage(role=message.role, content=message.content)

    return preamble.before(messages, own, role=lambda message: message.role.lower())


def drop_oldest(messages: Sequence[ChatMessage], count: int) -> list[ChatMessage]:
    """The messages without the first `count`, of which those that the system says are kept."""
    kept = [message for message in messages[:count] if message.role.lower() == "system"]
    return [*kept, *messages[count:]]


def _left(body: Generation, params: Mapping[str, Any]) -> Mapping[str, Any]:
    """The params without what the request says itself, in words that engines do not have."""
    said = {
        "logprobs": body.logprobs,
        "response_format": None if body.schema is None else body.format,
    }
    return still_open(params, said)


def _plain(body: Generation, params: Mapping[str, Any]) -> dict[str, Any]:
    of_chats = ("chat_template_kwargs", "tool_choice", "parallel_tool_calls", "response_format")
    left = _left(body, params)
    made = {name: value for name, value in left.items() if name not in of_chats}
    made["stream"] = True
    if body.logprobs:
        made["n_probs"] = max(body.top_logprobs or 0, 1)
    if (schema := body.schema) is not None:
        made["json_schema"] = schema or {"type": "object"}
    return made


def _thinking(body: Generation, params: Mapping[str, Any], can_think: bool) -> dict[str, Any]:
    """The params with what the request says of thinking, by whatever name they say it."""
    if body.think is None:
        # What a policy says of it counts more than what Ollama does by itself.
        asks = can_think and "reasoning_effort" not in params
        asked = {"enable_thinking": True} if asks else {}
        return _with_kwargs(params, {**asked, **params.get(KWARGS, {})})
    effort = params.get("reasoning_effort")
    left = {name: value for name, value in params.items() if name != "reasoning_effort"}
    kwargs = dict(params.get(KWARGS, {}))
    if isinstance(body.think, str):
        kwargs["reasoning_effort"] = LEVELS.get(body.think, body.think)
    elif not body.think:
        kwargs.pop("reasoning_effort", None)
    elif effort not in (None, "none"):
        # How much is left to the policy where the request only says that it is to think.
        kwargs["reasoning_effort"] = effort
    return _with_kwargs(left, {**kwargs, "enable_thinking": body.thinks})


def _with_kwargs(params: Mapping[str, Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {**params, KWARGS: dict(kwargs)} if kwargs else dict(params)
