"""Makes calls of tools of the JSON that `forced_call` made a chat answer with. Pure."""

import random
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from proxy.dialect.ollama.sse import SseDecoder, SseError
from proxy.dialect.rewrite import EVENT_STREAM, Rewrite, Whole
from proxy.errors import EngineSaid, ProxyError

HEAD: Final = re.compile(
    r'[\s,\[\]}]*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*', re.DOTALL
)
# What may follow the last call, or be the beginning of one that was cut.
REST: Final = re.compile(r"[\s,\[\]}]*(\{.*)?", re.DOTALL)
# What is raised where something else stands than an engine would say.
NO_ANSWER: Final = (TypeError, KeyError, AttributeError, ValueError, RecursionError)
# Mistral's templates take no other ids.
ID_LENGTH: Final = 9
ID_CHARACTERS: Final = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True)
class Piece:
    """Some of a call: its first piece has the name, all together have the arguments as JSON."""

    index: int
    name: str | None = None
    arguments: str = ""

    def told(self) -> dict[str, Any]:
        """As a delta of OpenAI's."""
        if self.name is None:
            return {"index": self.index, "function": {"arguments": self.arguments}}
        call_id = "".join(random.choices(ID_CHARACTERS, k=ID_LENGTH))
        function = {"name": self.name, "arguments": self.arguments}
        return {"index": self.index, "id": call_id, "type": "function", "function": function}


class CallScanner:
    """Reads a call, or a list of calls, however its text is cut."""

    def __init__(self) -> None:
        # What changes: what is not understood yet; how many calls have begun; whether the arguments
        # of the last one are being read, how deep in them, and what of a string.
        self._held = ""
        self.calls = 0
        self._in_arguments = False
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def feed(self, text: str) -> Iterator[Piece]:
        self._held += text
        while self._held:
            if self._in_arguments:
                if arguments := self._more_arguments():
                    yield Piece(self.calls - 1, arguments=arguments)
            elif head := HEAD.match(self._held):
                self._held = self._held[head.end() :]
                self.calls += 1
                self._in_arguments = True
                yield Piece(self.calls - 1, name=msgspec.json.decode(head[1]))
            else:
                return

    def rest(self) -> str:
        """What is no call, at the end."""
        return "" if REST.fullmatch(self._held) else self._held

    def _more_arguments(self) -> str:
        """What is there of the arguments, without the blanks around values: some clients read each
        beginning of it as JSON."""
        said = []
        for at, character in enumerate(self._held):
            if self._in_string or not character.isspace():
                said.append(character)
            if self._in_string:
                if self._escaped:
                    self._escaped = False
                elif character == "\\":
                    self._escaped = True
                elif character == '"':
                    self._in_string = False
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self._in_arguments = False
                    self._held = self._held[at + 1 :]
                    return "".join(said)
        self._held = ""
        return "".join(said)


def call_rewriter(streams: bool) -> Rewrite:
    """For one answer to a chat that `force_call` has changed."""
    return CallStream() if streams else Whole(_whole)


class CallStream:
    """The events of a stream."""

    content_type = EVENT_STREAM

    def __init__(self) -> None:
        self._decoder = SseDecoder()
        self._scanners: dict[int, CallScanner] = {}

    def feed(self, chunk: bytes) -> bytes:
        try:
            return b"".join(b"data: %s\n\n" % data for data in self._events(chunk))
        except (SseError, *NO_ANSWER) as error:
            raise EngineSaid(f"the engine's answer made no sense: {error}", status=502) from error

    def end(self) -> bytes:
        return b""

    def fail(self, error: ProxyError) -> bytes | None:
        return None

    def _events(self, chunk: bytes) -> Iterator[bytes]:
        for data in self._decoder.feed(chunk):
            try:
                told = msgspec.json.decode(data)
            except msgspec.DecodeError:
                told = None  # the mark of the end
            is_answer = isinstance(told, dict) and told.get("choices")
            if not is_answer or "prompt_progress" in told:
                yield data
                continue
            told["choices"] = [choice for choice in told["choices"] if self._change(choice)]
            if told["choices"]:
                yield msgspec.json.encode(told)

    def _change(self, choice: dict[str, Any]) -> bool:
        """Whether there is anything left to say."""
        scanner = self._scanners.setdefault(choice.get("index", 0), CallScanner())
        delta = choice["delta"] = choice.get("delta") or {}
        if text := delta.get("content"):
            delta.pop("content")
            if calls := [piece.told() for piece in scanner.feed(text)]:
                delta["tool_calls"] = calls
        if choice.get("finish_reason") is not None:
            _finish(choice, delta, scanner)
            return True
        return bool(delta)


def _whole(body: bytes) -> bytes:
    try:
        told = msgspec.json.decode(body)
        for choice in told["choices"]:
            _change_whole(choice)
    except (msgspec.DecodeError, *NO_ANSWER) as error:
        raise EngineSaid(f"the engine's answer made no sense: {error}", status=502) from error
    return msgspec.json.encode(told)


def _change_whole(choice: dict[str, Any]) -> None:
    message, scanner = choice["message"], CallScanner()
    calls: dict[int, dict[str, Any]] = {}
    for piece in scanner.feed(message.get("content") or ""):
        if piece.name is not None:
            made = piece.told()
            calls[made.pop("index")] = made
        else:
            calls[piece.index]["function"]["arguments"] += piece.arguments
    # The beginning of a call that was cut is none, and no text either.
    message["content"] = None
    if calls:
        message["tool_calls"] = list(calls.values())
    _finish(choice, message, scanner)


def _finish(choice: dict[str, Any], said: dict[str, Any], scanner: CallScanner) -> None:
    if scanner.calls and choice.get("finish_reason") == "stop":
        choice["finish_reason"] = "tool_calls"
    if not scanner.calls and (rest := scanner.rest()):
        # An engine that did not obey.
        said["content"] = rest
