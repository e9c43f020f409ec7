"""A response: what the model says, as the items, the events and the object that OpenAI's clients
read. Pure.

The answer comes as the chunks of a chat. An answer in one piece is one chunk, so that both have the
same items.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from proxy.dialect.openai.chunks import Chunk, Delta, ToolCall
from proxy.dialect.openai.items import sealed
from proxy.dialect.openai.outputs import (
    Call,
    CustomCall,
    Event,
    Output,
    Summary,
    Text,
    Thought,
    item_events,
)
from proxy.dialect.openai.requests import Asked

# What a chat calls the end of an answer that has no more room.
CUT: Final = "length"
NewId = Callable[[str], str]  # makes one that begins so


class Response:
    """One response while it is said. `now_s` is the time of day."""

    def __init__(self, asked: Asked, new_id: NewId, now_s: Callable[[], float]) -> None:
        self._asked, self._new_id, self._now_s = asked, new_id, now_s
        self._head = {"id": new_id("resp_"), "object": "response", "created_at": int(now_s())}
        self._model = ""
        # What changes: the items that are complete, the one that is said, which call of the chat
        # that is, and why it ended.
        self._done: list[dict[str, Any]] = []
        self._open: Output | None = None
        self._call: int | None = None
        self._reason: str | None = None
        self._usage: Mapping[str, Any] | None = None
        self._timings: Mapping[str, Any] | None = None
        self.has_begun = False

    def feed(self, chunk: Chunk) -> Iterator[Event]:
        """The events of more of the answer."""
        if not self.has_begun:
            self.has_begun, self._model = True, chunk.model
            yield "response.created", {"response": self.object("in_progress")}
            yield "response.in_progress", {"response": self.object("in_progress")}
        for choice in chunk.choices:
            said = choice.delta or choice.message
            if said is not None:
                logprobs = choice.logprobs.content if choice.logprobs else None
                yield from self._say(said, self._logprobs(logprobs or []))
            self._reason = choice.finish_reason or self._reason
        self._usage = chunk.usage or self._usage
        self._timings = chunk.timings or self._timings

    def end(self) -> Iterator[Event]:
        """The last events. Always `response.completed`: several official clients know no other end,
        and its status says if the answer was cut."""
        yield from self._close()
        told: dict[str, Any] = {"response": self.object("completed")}
        if self._timings:
            told["timings"] = self._timings
        yield "response.completed", told

    @property
    def output(self) -> list[dict[str, Any]]:
        """The items that are complete."""
        return self._done

    def object(self, status: str) -> dict[str, Any]:
        """All that there is of it."""
        over = status == "completed"
        cut = over and self._reason == CUT
        return {
            **self._head,
            "status": "incomplete" if cut else status,
            "background": False,
            "completed_at": int(self._now_s()) if over and not cut else None,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "model": self._model,
            "output": list(self._done),
            "service_tier": "default",
            "truncation": "disabled",
            **self._asked.repeats,
            "usage": _usage(self._usage) if over else None,
        }

    def _say(self, said: Delta, logprobs: list[Any]) -> Iterator[Event]:
        if said.reasoning_content:
            if not isinstance(self._open, Thought):
                yield from self._start(self._thought())
            yield from self._add(said.reasoning_content, [])
        if said.content:
            if not isinstance(self._open, Text):
                yield from self._start(Text(self._new_id("msg_"), len(self._done) + self._ahead))
            yield from self._add(said.content, logprobs)
        for number, call in enumerate(said.tool_calls or ()):
            yield from self._say_call(call, number if call.index is None else call.index)

    def _say_call(self, call: ToolCall, index: int) -> Iterator[Event]:
        if self._call != index or not isinstance(self._open, Call):
            yield from self._start(self._called(call))
            self._call = index
        if call.function.arguments:
            yield from self._add(call.function.arguments, [])

    def _thought(self) -> Output:
        kind = Summary if self._asked.summarises else Thought
        seal = sealed if self._asked.seals else None
        return kind(self._new_id("rs_"), len(self._done) + self._ahead, seal)

    def _called(self, call: ToolCall) -> Output:
        name, tools = call.function.name or "", self._asked.tools
        space, own = tools.spaces.get(name, ("", name))
        call_id = call.id or self._new_id("call_")
        index = len(self._done) + self._ahead
        if name in tools.custom:
            return CustomCall(self._new_id("ctc_"), index, call_id, name)
        return Call(self._new_id("fc_"), index, call_id, own, space)

    @property
    def _ahead(self) -> int:
        return 0 if self._open is None else 1

    def _start(self, output: Output) -> Iterator[Event]:
        yield from self._close("completed")
        self._open, self._call = output, None
        yield from item_events(output, len(self._done))
        yield from output.begin()

    def _add(self, delta: str, logprobs: list[Any]) -> Iterator[Event]:
        assert self._open is not None
        yield from self._open.add(delta, logprobs)

    def _close(self, status: str | None = None) -> Iterator[Event]:
        if self._open is None:
            return
        yield from self._open.end()
        item = self._open.item(status or ("incomplete" if self._reason == CUT else "completed"))
        yield "response.output_item.done", {"output_index": len(self._done), "item": item}
        self._done.append(item)
        self._open = None

    def _logprobs(self, given: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What was asked for: llama-server lists at least the token itself."""
        most = self._asked.repeats.get("top_logprobs") or 0
        return [
            {
                **{key: each.get(key) for key in ("token", "bytes", "logprob")},
                "top_logprobs": [
                    {key: top.get(key) for key in ("token", "bytes", "logprob")}
                    for top in (each.get("top_logprobs") or [])[:most]
                ],
            }
            for each in given
        ]


def _usage(usage: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A chat's counts as a response's. How many tokens were thoughts is not told."""
    if usage is None:
        return None
    read, made = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
    details = usage.get("prompt_tokens_details") or {}
    thoughts = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens", 0)
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": details.get("cached_tokens", 0)},
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": thoughts},
        "total_tokens": usage.get("total_tokens", read + made),
    }
