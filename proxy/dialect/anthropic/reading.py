"""What engines answer to a chat, as far as a message of Anthropic's has a place for it. Pure."""

from typing import Any

import msgspec


class Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class Call(msgspec.Struct):
    """A call of a tool; in a stream, a piece of one: those with the same `index` are one call."""

    index: int = 0
    id: str | None = None
    function: Function = msgspec.field(default_factory=Function)


class Said(msgspec.Struct):
    """A message, or a piece of one."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None  # as newer vLLM calls it
    tool_calls: list[Call] | None = None

    @property
    def thoughts(self) -> str:
        return self.reasoning_content or self.reasoning or ""


class Choice(msgspec.Struct):
    delta: Said | None = None
    message: Said | None = None
    finish_reason: str | None = None

    @property
    def said(self) -> Said:
        return self.delta or self.message or Said()


class _Details(msgspec.Struct):
    cached_tokens: int = 0


class Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None

    def told(self) -> dict[str, int]:
        """As Anthropic tells it, who does not count what was in the cache as input."""
        details = self.prompt_tokens_details
        cached = details.cached_tokens if details else 0
        return usage(self.prompt_tokens, cached, self.completion_tokens)


class Progress(msgspec.Struct):
    """How much of the prompt has been read; `cache` of it was in the cache."""

    total: int = 0
    cache: int = 0


class Verbose(msgspec.Struct):
    stopping_word: str = ""


class Answer(msgspec.Struct):
    """An answer in one piece, or one event of a stream."""

    id: str = ""
    model: str = ""
    choices: list[Choice] = msgspec.field(default_factory=list)
    usage: Usage | None = None
    prompt_progress: Progress | None = None
    verbose: Verbose | None = msgspec.field(default=None, name="__verbose")
    error: Any = None

    @property
    def stopping_word(self) -> str:
        return self.verbose.stopping_word if self.verbose else ""


_decoder = msgspec.json.Decoder(Answer)


def read(data: bytes) -> Answer:
    """Raises msgspec.DecodeError for what no such engine says."""
    try:
        return _decoder.decode(data)
    except (UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise msgspec.DecodeError(str(error)) from error


def usage(prompt: int, cached: int, generated: int) -> dict[str, int]:
    """Tokens, as a message tells them."""
    return {
        "input_tokens": max(prompt - cached, 0),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": generated,
    }
