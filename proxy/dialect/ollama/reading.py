"""Reads what engines answer: one JSON message in, events out. Pure."""

from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import msgspec

from proxy.dialect.ollama.events import (
    Counts,
    Event,
    Failure,
    Finish,
    Logprob,
    Text,
    TokenLogprob,
    ToolCallPart,
)

DONE: Final = b"[DONE]"
C = TypeVar("C")


class _Token(msgspec.Struct):
    token: str = ""
    logprob: float = 0.0
    top_logprobs: list["_Token"] = msgspec.field(default_factory=list)


class _Logprobs(msgspec.Struct):
    content: list[_Token] | None = None


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: _Function = msgspec.field(default_factory=_Function)


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None  # as newer vLLM calls it
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Timings(msgspec.Struct):
    cache_n: int = 0
    prompt_n: int = 0
    prompt_ms: float = 0.0
    predicted_n: int = 0
    predicted_ms: float = 0.0

    def counts(self) -> Counts:
        # A prompt of which all is cached still is the prompt: so Ollama counts, too.
        return Counts(
            self.cache_n + self.prompt_n,
            self.predicted_n,
            round(self.prompt_ms * 1e6),
            round(self.predicted_ms * 1e6),
        )


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _ChatChunk(msgspec.Struct):
    choices: list[_Choice] = msgspec.field(default_factory=list)
    timings: _Timings | None = None
    usage: _Usage | None = None
    error: Any = None


class _CompletionChunk(msgspec.Struct):
    content: str = ""
    stop: bool = False
    stop_type: str = ""
    timings: _Timings | None = None
    completion_probabilities: list[_Token] = msgspec.field(default_factory=list)
    error: Any = None


_chat = msgspec.json.Decoder(_ChatChunk)
_completion = msgspec.json.Decoder(_CompletionChunk)


def read_chat(data: bytes) -> list[Event]:
    """The events of one message of `/v1/chat/completions`, streamed.

    Raises msgspec.DecodeError for what no such engine says.
    """
    return _read(data, _chat, _chat_events)


def read_completion(data: bytes) -> list[Event]:
    """The events of one message of `/completion` or `/infill`, streamed."""
    return _read(data, _completion, _completion_events)


def _read(
    data: bytes, decoder: msgspec.json.Decoder[C], events: Callable[[C], Iterator[Event]]
) -> list[Event]:
    if data == DONE:
        return []
    try:
        return list(events(decoder.decode(data)))
    except (UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise msgspec.DecodeError(str(error)) from error


def failure(error: Any, status: int = 500) -> Failure:
    """The `error` of an engine's answer, which has many shapes."""
    if isinstance(error, dict):
        code = error.get("code")
        if isinstance(code, int) and 400 <= code < 600:
            status = code
        message = error.get("message") or msgspec.json.encode(error).decode()
        return Failure(str(message), status)
    return Failure(str(error), status)


def _chat_events(chunk: _ChatChunk) -> Iterator[Event]:
    if chunk.error is not None:
        yield failure(chunk.error)
        return
    # Ollama has no word for several answers to one question, so there is one choice.
    for choice in chunk.choices[:1]:
        delta = choice.delta
        tokens = (choice.logprobs.content if choice.logprobs else None) or ()
        text = Text(
            delta.content or "",
            delta.reasoning_content or delta.reasoning or "",
            tuple(_logprob(token) for token in tokens),
        )
        if text != Text():
            yield text
        for call in delta.tool_calls or ():
            function = call.function
            yield ToolCallPart(
                call.index, call.id or "", function.name or "", function.arguments or ""
            )
        if choice.finish_reason is not None:
            yield Finish("length" if choice.finish_reason == "length" else "stop")
    if chunk.timings is not None:
        yield chunk.timings.counts()
    elif chunk.usage is not None:
        yield Counts(chunk.usage.prompt_tokens, chunk.usage.completion_tokens)


def _completion_events(chunk: _CompletionChunk) -> Iterator[Event]:
    if chunk.error is not None:
        yield failure(chunk.error)
        return
    logprobs = tuple(_logprob(token) for token in chunk.completion_probabilities)
    if chunk.stop:
        # The last message repeats the probabilities of all tokens where it has any.
        logprobs = ()
    if chunk.content or logprobs:
        yield Text(chunk.content, logprobs=logprobs)
    if chunk.stop:
        yield Finish("length" if chunk.stop_type == "limit" else "stop")
        if chunk.timings is not None:
            yield chunk.timings.counts()


def _logprob(token: _Token) -> Logprob:
    top = tuple(TokenLogprob(other.token, other.logprob) for other in token.top_logprobs)
    return Logprob(TokenLogprob(token.token, token.logprob), top)
