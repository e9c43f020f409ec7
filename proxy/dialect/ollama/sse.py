"""Cuts a stream of server-sent events into the data of each event, however its bytes arrive."""

from typing import Final

# One event is a few tokens, or one tool call; more is not an engine that we could talk to.
MAX_EVENT_BYTES: Final = 1 << 26


class SseError(Exception):
    """The stream is not one of events, or one of them has no end."""


class SseDecoder:
    """Feed it bytes, get events. Lines may end in LF or CRLF; everything but `data` is skipped."""

    def __init__(self) -> None:
        # What changes: the pieces of the line that has begun, the data lines of the event that has
        # begun, and how much these are together.
        self._rest: list[bytes] = []
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of all events that `chunk` completes. Raises SseError for one without an end."""
        first, *lines = chunk.split(b"\n")
        # Put together once it is whole: with each piece would take the square of its length.
        self._rest.append(first)
        self._size += len(first)
        events = []
        if lines:
            whole, self._rest = b"".join(self._rest), [lines.pop()]
            for line in (whole, *lines):
                line = line.removesuffix(b"\r")
                if line.startswith(b"data:"):
                    self._data.append(line[5:].removeprefix(b" "))
                elif not line and self._data:
                    events.append(b"\n".join(self._data))
                    self._data.clear()
            # A line without anything takes room too.
            self._size = len(self._rest[0]) + sum(len(line) + 1 for line in self._data)
        if self._size > MAX_EVENT_BYTES:
            raise SseError(f"an event of more than {MAX_EVENT_BYTES} bytes")
        return events
