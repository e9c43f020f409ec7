"""An engine's answer that goes out changed: where a protocol wants another shape than the engine's.
Most answers pass as they come, and never get here. Pure: bytes in, bytes out, however they are cut.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import msgspec

from proxy.dialect.body import Body
from proxy.dialect.errors import dialect_of, error_body, error_event, said_by_engine
from proxy.errors import ProxyError

JSON: Final = "application/json"
EVENT_STREAM: Final = "text/event-stream"
# How llama-server tells that a stream of OpenAI's chats and completions ends by an error. In a
# text the quotes would have backslashes.
BROKEN: Final = b'data: {"error":'


class Rewrite(Protocol):
    """One answer. It may hold bytes back, but what it has given out is out."""

    @property
    def content_type(self) -> str:
        """Of what goes out."""

    def feed(self, chunk: bytes) -> bytes:
        """What goes out for more of the answer; may be nothing yet."""

    def end(self) -> bytes:
        """What goes out last: the answer is whole."""

    def fail(self, error: ProxyError) -> bytes | None:
        """The event that tells of `error` in the middle of a stream; None: the protocol's usual."""


# Makes one for each try: a try that fails before its first byte leaves nothing behind. It is told
# whether the answer is an event stream; None: such an answer passes as it comes.
Rewriter = Callable[[bool], Rewrite | None]


@dataclass(frozen=True, slots=True)
class Translated:
    """A request of another protocol as an engine takes it. `defaults` count least of all."""

    target: str
    body: Body
    rewriter: Rewriter
    defaults: Mapping[str, Any] = field(default_factory=dict)


class Whole:
    """An answer in one piece, changed as a whole."""

    content_type = JSON

    def __init__(self, change: Callable[[bytes], bytes]) -> None:
        self._change = change
        # What changes:
        self._pieces: list[bytes] = []

    def feed(self, chunk: bytes) -> bytes:
        self._pieces.append(chunk)
        return b""

    def end(self) -> bytes:
        return self._change(b"".join(self._pieces))

    def fail(self, error: ProxyError) -> bytes | None:
        return None


class Chain:
    """An answer that is changed twice."""

    def __init__(self, first: Rewrite, second: Rewrite) -> None:
        self._first, self._second = first, second
        self.content_type = second.content_type

    def feed(self, chunk: bytes) -> bytes:
        changed = self._first.feed(chunk)
        return self._second.feed(changed) if changed else b""

    def end(self) -> bytes:
        last = self._first.end()
        return (self._second.feed(last) if last else b"") + self._second.end()

    def fail(self, error: ProxyError) -> bytes | None:
        return self._second.fail(error)


def chained(first: Rewriter, second: Rewriter | None) -> Rewriter:
    """Changes by `first`, and then by `second`."""

    def rewriter(streams: bool) -> Rewrite | None:
        made = [each for each in (first(streams), second and second(streams)) if each]
        return Chain(*made) if len(made) > 1 else next(iter(made), None)

    return rewriter


class Stream:
    """A stream of OpenAI's that passes as it comes, but for the error that may end it."""

    content_type = EVENT_STREAM

    def __init__(self, path: str) -> None:
        self._path = path

    def feed(self, chunk: bytes) -> bytes:
        begins = chunk.find(BROKEN)
        if begins < 0:
            return chunk
        told = chunk[begins:].removeprefix(b"data: ").rstrip()
        return chunk[:begins] + error_event(said_by_engine(told, status_of(told)), self._path)

    def end(self) -> bytes:
        return b""

    def fail(self, error: ProxyError) -> bytes | None:
        return None


def streamed(path: str) -> Rewriter:
    """For answers of OpenAI's that pass as they come."""
    return lambda streams: Stream(path) if streams else None


def status_of(body: bytes) -> int:
    """The status that an engine's error names in its body; 500 where it names none."""
    try:
        told = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return 500
    inner = told.get("error") if isinstance(told, dict) else None
    code = inner.get("code") if isinstance(inner, dict) else None
    return code if isinstance(code, int) and not isinstance(code, bool) else 500


class EngineError(Whole):
    """An engine's error in the shape of the protocol that is spoken at `path`. Its `status` is
    known at the end: engines take some of what is wrong with requests for their own fault."""

    def __init__(self, status: int, path: str) -> None:
        super().__init__(self._told)
        self._dialect = dialect_of(path)
        # What changes:
        self.status = status

    def _told(self, body: bytes) -> bytes:
        error = said_by_engine(body, self.status)
        self.status = error.status
        return error_body(error, self._dialect)
