"""How many tokens each backend generates per second, sampled from its slots while it works."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Annotated, Final

import msgspec
import structlog

from proxy.clock import Clock

SAMPLE_S: Final = 1.0
log = structlog.get_logger()

# A backend's id and generation. Each start counts from nothing.
Start = tuple[str, int]
# (task, tokens it has generated so far) by slot, as the engine tells; None where it does not say.
Progress = Mapping[int, tuple[int, int]]
ReadProgress = Callable[[Start], Awaitable[Progress | None]]


class Rates:
    """The latest rates. `busy` names the starts worth asking; an idle one is not disturbed and has
    0.
    """

    def __init__(
        self, busy: Callable[[], Iterable[Start]], read: ReadProgress, *, clock: Clock
    ) -> None:
        self._busy, self._read, self._clock = busy, read, clock
        # What changes:
        self._seen: dict[Start, tuple[float, Progress]] = {}
        self._rates: dict[Start, float] = {}

    def rate(self, backend_id: str) -> float:
        """Tokens per second over the last second or so; 0.0 while idle."""
        starts = (start for start in self._busy() if start[0] == backend_id)
        return next((self._rates.get(start, 0.0) for start in starts), 0.0)

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            await self._clock.sleep(SAMPLE_S)
            await self.sample()

    async def sample(self) -> None:
        """Ask all that are busy, at once: one that is slow or broken holds up no other."""
        busy = set(self._busy())
        for gone in self._seen.keys() - busy:
            del self._seen[gone]
            self._rates.pop(gone, None)
        await asyncio.gather(*map(self._look, busy))

    async def _look(self, start: Start) -> None:
        try:
            progress = await self._read(start)
        except Exception:
            log.exception("rate_not_read", backend=start[0])
            return
        if progress is None:
            return
        now_s = self._clock.now()
        if before := self._seen.get(start):
            generated = tokens_between(before[1], progress)
            self._rates[start] = generated / max(now_s - before[0], 1e-3)
        self._seen[start] = now_s, progress


def tokens_between(before: Progress, after: Progress) -> int:
    """Tokens that came between two looks. What a task made after the first look and before its end
    is not seen.
    """
    total = 0
    for slot, (task, tokens) in after.items():
        earlier_task, earlier = before.get(slot, (None, 0))
        total += tokens - earlier if task == earlier_task else tokens
    return max(total, 0)


class _Following(msgspec.Struct):
    n_decoded: Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)] | None = None


class _Slot(msgspec.Struct):
    id: int
    id_task: int | None = None
    next_token: list[_Following] | _Following | None = None


_slots = msgspec.json.Decoder(list[_Slot])


def progress_of(answer: bytes) -> Progress | None:
    """The progress in llama-server's answer to `GET /slots`; None for what it does not write so."""
    try:
        slots = _slots.decode(answer)
    except (msgspec.DecodeError, RecursionError):
        return None
    progress = {}
    for slot in slots:
        following = slot.next_token
        if isinstance(following, list):
            following = following[0] if following else None
        if slot.id_task is not None and following and following.n_decoded is not None:
            progress[slot.id] = slot.id_task, following.n_decoded
    return progress
