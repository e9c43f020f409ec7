"""A stream of events that is told anew, event by event."""

from collections.abc import Callable

from proxy.dialect.ollama.sse import SseDecoder, SseError
from proxy.errors import EngineSaid


class Retold:
    """Of one answer. `no_answer`: what to say of one that is no such stream."""

    def __init__(self, no_answer: str, tell: Callable[[bytes], bytes]) -> None:
        self._no_answer, self._tell = no_answer, tell
        self._decoder = SseDecoder()

    def feed(self, chunk: bytes) -> bytes:
        """What `tell` makes of each event's data. Raises EngineSaid for what is no stream."""
        try:
            found = self._decoder.feed(chunk)
        except SseError as error:
            raise EngineSaid(f"{self._no_answer}: {error}", status=502) from error
        told = b"".join(map(self._tell, found))
        # A sign of life while a prompt is read.
        return chunk if not found and chunk.startswith(b":") and chunk.endswith(b"\n\n") else told
