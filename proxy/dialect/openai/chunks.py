"""What an engine says in answer to a chat, streamed or in one piece: of its JSON what a response is
made of. Pure."""

from typing import Any

import msgspec

from proxy.errors import EngineSaid

NO_ANSWER = "the engine's answer is none of a chat"


class Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class ToolCall(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: Function = msgspec.field(default_factory=Function)


class Delta(msgspec.Struct):
    """A piece of the answer, or all of it."""

    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None


class Logprobs(msgspec.Struct):
    content: list[dict[str, Any]] | None = None


class Choice(msgspec.Struct):
    delta: Delta | None = None
    message: Delta | None = None
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class Chunk(msgspec.Struct):
    choices: list[Choice] = msgspec.field(default_factory=list)
    model: str = ""
    usage: dict[str, Any] | None = None
    timings: dict[str, Any] | None = None
    prompt_progress: Any = None  # while it is read; a call that is forced may begin with it
    error: Any = None

    @property
    def says_something(self) -> bool:
        """Whether any of the answer is in it."""
        said = [choice.delta for choice in self.choices if choice.delta is not None]
        return any(one.content or one.reasoning_content or one.tool_calls for one in said)


_decoder = msgspec.json.Decoder(Chunk)


def read_chunk(data: bytes) -> Chunk:
    """Raises EngineSaid for what is no part of a chat's answer."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EngineSaid(f"{NO_ANSWER}: {error}", status=502) from error
