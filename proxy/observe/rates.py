"""How many tokens each backend generates per second, sampled from its slots while it works."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import structlog

SAMPLE_S = 1.0
log = structlog.get_logger()

# (task, tokens it has generated so far) by slot, as the engine tells; None where it does not say.
Progress = Mapping[int, tuple[int, int]]
ReadProgress = Callable[[str], Awaitable[Progress | None]]


class Rates:
    """The latest rates. `busy` names the backends worth asking; an idle one is not disturbed and
    has 0.
    """

    def __init__(self, busy: Callable[[], Iterable[str]], read: ReadProgress) -> None:
        self._busy = busy
        self._read = read
        # What changes:
        self._seen: dict[str, tuple[float, Progress]] = {}
        self._rates: dict[str, float] = {}

    def rate(self, backend_id: str) -> float:
        """Tokens per second over the last second or so; 0.0 while idle."""
        return self._rates.get(backend_id, 0.0)

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            await asyncio.sleep(SAMPLE_S)
            await self.sample(asyncio.get_running_loop().time())

    async def sample(self, now_s: float) -> None:
        busy = list(self._busy())
        for gone in self._seen.keys() - busy:
            del self._seen[gone]
            self._rates.pop(gone, None)
        for backend_id in busy:
            progress = await self._read(backend_id)
            if progress is None:
                continue
            if before := self._seen.get(backend_id):
                generated = tokens_between(before[1], progress)
                self._rates[backend_id] = generated / max(now_s - before[0], 1e-3)
            self._seen[backend_id] = now_s, progress


def tokens_between(before: Progress, after: Progress) -> int:
    """Tokens that came between two looks. What a task made after the first look and before its end
    is not seen.
    """
    total = 0
    for slot, (task, tokens) in after.items():
        earlier_task, earlier = before.get(slot, (None, 0))
        total += tokens - earlier if task == earlier_task else tokens
    return max(total, 0)


def progress_of(slots: Any) -> Progress:
    """The progress in llama-server's answer to `GET /slots`."""
    progress = {}
    for slot in slots if isinstance(slots, list) else ():
        following = slot.get("next_token")
        following = following[0] if isinstance(following, list) and following else following
        if isinstance(following, dict) and "id_task" in slot:
            progress[int(slot["id"])] = int(slot["id_task"]), int(following.get("n_decoded", 0))
    return progress
