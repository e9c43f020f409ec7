"""Writes answers as Ollama does: events in, lines of JSON out, its fields in its order. Pure.

What is empty or zero is left out, except where Ollama always says it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from proxy.dialect.ollama.events import Counts, Finish, Logprob, Text, TokenLogprob, ToolCallPart
from proxy.dialect.spent import Spent

Endpoint = Literal["chat", "generate"]


@dataclass(frozen=True, slots=True)
class Durations:
    """What the proxy measured, in ns: the whole request, and until the model was there."""

    total_ns: int
    load_ns: int


class Message(msgspec.Struct, kw_only=True, omit_defaults=True):
    role: str
    content: str
    thinking: str = ""
    tool_calls: list[Any] = msgspec.field(default_factory=list)


class ChatLine(msgspec.Struct, kw_only=True, omit_defaults=True):
    model: str
    created_at: str
    message: Message
    done: bool
    done_reason: str = ""
    logprobs: list[Any] = msgspec.field(default_factory=list)
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0


class GenerateLine(msgspec.Struct, kw_only=True, omit_defaults=True):
    model: str
    created_at: str
    response: str
    thinking: str = ""
    done: bool
    done_reason: str = ""
    context: list[int] = msgspec.field(default_factory=list)
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0
    logprobs: list[Any] = msgspec.field(default_factory=list)


class Writer:
    """Writes one answer of `endpoint` for the model as its client called it."""

    def __init__(
        self, endpoint: Endpoint, model: str, *, stream: bool, alternatives: bool = True
    ) -> None:
        """`alternatives`: those to the tokens that were chosen are told with their logprobs. The
        engine gives at least one, whether anybody asked for it or not."""
        self._endpoint = endpoint
        self._model = model
        self._stream = stream
        self._alternatives = alternatives
        # What has come so far; what was streamed already is only kept of `content`.
        self.content: list[str] = []
        self._thinking: list[str] = []
        self._logprobs: list[Logprob] = []
        self._calls: dict[int, ToolCallPart] = {}
        self._sent_calls = 0
        self._counts = Counts(0, 0)
        self._finish: Finish | None = None

    @property
    def finished(self) -> bool:
        """Whether the engine said that this is all."""
        return self._finish is not None

    @property
    def spent(self) -> Spent:
        """Tokens, as far as the engine has told."""
        return Spent(self._counts.prompt, None, self._counts.generated)

    def write(self, event: Text | ToolCallPart | Finish | Counts, created_at: str) -> bytes:
        """The line that `event` makes now: none, where it waits for more."""
        match event:
            case Text():
                self.content.append(event.content)
                if self._stream:
                    return _encode(self._line(event, self._whole_calls(), created_at))
                self._thinking.append(event.thinking)
                self._logprobs += event.logprobs
            case ToolCallPart():
                # Ollama's clients get calls whole: the beginning of another says that those are.
                line = b"" if event.index in self._calls else self._flush_calls(created_at)
                old = self._calls.get(event.index) or ToolCallPart(event.index)
                self._calls[event.index] = _joined(old, event)
                return line
            case Finish():
                self._finish = event
                return self._flush_calls(created_at)
            case _:
                self._counts = event
        return b""

    def end(
        self,
        created_at: str,
        durations: Durations,
        *,
        reason: str = "",
        context: Sequence[int] = (),
    ) -> bytes:
        """The last line, which says that it is the last; without streaming the only one."""
        text = Text()
        if not self._stream:
            thinking = "".join(self._thinking)
            text = Text("".join(self.content), thinking, tuple(self._logprobs))
        line = self._line(text, self._whole_calls(), created_at)
        line.done = True
        line.done_reason = reason or (self._finish.reason if self._finish else "stop")
        line.total_duration = durations.total_ns
        line.load_duration = durations.load_ns
        line.prompt_eval_count = self._counts.prompt
        line.prompt_eval_duration = self._counts.prompt_ns or 0
        line.eval_count = self._counts.generated
        line.eval_duration = self._counts.generated_ns or 0
        if isinstance(line, GenerateLine):
            line.context = list(context)
        return _encode(line)

    def _flush_calls(self, created_at: str) -> bytes:
        if not self._stream or not (calls := self._whole_calls()):
            return b""
        return _encode(self._line(Text(), calls, created_at))

    def _whole_calls(self) -> list[Any]:
        """The calls that were not told yet."""
        calls = [self._calls[index] for index in sorted(self._calls)][self._sent_calls :]
        self._sent_calls += len(calls)
        return [_call(call) for call in calls]

    def _line(self, text: Text, calls: list[Any], created_at: str) -> ChatLine | GenerateLine:
        logprobs = [_logprob(entry, self._alternatives) for entry in text.logprobs]
        if self._endpoint == "generate":
            return GenerateLine(
                model=self._model,
                created_at=created_at,
                response=text.content,
                thinking=text.thinking,
                done=False,
                logprobs=logprobs,
            )
        message = Message(
            role="assistant", content=text.content, thinking=text.thinking, tool_calls=calls
        )
        return ChatLine(
            model=self._model,
            created_at=created_at,
            message=message,
            done=False,
            logprobs=logprobs,
        )


def error_line(message: str) -> bytes:
    """An error where lines have been sent already, and no status can tell it."""
    return msgspec.json.encode({"error": message}) + b"\n"


def _encode(line: ChatLine | GenerateLine) -> bytes:
    return msgspec.json.encode(line) + b"\n"


def _joined(a: ToolCallPart, b: ToolCallPart) -> ToolCallPart:
    return ToolCallPart(a.index, a.id + b.id, a.name + b.name, a.arguments + b.arguments)


def _call(call: ToolCallPart) -> dict[str, Any]:
    try:
        arguments = msgspec.json.decode(call.arguments, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        # Cut off by the limit of tokens, or nonsense: the client still learns what was wanted.
        arguments = {}
    function = {"index": call.index, "name": call.name, "arguments": arguments}
    return {"id": call.id, "function": function} if call.id else {"function": function}


def _logprob(entry: Logprob, alternatives: bool) -> dict[str, Any]:
    written, top = _token(entry.chosen), entry.top if alternatives else ()
    return written | {"top_logprobs": [_token(t) for t in top]} if top else written


def _token(token: TokenLogprob) -> dict[str, Any]:
    raw = list(token.token.encode())
    written: dict[str, Any] = {"token": token.token, "logprob": token.logprob}
    return written | {"bytes": raw} if raw else written
