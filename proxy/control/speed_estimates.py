"""How fast a backend would be at splits of which too few were measured: gathers what
`proxy.placement.generation_speed` counts with, and says in words what a number rests on."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Literal

import structlog
from cachetools import LRUCache

from proxy.catalog.gguf import GgufError
from proxy.catalog.headers import header_at
from proxy.control.ports import Readings
from proxy.engine.types import CPU, LoadOptions, Status
from proxy.errors import Hangs
from proxy.memory.host_bandwidth import host_bandwidth
from proxy.placement.generation_speed import (
    Rates,
    TokenReads,
    least_seconds,
    reads_at,
    seconds_from,
    token_reads,
)
from proxy.pool.state import Backend, Name
from proxy.threads import MODELS

log = structlog.get_logger()

# "line": through two or more that were measured. "one": from one that was, and how fast memory is
# read. "header": from nothing but that: what it can be at most.
Basis = Literal["line", "one", "header"]
KEPT: Final = 32
BUSY: Final = "how fast main memory is read is measured once no model answers"
NO_RAM: Final = "there is too little free memory to measure how fast it is read"
APART: Final = "its experts are on devices that have no attention"


@dataclass(frozen=True, slots=True)
class SpeedEstimate:
    """Tokens a second by split where they can be known, and in words, for people, what they rest on
    or why there are none."""

    basis: Basis | None
    why: str
    speeds: Mapping[int, float] = field(default_factory=dict)


class SpeedEstimates:
    """For all backends."""

    def __init__(
        self,
        memory: Readings,
        busy: Callable[[], bool],
        measure: Callable[[int | None], float | None] = host_bandwidth,
    ) -> None:
        """`busy`: whether a model answers, which makes memory look slow, and would be held up."""
        self._memory, self._busy, self._measure = memory, busy, measure
        # What changes: bytes a second of main memory by number of threads, and what is read of a
        # start's file.
        self._host: dict[int | None, float] = {}
        self._measuring = asyncio.Lock()
        self._reads: LRUCache[Name, TokenReads | str] = LRUCache(KEPT)

    async def of(self, backend: Backend, measured: Mapping[int, float]) -> SpeedEstimate:
        """`measured` has tokens a second of at most one split."""
        status = backend.engine.known()
        if not status.layers:
            return SpeedEstimate(None, "nothing of it moves")
        reads = await self._reads_of(backend)
        if isinstance(reads, str):
            return SpeedEstimate(None, reads)
        host = await self._host_rate(backend.options.threads)
        if host is None:
            return SpeedEstimate(None, BUSY if self._busy() else NO_RAM)
        found = self._memory.latest().devices.values()
        devices = {each.name: float(each.bandwidth) for each in found if each.bandwidth}
        return estimated(status, reads, measured, {**devices, CPU: host})

    async def _reads_of(self, backend: Backend) -> TokenReads | str:
        """What a token reads, or why that is not known."""
        if backend.name not in self._reads:
            try:
                self._reads[backend.name] = await MODELS.run(partial(_read, backend.options))
            except Hangs as error:
                return str(error)
        return self._reads[backend.name]

    async def _host_rate(self, threads: int | None) -> float | None:
        async with self._measuring:
            if threads not in self._host and not self._busy():
                rate = await asyncio.to_thread(self._measure, threads)
                # One that came while it was measured has made it too low.
                if rate is not None and not self._busy():
                    self._host[threads] = rate
                    log.debug("memory_speed", bytes_per_second=round(rate), threads=threads)
        return self._host.get(threads)


def estimated(
    status: Status, reads: TokenReads, measured: Mapping[int, float], rates: Rates
) -> SpeedEstimate:
    """From one split that was measured, or from none. Pure. `rates` has main memory's."""
    if any(layer.experts not in (CPU, layer.attention_device) for layer in status.layers):
        return SpeedEstimate(None, APART)
    at = {split: reads_at(reads, status, split) for split in range(status.block_count + 1)}
    places = sorted({place for there in at.values() for place in there} - {CPU})
    unknown = [place for place in places if place not in rates]
    spoken = ", ".join(_spoken(place, rates) for place in (CPU, *places) if place in rates)
    blind = f"the speed of {' and '.join(unknown)}'s memory is not known"
    for split, speed in measured.items():
        times = {n: seconds_from(1 / speed, at[split], here, rates) for n, here in at.items()}
        less = f"; {blind}, and not counted" if unknown else ""
        from_it = f"made from N = {split}, which was measured, and how fast memory is read"
        why = f"{from_it}: {spoken}{less}"
        return SpeedEstimate("one", why, dict(_speeds(times)))
    if unknown:
        return SpeedEstimate(None, blind)
    why = f"limits: the bytes that a token reads, and how fast memory is read: {spoken}"
    times = {n: least_seconds(here, rates) for n, here in at.items()}
    return SpeedEstimate("header", why, dict(_speeds(times)))


def _speeds(times: Mapping[int, float | None]) -> Iterator[tuple[int, float]]:
    return ((split, 1 / seconds) for split, seconds in times.items() if seconds)


def _spoken(place: str, rates: Rates) -> str:
    name = "main memory" if place == CPU else place
    return f"{name} {rates[place] / 1e9:.0f} GB/s"


def _read(options: LoadOptions) -> TokenReads | str:
    try:
        found = token_reads(header_at(options.path), dense=options.dense)
    except (OSError, GgufError) as error:
        return str(error)
    except Exception:
        # A model of a kind that nobody has estimated yet: no reason to have no table.
        log.exception("reads_not_known", model=options.model)
        return "what a token of it reads is not known"
    return found or "its header does not say how many experts a token uses"
