"""What the engines said lately, by model, and live readers of it (`GET /logs/stream`)."""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self

RING_LINES = 1000
READER_LINES = 1000


class LogLine(NamedTuple):
    """One line of an engine's output. `number` counts all lines of the book, so it gives their
    order."""

    number: int
    model: str
    backend: str
    text: str


class LogBuffer:
    """A ring of recent lines for each model, which outlives the model's backends: the last words
    stay readable."""

    def __init__(self, ring_lines: int = RING_LINES, reader_lines: int = READER_LINES) -> None:
        self._ring_lines = ring_lines
        self._reader_lines = reader_lines
        self._rings: dict[str, deque[LogLine]] = {}
        self._readers: set[LogReader] = set()
        self._written = 0
        self._closed = False

    def write(self, model: str, backend: str, text: str) -> None:
        """Add a line. Never waits: a reader that does not keep up loses lines instead."""
        self._written += 1
        line = LogLine(self._written, model, backend, text)
        self._rings.setdefault(model, deque(maxlen=self._ring_lines)).append(line)
        for reader in self._readers:
            reader.offer(line)

    def recent(self, model: str | None = None) -> list[LogLine]:
        """The lines kept for `model`, or for all models, oldest first."""
        if model is not None:
            return list(self._rings.get(model, ()))
        return list(heapq.merge(*self._rings.values()))

    def read(self, model: str | None = None) -> "LogReader":
        """A reader of the lines to come, of one model or of all. Use it in a `with` block."""
        return LogReader(self._readers, model, self._reader_lines, lambda: self._closed)

    def close(self) -> None:
        """Have every reader come to the end of what there is; lines are still kept."""
        self._closed = True
        for reader in self._readers:
            reader.wake()


class LogReader:
    """An async iterator over new lines, with a bounded memory, until the buffer is closed."""

    def __init__(
        self,
        readers: set["LogReader"],
        model: str | None,
        max_lines: int,
        closed: Callable[[], bool],
    ) -> None:
        self._readers, self._closed = readers, closed
        self._model = model
        self._lines: deque[LogLine] = deque(maxlen=max_lines)
        self._lost = 0
        self._news = asyncio.Event()

    def __enter__(self) -> Self:
        self._readers.add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._readers.discard(self)

    def offer(self, line: LogLine) -> None:
        if self._model not in (None, line.model):
            return
        if len(self._lines) == self._lines.maxlen:
            self._lost += 1
        self._lines.append(line)
        self.wake()

    def wake(self) -> None:
        self._news.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> LogLine:
        while not self._lines:
            if self._closed():
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        if self._lost:
            # Told in the stream itself: whoever reads it should not take the gap for silence.
            first, lost, self._lost = self._lines[0], self._lost, 0
            return LogLine(
                first.number - 1,
                first.model,
                first.backend,
                f"... {lost} lines lost, read faster ...",
            )
        return self._lines.popleft()
