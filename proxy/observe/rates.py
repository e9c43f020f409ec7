"""How many tokens each backend generates per second, sampled from its slots while it works."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Annotated, Final, NamedTuple

import msgspec
import structlog

from proxy.clock import Bell, Clock, together

SAMPLE_S: Final = 1.0
# While nobody is served; whoever is says so.
IDLE_S: Final = 5.0
log = structlog.get_logger()

# A backend's id and generation. Each start counts from nothing.
Start = tuple[str, int]


class SlotProgress(NamedTuple):
    """How far one slot is with what it is at. Tasks count up in the order in which they came."""

    task: int
    tokens: int  # generated so far
    # Tokens of the prompt that are read, or were known from before, while it is; llama-server does
    # not say here how many it has.
    prompt_read: int | None = None
    busy: bool = True  # it is still at it
    depth: int = 0  # tokens of the conversation that it holds


class Written(NamedTuple):
    """What was seen of answers that were written between two looks, while nothing else was done."""

    tokens_per_second: float  # of each
    answers: int  # that were written at once
    depth: int  # tokens of the longest of their conversations


# By slot, as the engine tells; None where it does not say.
Progress = Mapping[int, SlotProgress]
ReadProgress = Callable[[Start], Awaitable[Progress | None]]


class Rates:
    """The latest rates. `busy` names the starts worth asking; an idle one is not disturbed and has
    0.
    """

    def __init__(
        self,
        busy: Callable[[], Iterable[Start]],
        read: ReadProgress,
        *,
        clock: Clock,
        wrote: Callable[[Start, Written], None] = lambda start, written: None,
    ) -> None:
        """`wrote` is told how fast answers were written, where all of a backend's slots did nothing
        else between two looks."""
        self._busy, self._read, self._clock, self._wrote = busy, read, clock, wrote
        # What changes:
        self._seen: dict[Start, tuple[float, Progress]] = {}
        self._rates: dict[Start, float] = {}
        self._prompt_rates: dict[Start, float] = {}
        self._work = Bell()

    def begin(self) -> None:
        """Somebody is served now: there is something to sample."""
        self._work.ring()

    def rate(self, backend_id: str) -> float:
        """Tokens per second over the last second or so; 0.0 while idle."""
        starts = (start for start in self._busy() if start[0] == backend_id)
        return next((self._rates.get(start, 0.0) for start in starts), 0.0)

    def prompt_rate(self, backend_id: str) -> float:
        """Tokens of prompts that were read per second over the last second or so."""
        starts = (start for start in self._busy() if start[0] == backend_id)
        return next((self._prompt_rates.get(start, 0.0) for start in starts), 0.0)

    def progress(self, start: Start) -> Progress:
        """How far its slots were at the last look; nothing while it is idle."""
        return self._seen[start][1] if start in self._seen else {}

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            self._work.hush()
            if not any(self._busy()):
                await self._work.wait(together(IDLE_S))
            await self._clock.sleep(SAMPLE_S)
            await self.sample()

    async def sample(self) -> None:
        """Ask all that are busy, at once: one that is slow or broken holds up no other."""
        busy = set(self._busy())
        for gone in self._seen.keys() - busy:
            del self._seen[gone]
            self._rates.pop(gone, None)
            self._prompt_rates.pop(gone, None)
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
            past_s = max(now_s - before[0], 1e-3)
            self._rates[start] = tokens_between(before[1], progress) / past_s
            self._prompt_rates[start] = read_between(before[1], progress) / past_s
            if writing := writing_between(before[1], progress):
                depth = max(slot.depth for slot in progress.values() if slot.busy)
                self._wrote(start, Written(self._rates[start] / writing, writing, depth))
        self._seen[start] = now_s, progress


def tokens_between(before: Progress, after: Progress) -> int:
    """Tokens that came between two looks. What a task made after the first look and before its end
    is not seen.
    """
    total = 0
    for slot, now in after.items():
        earlier = before.get(slot)
        total += now.tokens - (earlier.tokens if earlier and earlier.task == now.task else 0)
    return max(total, 0)


def read_between(before: Progress, after: Progress) -> int:
    """Tokens of prompts that were read between two looks, as far as the later one still sees that
    prompt."""
    total = 0
    for slot, now in after.items():
        earlier = before.get(slot)
        if earlier and earlier.task == now.task:
            total += max((now.prompt_read or 0) - (earlier.prompt_read or 0), 0)
    return total


def writing_between(before: Progress, after: Progress) -> int:
    """How many answers were written all the time between two looks; 0 where something else was done
    beside it."""
    busy = {slot: now for slot, now in after.items() if now.busy}
    for slot, now in busy.items():
        earlier = before.get(slot)
        if earlier is None or earlier.task != now.task or not earlier.tokens:
            return 0
    return len(busy) if busy.keys() == {s for s, was in before.items() if was.busy} else 0


Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]


class _Following(msgspec.Struct):
    n_decoded: Count | None = None


class _Slot(msgspec.Struct):
    id: int
    id_task: int | None = None
    is_processing: bool = True
    n_prompt_tokens_processed: Count = 0
    n_prompt_tokens_cache: Count = 0
    # Of the slot, which has the answer's too.
    n_prompt_tokens: Count = 0
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
            decoded = following.n_decoded
            read = slot.n_prompt_tokens_processed + slot.n_prompt_tokens_cache
            reads = slot.is_processing and not decoded
            progress[slot.id] = SlotProgress(
                slot.id_task,
                decoded,
                read if reads else None,
                busy=slot.is_processing,
                depth=slot.n_prompt_tokens,
            )
    return progress
