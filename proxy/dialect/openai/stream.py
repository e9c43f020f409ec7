"""The answer to a request for a response, as it goes out: an engine's chat comes in. Pure."""

from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from proxy.dialect.errors import error_event, said_by_engine
from proxy.dialect.openai.chunks import NO_ANSWER, read_chunk
from proxy.dialect.openai.outputs import Event
from proxy.dialect.openai.response import Response
from proxy.dialect.openai.retold import Retold
from proxy.dialect.rewrite import EVENT_STREAM, Rewrite, Rewriter, Whole, status_of
from proxy.errors import EngineSaid, ProxyError

PATH: Final = "/v1/responses"
DONE: Final = b"[DONE]"
Keep = Callable[[dict[str, Any]], None]


def responding(make: Callable[[], Response], keep: Keep) -> Rewriter:
    """For answers to one request. `keep` gets the response when it is complete."""

    def rewriter(streams: bool) -> Rewrite:
        response = make()
        if streams:
            return Streamed(response, keep)
        return Whole(lambda body: whole(body, response, keep))

    return rewriter


def counted(streams: bool) -> Rewrite:
    """For the number of tokens that a request has."""
    return Whole(_count)


def _count(body: bytes) -> bytes:
    try:
        told = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise EngineSaid(f"the engine did not count: {error}", status=502) from error
    return msgspec.json.encode({"object": "response.input_tokens", **told})


def whole(body: bytes, response: Response, keep: Keep) -> bytes:
    """A chat's answer in one piece as a response. Raises EngineSaid for what is none."""
    chunk = read_chunk(body)
    if not chunk.choices:
        raise EngineSaid(NO_ANSWER, status=502)
    for _ in response.feed(chunk):
        pass
    *_, (_, last) = response.end()
    made = last["response"]
    keep(made)
    return msgspec.json.encode(made | ({"timings": chunk.timings} if chunk.timings else {}))


class Streamed:
    """The events of one response."""

    content_type = EVENT_STREAM

    def __init__(self, response: Response, keep: Keep) -> None:
        self._response, self._keep = response, keep
        self._retold = Retold(NO_ANSWER, self._read)
        # What changes: how many events went out, and whether that was all.
        self._count = 0
        self._is_over = False

    def feed(self, chunk: bytes) -> bytes:
        """Raises EngineSaid for what is no stream of a chat."""
        return self._retold.feed(chunk)

    def end(self) -> bytes:
        return self._over()

    def fail(self, error: ProxyError) -> bytes | None:
        self._is_over = True
        return error_event(error, PATH, self._count)

    def _read(self, data: bytes) -> bytes:
        if self._is_over:
            return b""
        if data == DONE:
            return self._over()
        chunk = read_chunk(data)
        if chunk.error is not None:
            return self.fail(said_by_engine(data, status_of(data))) or b""
        if chunk.prompt_progress is not None and not chunk.says_something:
            return b""  # this protocol has no event for it, and the response has not begun
        return self._written(self._response.feed(chunk))

    def _over(self) -> bytes:
        if self._is_over or not self._response.has_begun:
            return b""
        written = self._written(self._response.end())
        self._is_over = True
        self._keep(self._response.object("completed"))
        return written

    def _written(self, events: Iterable[Event]) -> bytes:
        lines = []
        for kind, fields in events:
            data = {"type": kind, "sequence_number": self._count, **fields}
            lines.append(b"event: %s\ndata: %s\n\n" % (kind.encode(), msgspec.json.encode(data)))
            self._count += 1
        return b"".join(lines)
