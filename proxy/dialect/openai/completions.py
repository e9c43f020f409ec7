"""Plain completions as OpenAI's old clients read them: `logprobs: N` in the old shape, and `echo`.
llama-server answers with the shape of chats, and takes no notice of `echo`, or of a format. Pure.

The probabilities of a prompt are not told by any engine here, so asking for them is refused.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from proxy.dialect.body import Body
from proxy.dialect.errors import error_event, said_by_engine
from proxy.dialect.openai.retold import Retold
from proxy.dialect.rewrite import (
    EVENT_STREAM,
    Rewrite,
    Translated,
    Whole,
    status_of,
)
from proxy.errors import BadRequest, EngineSaid, ProxyError, Unsupported

PATH: Final = "/v1/completions"
DONE: Final = b"[DONE]"
NO_ANSWER: Final = "the engine's answer is none of a completion"
NOT_OF_PROMPTS: Final = (
    "echo with logprobs is not supported: the probabilities of a prompt's tokens are not told; "
    "leave out one of the two"
)


def translate(path: str, body: Body) -> Translated | None:
    """A request for a completion that wants more of its answer than engines give; None for others.

    Raises BadRequest.
    """
    if path != PATH:
        return None
    if "response_format" in body.fields:
        _obey_format(body)
    if "logprobs" not in body.fields and "echo" not in body.fields:
        return None
    most = _count(_value(body, "logprobs"))
    echoes = _value(body, "echo") is True
    if most is None and not echoes:
        if "logprobs" in body.fields:
            body.change({"logprobs": None})  # chats have a word for it that is none here
        return None
    if most is not None and echoes:
        raise Unsupported(NOT_OF_PROMPTS, param="echo")
    shape = Shape(most, _echoed(body) if echoes else (), _answers(body))
    changed: dict[str, Any] = {} if most is None else {"logprobs": max(most, 1)}
    body.change(changed | ({"echo": False} if echoes else {}))
    return Translated(path, body, lambda streams: Streamed(shape) if streams else shape.whole())


def _obey_format(body: Body) -> None:
    """llama-server looks at the format of an answer in chats only."""
    wanted = _value(body, "response_format")
    if not isinstance(wanted, dict) or any(
        name in body.fields for name in ("json_schema", "grammar")
    ):
        return
    inner = wanted.get("json_schema")
    schema = inner.get("schema") if isinstance(inner, dict) else wanted.get("schema")
    if wanted.get("type") in ("json_schema", "json_object"):
        body.change({"json_schema": schema if isinstance(schema, dict) else {"type": "object"}})


class Shape:
    """How the answers to one request look."""

    def __init__(self, most: int | None, prompts: Sequence[str], answers: int) -> None:
        """`most` likeliest tokens are listed beside each; None: nothing of it. The `prompts` stand
        before their `answers`, of which each has so many."""
        self._most, self._prompts, self._answers = most, prompts, answers

    def whole(self) -> Rewrite:
        return Whole(lambda body: msgspec.json.encode(self.changed(read(body), {})))

    def changed(self, answer: dict[str, Any], offsets: dict[int, int]) -> dict[str, Any]:
        """An answer or a piece of one. `offsets`: how long the text of each choice is so far."""
        for choice in answer.get("choices") or ():
            index = choice.get("index", 0)
            if index not in offsets:
                offsets[index] = 0
                if self._prompts:
                    prompt = self._prompts[index // self._answers % len(self._prompts)]
                    choice["text"] = prompt + (choice.get("text") or "")
            told = choice.get("logprobs")
            if self._most is not None and isinstance(told, dict):
                choice["logprobs"] = self._old(told.get("content") or [], offsets[index])
            offsets[index] += len(choice.get("text") or "")
        return answer

    def _old(self, tokens: Sequence[Mapping[str, Any]], offset: int) -> dict[str, Any]:
        most = self._most or 0
        starts, tops = [], []
        for token in tokens:
            starts.append(offset)
            offset += len(token.get("token") or "")
            likeliest = (token.get("top_logprobs") or token.get("top_probs") or [])[:most]
            # The one that was chosen is always among them.
            tops.append({_text(each): _logprob(each) for each in (*likeliest, token)})
        return {
            "tokens": [_text(token) for token in tokens],
            "token_logprobs": [_logprob(token) for token in tokens],
            "top_logprobs": tops,
            "text_offset": starts,
        }


class Streamed:
    """A stream of completions."""

    content_type = EVENT_STREAM

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._retold = Retold(NO_ANSWER, self._changed)
        # What changes: how long the text of each choice is so far.
        self._offsets: dict[int, int] = {}

    def feed(self, chunk: bytes) -> bytes:
        """Raises EngineSaid for what is no stream of completions."""
        return self._retold.feed(chunk)

    def end(self) -> bytes:
        return b""

    def fail(self, error: ProxyError) -> bytes | None:
        return None

    def _changed(self, data: bytes) -> bytes:
        if data != DONE:
            piece = read(data)
            if "error" in piece:
                return error_event(said_by_engine(data, status_of(data)), PATH)
            if "prompt_progress" in piece:
                return b"data: %s\n\n" % data  # nothing is said yet
            data = msgspec.json.encode(self._shape.changed(piece, self._offsets))
        return b"data: %s\n\n" % data


def read(body: bytes) -> dict[str, Any]:
    """Raises EngineSaid for what is no answer."""
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EngineSaid(f"{NO_ANSWER}: {error}", status=502) from error


def _text(token: Mapping[str, Any]) -> str:
    """A token, which may be part of a character."""
    data = bytes(token.get("bytes") or ())
    try:
        return data.decode() or str(token.get("token") or "")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _logprob(token: Mapping[str, Any]) -> float | None:
    if (logprob := token.get("logprob")) is not None:
        return float(logprob)
    prob = token.get("prob")  # after sampling, where that is asked for
    return math.log(prob) if prob else None


def _value(body: Body, name: str) -> Any:
    raw = body.fields.get(name)
    return None if raw is None else msgspec.json.decode(raw)


def _count(value: Any) -> int | None:
    if value is None or value is False:  # as chats say it
        return None
    if isinstance(value, int | float) and value is not True and value >= 0 and value % 1 == 0:
        return int(value)
    raise BadRequest(
        "logprobs: use how many of the likeliest tokens are to be told, 0 or more", param="logprobs"
    )


def _answers(body: Body) -> int:
    n = _value(body, "n")
    return n if isinstance(n, int) and n > 0 else 1


def _echoed(body: Body) -> Sequence[str]:
    """The prompts as texts."""
    prompt = _value(body, "prompt")
    prompts = prompt if isinstance(prompt, list) else [prompt]
    if not all(isinstance(each, str) for each in prompts):
        raise Unsupported("echo is not supported for tokens: send the prompt as text", param="echo")
    return prompts
