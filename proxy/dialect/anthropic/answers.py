"""What an engine answers to a chat, as Anthropic's message, whole or as events. Pure."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

import msgspec

from proxy.dialect.anthropic.reading import Answer, Call, Usage, read, usage
from proxy.dialect.errors import error_event, said_by_engine
from proxy.dialect.ollama.reading import DONE
from proxy.dialect.ollama.sse import SseDecoder, SseError
from proxy.dialect.rewrite import EVENT_STREAM, Rewrite, Whole, status_of
from proxy.errors import BackendDied, EngineSaid, ProxyError

PATH: Final = "/v1/messages"
REASONS: Final = {"length": "max_tokens", "tool_calls": "tool_use", "function_call": "tool_use"}
MESSAGE: Final = "msg_"
T = TypeVar("T")


class _Count(msgspec.Struct):
    input_tokens: int


_count = msgspec.json.Decoder(_Count)


def message_rewriter(streams: bool, stops: Sequence[str]) -> Rewrite:
    """For one answer. `stops` are the sequences that the request said end it."""
    return MessageStream(stops) if streams else Whole(lambda body: whole_message(body, stops))


def whole_message(body: bytes, stops: Sequence[str]) -> bytes:
    """An answer in one piece."""
    answer = _sense(read, body)
    choice = answer.choices[0] if answer.choices else None
    content: list[dict[str, Any]] = []
    if choice is not None:
        said = choice.said
        if said.thoughts:
            content.append({"type": "thinking", "thinking": said.thoughts, "signature": ""})
        if said.content:
            content.append({"type": "text", "text": said.content})
        content += [_tool_use(call) for call in said.tool_calls or ()]
    stopped = _stopped(answer.stopping_word, choice.finish_reason if choice else None, stops)
    counts = (answer.usage or Usage()).told()
    return msgspec.json.encode({**_head(answer), "content": content, **stopped, "usage": counts})


def whole_count(body: bytes) -> bytes:
    """How many tokens a request has: the one thing that is asked."""
    return msgspec.json.encode({"input_tokens": _sense(_count.decode, body).input_tokens})


class MessageStream:
    """The events of a stream."""

    content_type = EVENT_STREAM

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._decoder = SseDecoder()
        # What changes: what was told of the prompt; whether the message has begun; the block that
        # is open, as what it is and which call, how many came, and whether the last one has input;
        # by which word and why it ended, and whether that was told.
        self._counts = usage(0, 0, 0)
        self._has_begun = False
        self._open: tuple[str, int] | None = None
        self._blocks = 0
        self._has_input = False
        self._word = ""
        self._stopped: dict[str, Any] | None = None
        self._ended = False

    def feed(self, chunk: bytes) -> bytes:
        told: list[bytes] = []
        try:
            for data in self._decoder.feed(chunk):
                told += self._tell(data)
        except (SseError, msgspec.DecodeError) as error:
            self._ended = True
            died = BackendDied(f"the engine's answer made no sense: {error}")
            told.append(error_event(died, PATH))
        return b"".join(told)

    def end(self) -> bytes:
        if self._ended:
            return b""
        if self._stopped is None:
            return error_event(BackendDied("the engine's answer has no end"), PATH)
        return b"".join(self._finish(self._stopped))

    def fail(self, error: ProxyError) -> bytes | None:
        return None

    def _tell(self, data: bytes) -> Iterator[bytes]:
        if self._ended or data == DONE:
            return
        answer = read(data)
        if answer.error is not None:
            self._ended = True
            yield error_event(said_by_engine(data, status_of(data)), PATH)
            return
        # Where the last of the text comes with the end, the word comes before the reason.
        self._word = answer.stopping_word or self._word
        if progress := answer.prompt_progress:
            self._counts = usage(progress.total, progress.cache, 0)
        for choice in answer.choices[:1]:
            said = choice.said
            if said.thoughts:
                yield from self._piece(answer, "thinking", thinking=said.thoughts)
            if said.content:
                yield from self._piece(answer, "text", text=said.content)
            for call in said.tool_calls or ():
                yield from self._call(answer, call)
            if choice.finish_reason is not None:
                yield from self._begin(answer)
                self._stopped = _stopped(self._word, choice.finish_reason, self._stops)
        if answer.usage is not None:
            self._counts = answer.usage.told()

    def _begin(self, answer: Answer) -> Iterator[bytes]:
        if not self._has_begun:
            self._has_begun = True
            ended = {"stop_reason": None, "stop_sequence": None}
            message = {**_head(answer), "content": [], **ended, "usage": self._counts}
            yield _event("message_start", message=message)

    def _piece(self, answer: Answer, kind: str, **text: str) -> Iterator[bytes]:
        yield from self._begin(answer)
        if self._open != (kind, 0):
            empty = {"thinking": "", "signature": ""} if kind == "thinking" else {"text": ""}
            yield from self._next_block((kind, 0), {"type": kind, **empty})
        yield self._delta({"type": f"{kind}_delta", **text})

    def _call(self, answer: Answer, call: Call) -> Iterator[bytes]:
        yield from self._begin(answer)
        if self._open != ("tool_use", call.index):
            named = {"id": call.id or "", "name": call.function.name or ""}
            block = {"type": "tool_use", **named, "input": {}}
            yield from self._next_block(("tool_use", call.index), block)
            self._has_input = False
        arguments = call.function.arguments or ""
        if not self._has_input:
            # Anthropic's client reads each beginning as JSON, and blanks alone are none.
            arguments = arguments.lstrip()
        if arguments:
            self._has_input = True
            yield self._delta({"type": "input_json_delta", "partial_json": arguments})

    def _next_block(self, opened: tuple[str, int], block: dict[str, Any]) -> Iterator[bytes]:
        yield from self._close()
        self._open = opened
        yield _event("content_block_start", index=self._blocks, content_block=block)

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", index=self._blocks, delta=delta)

    def _close(self) -> Iterator[bytes]:
        if self._open is None:
            return
        if self._open[0] == "thinking":
            # Clients wait for it, though there is nobody here who could sign.
            yield self._delta({"type": "signature_delta", "signature": ""})
        yield _event("content_block_stop", index=self._blocks)
        self._open = None
        self._blocks += 1

    def _finish(self, stopped: dict[str, Any]) -> Iterator[bytes]:
        self._ended = True
        yield from self._close()
        yield _event("message_delta", delta=stopped, usage=self._counts)
        yield _event("message_stop")


def _sense(decode: Callable[[bytes], T], body: bytes) -> T:
    try:
        return decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EngineSaid(f"the engine's answer made no sense: {error}", status=502) from error


def _head(answer: Answer) -> dict[str, Any]:
    name = MESSAGE + answer.id.removeprefix("chatcmpl-")
    return {"id": name, "type": "message", "role": "assistant", "model": answer.model}


def _stopped(word: str, reason: str | None, stops: Sequence[str]) -> dict[str, Any]:
    if reason == "stop" and word in stops:
        return {"stop_reason": "stop_sequence", "stop_sequence": word}
    return {"stop_reason": REASONS.get(reason or "", "end_turn"), "stop_sequence": None}


def _tool_use(call: Call) -> dict[str, Any]:
    try:
        given = msgspec.json.decode(call.function.arguments or "{}")
    except (msgspec.DecodeError, RecursionError):
        given = {}  # an answer that was cut in the middle of a call
    return {"type": "tool_use", "id": call.id or "", "name": call.function.name, "input": given}


def _event(kind: str, **fields: Any) -> bytes:
    data = msgspec.json.encode({"type": kind, **fields})
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), data)
