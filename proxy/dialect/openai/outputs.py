"""The items that a response is made of, each as the events that tell of it. Pure.

An event is its type and its fields; who numbers and writes them is `stream`.
"""

from collections.abc import Iterator
from typing import Any, Final, Protocol

import msgspec

Event = tuple[str, dict[str, Any]]
CONTENT: Final = {"content_index": 0}
SUMMARY: Final = {"summary_index": 0}


class Output(Protocol):
    """One item while it is said."""

    def begin(self) -> Iterator[Event]:
        """It is there."""

    def add(self, delta: str, logprobs: list[Any]) -> Iterator[Event]:
        """More of it."""

    def end(self) -> Iterator[Event]:
        """It is all there."""

    def item(self, status: str) -> dict[str, Any]:
        """It as a whole."""


def item_events(output: Output, index: int) -> Iterator[Event]:
    """The beginning of an item."""
    item = output.item("in_progress")
    yield "response.output_item.added", {"output_index": index, "item": item}


class _Said:
    """What all have in common: who they are, and what was said so far."""

    def __init__(self, id: str, index: int) -> None:
        self.id = id
        self._at = {"item_id": id, "output_index": index}
        # What changes:
        self._pieces: list[str] = []
        self._logprobs: list[Any] = []

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def _take(self, delta: str, logprobs: list[Any]) -> None:
        self._pieces.append(delta)
        self._logprobs += logprobs


class Text(_Said):
    """What the model says to whoever asks."""

    def begin(self) -> Iterator[Event]:
        yield "response.content_part.added", {**self._at, **CONTENT, "part": self._part()}

    def add(self, delta: str, logprobs: list[Any]) -> Iterator[Event]:
        self._take(delta, logprobs)
        told = {**self._at, **CONTENT, "delta": delta, "logprobs": logprobs}
        yield "response.output_text.delta", told

    def end(self) -> Iterator[Event]:
        told = {**self._at, **CONTENT, "text": self.text, "logprobs": self._logprobs}
        yield "response.output_text.done", told
        yield "response.content_part.done", {**self._at, **CONTENT, "part": self._part()}

    def item(self, status: str) -> dict[str, Any]:
        content = [] if status == "in_progress" else [self._part()]
        kind = {"id": self.id, "type": "message", "status": status}
        return {**kind, "role": "assistant", "content": content}

    def _part(self) -> dict[str, Any]:
        part = {"type": "output_text", "text": self.text, "annotations": []}
        return {**part, "logprobs": self._logprobs}


class Thought(_Said):
    """What the model says to itself. `seal` makes of it what clients keep and send back."""

    def __init__(self, id: str, index: int, seal: Any = None) -> None:
        super().__init__(id, index)
        self._seal = seal

    def begin(self) -> Iterator[Event]:
        yield "response.content_part.added", {**self._at, **CONTENT, "part": self._part()}

    def add(self, delta: str, logprobs: list[Any]) -> Iterator[Event]:
        self._take(delta, [])
        yield "response.reasoning_text.delta", {**self._at, **CONTENT, "delta": delta}

    def end(self) -> Iterator[Event]:
        yield "response.reasoning_text.done", {**self._at, **CONTENT, "text": self.text}
        yield "response.content_part.done", {**self._at, **CONTENT, "part": self._part()}

    def item(self, status: str) -> dict[str, Any]:
        parts = [] if status == "in_progress" else [self._part()]
        return {**self._head(status), "summary": [], "content": parts}

    def _head(self, status: str) -> dict[str, Any]:
        sealed = self._seal(self.text) if self._seal and status != "in_progress" else None
        kind = {"id": self.id, "type": "reasoning", "status": status}
        return {**kind, "encrypted_content": sealed}

    def _part(self) -> dict[str, Any]:
        return {"type": "reasoning_text", "text": self.text}


class Summary(Thought):
    """A thought that is shown as its own summary, for clients that show only those."""

    def begin(self) -> Iterator[Event]:
        yield (
            "response.reasoning_summary_part.added",
            {
                **{**self._at, **SUMMARY, "part": self._part()},
            },
        )

    def add(self, delta: str, logprobs: list[Any]) -> Iterator[Event]:
        self._take(delta, [])
        yield "response.reasoning_summary_text.delta", {**self._at, **SUMMARY, "delta": delta}

    def end(self) -> Iterator[Event]:
        yield "response.reasoning_summary_text.done", {**self._at, **SUMMARY, "text": self.text}
        yield (
            "response.reasoning_summary_part.done",
            {
                **{**self._at, **SUMMARY, "part": self._part()},
            },
        )

    def item(self, status: str) -> dict[str, Any]:
        parts = [] if status == "in_progress" else [self._part()]
        return {**self._head(status), "summary": parts}

    def _part(self) -> dict[str, Any]:
        return {"type": "summary_text", "text": self.text}


class Call(_Said):
    """A function that the model wants called. `space` is its namespace, if it has one."""

    def __init__(self, id: str, index: int, call_id: str, name: str, space: str = "") -> None:
        super().__init__(id, index)
        self._call_id, self._name = call_id, name
        self._space = {"namespace": space} if space else {}

    def begin(self) -> Iterator[Event]:
        yield from ()

    def add(self, delta: str, logprobs: list[Any]) -> Iterator[Event]:
        self._take(delta, [])
        yield "response.function_call_arguments.delta", {**self._at, "delta": delta}

    def end(self) -> Iterator[Event]:
        told = {**self._at, "name": self._name, "arguments": self.text}
        yield "response.function_call_arguments.done", told

    def item(self, status: str) -> dict[str, Any]:
        kind = {"id": self.id, "type": "function_call", "status": status}
        named = {"call_id": self._call_id, "name": self._name, **self._space}
        return {**kind, **named, "arguments": self.text}


class CustomCall(Call):
    """A custom tool that the model wants called: its text is the one argument of a function, and
    is known when that is complete."""

    def add(self, delta: str, logprobs: list[Any]) -> Iterator[Event]:
        self._take(delta, [])
        yield from ()

    def end(self) -> Iterator[Event]:
        yield "response.custom_tool_call_input.delta", {**self._at, "delta": self._input()}
        yield "response.custom_tool_call_input.done", {**self._at, "input": self._input()}

    def item(self, status: str) -> dict[str, Any]:
        kind = {"id": self.id, "type": "custom_tool_call", "status": status}
        given = "" if status == "in_progress" else self._input()
        return {**kind, "call_id": self._call_id, "name": self._name, "input": given}

    def _input(self) -> str:
        try:
            given = msgspec.json.decode(self.text)
        except (msgspec.DecodeError, RecursionError):
            return self.text  # it was cut off
        text = given.get("input") if isinstance(given, dict) else given
        return text if isinstance(text, str) else self.text
