"""Cuts a stream of server-sent events into the data of each event, however its bytes arrive."""

from typing import Final

# One event is a few tokens, or one tool call; more is not an engine that we could talk to.
MAX_EVENT_BYTES: Final = 1 << 26


class SseError(Exception):
    """The stream is not one of events, or one of them has no end."""


class SseDecoder:
    """Feed it bytes, get events. Lines may end in LF or CRLF; everything but `data` is skipped."""

    def __init__(self) -> None:
        # What changes: the line that has begun, and the data lines of the event that has begun.
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of all events that `chunk` completes. Raises SseError for one without an end."""
        lines = (self._rest + chunk).split(b"\n")
        self._rest = lines.pop()
        events = []
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                events.append(b"\n".join(self._data))
                self._data.clear()
        if len(self._rest) + sum(map(len, self._data)) > MAX_EVENT_BYTES:
            raise SseError(f"an event of more than {MAX_EVENT_BYTES} bytes")
        return events
