"""The requests that a model is run for, from when they come until they end: so that people see
them, and can end them.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from proxy.observe.rates import SlotProgress
from proxy.pool.work import Work

BY_OPERATOR: Final = "somebody at the proxy has ended this request"


@dataclass(slots=True, eq=False)
class OpenRequest:
    """One of them. Never what it asks."""

    id: str
    path: str
    model: str
    work: Work
    timer: asyncio.Timeout  # ends it
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    # What changes: who computes it, and since when (monotonic).
    backend: str | None = None
    asked_ns: int = 0
    prompt_tokens: int | None = None  # as its engine has said
    cancelled: bool = False

    def asks(self, backend: str) -> None:
        """A backend is asked now; after one that died, another one."""
        self.backend, self.asked_ns = backend, time.monotonic_ns()


class OpenRequests:
    """All that are here. Belongs to one event loop."""

    def __init__(self) -> None:
        # What changes:
        self._open: dict[str, OpenRequest] = {}

    def __repr__(self) -> str:
        return f"<OpenRequests {len(self._open)}>"

    def __iter__(self) -> Iterator[OpenRequest]:
        """Those that have been here longest first."""
        return iter(tuple(self._open.values()))

    @contextmanager
    def here(self, request: OpenRequest) -> Iterator[None]:
        """It is here for the length of the block."""
        # Clients may give several the same id.
        name, tries = request.id, 1
        while request.id in self._open:
            tries += 1
            request.id = f"{name}.{tries}"
        self._open[request.id] = request
        try:
            yield
        finally:
            del self._open[request.id]

    def cancel(self, request_id: str) -> bool:
        """End it, wherever it is; False: there is none of this id."""
        request = self._open.get(request_id)
        if request is None:
            return False
        if not request.timer.expired():
            request.cancelled = True
            request.timer.reschedule(asyncio.get_running_loop().time())
        return True


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the answer to one request is; of several answers all together."""

    tokens: int
    prompt_read: int | None  # while it is read


def progress_of(
    requests: Sequence[OpenRequest], slots: Mapping[int, SlotProgress]
) -> dict[str, Progress]:
    """Which slots of one backend are at which of its requests, as its tasks count up in the order
    in which it was asked. Where the numbers do not match nothing is said: one has just come, or has
    just ended. Pure.
    """
    busy = sorted((slot for slot in slots.values() if slot.busy), key=lambda slot: slot.task)
    if sum(request.work.slots for request in requests) != len(busy):
        return {}
    found = {}
    for request in sorted(requests, key=lambda request: request.asked_ns):
        its, busy = busy[: request.work.slots], busy[request.work.slots :]
        read = [slot.prompt_read for slot in its if slot.prompt_read is not None]
        tokens = sum(slot.tokens for slot in its)
        found[request.id] = Progress(tokens, sum(read) if read else None)
    return found
