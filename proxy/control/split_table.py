"""What each split of a backend would give: what fits, what devices would hold, and how fast it was
or would be. For people who choose one.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from proxy.catalog.gguf import GgufError
from proxy.control.desired import DesiredStates
from proxy.control.headroom import Headroom
from proxy.control.speed_curve import Curve
from proxy.control.speed_estimates import SpeedEstimate, SpeedEstimates
from proxy.control.speed_learned import LearnedSpeeds
from proxy.control.speed_store import device_ids, engine_id, file_of, load, model_id
from proxy.engine.types import CPU, Device, LoadOptions, Status
from proxy.errors import Hangs
from proxy.placement.assign import assign, placement, projected
from proxy.pool.state import Backend
from proxy.split import AUTO, Split
from proxy.threads import MODELS

# What takes as long for a token at two splits tells nothing of a third one.
LEAST_POINTS: Final = 2


class SplitTable:
    """For all backends; asked when somebody looks at one."""

    def __init__(
        self,
        *,
        desired: DesiredStates,
        headroom: Headroom,
        speeds: LearnedSpeeds,
        estimates: SpeedEstimates,
        state: Callable[[], Path],
    ) -> None:
        """`state`: the policies' `catalog.state`, where curves are kept."""
        self._desired, self._headroom, self._speeds = desired, headroom, speeds
        self._estimates, self._state = estimates, state

    async def of(self, backend: Backend) -> dict[str, Any]:
        """{"least", "auto", "splits", "estimate"}: the fewest layers on the CPU that memory allows,
        what "auto" would choose now, a row for each number, and what estimates among them rest on.
        None where nothing is known."""
        status = backend.engine.known()
        devices = self._headroom.devices_of(backend)
        bench = await _curve(self._state(), backend.options, devices)
        points = {p.moe_cpu_layers: (p.generation, p.prompt) for p in bench.points} if bench else {}
        traffic = await self._speeds.of(backend)
        estimate = line_through(status, measured(points, traffic))
        if estimate is None:
            estimate = await self._estimates.of(backend, measured(points, traffic))
        return {
            "least": self._reached(backend, status, 0),
            "auto": self._reached(backend, status, AUTO),
            "bench_at": bench.at if bench else None,
            "splits": rows(status, points, traffic, estimate),
            "estimate": {"basis": estimate.basis, "why": estimate.why},
        }

    def _reached(self, backend: Backend, status: Status, split: Split) -> int | None:
        state = self._desired.get(backend)
        if state is None or not status.layers:
            return None
        goal = assign(
            status,
            split,
            self._headroom.available(by_number=split != AUTO),
            self._desired.expert_only(backend),
            domain_of=self._headroom.domain_of,
            no_experts=self._desired.no_expert_devices(),
            floor=state.floor,
        )
        return projected(status, goal).moe_cpu_layers


def measured(
    bench: Mapping[int, tuple[float, float]], traffic: Mapping[int, float]
) -> dict[int, float]:
    """Tokens per second of generation at each split that is known; what people had counts."""
    known = {split: speeds[0] for split, speeds in bench.items()} | dict(traffic)
    return {split: speed for split, speed in known.items() if speed > 0}


def rows(
    status: Status,
    bench: Mapping[int, tuple[float, float]],
    traffic: Mapping[int, float],
    estimate: SpeedEstimate,
) -> list[dict[str, Any]]:
    """By rising `moe_cpu_layers`. `bench` has tokens per second of generation and of prompts,
    `traffic` of generation. What neither has is estimated, if it can be; "bound" is an estimate
    that real speeds stay below. Pure."""
    guess = "bound" if estimate.basis == "header" else "estimate"
    found = []
    for split in range(status.block_count + 1 if status.layers else 0):
        generation, prompt = bench.get(split, (None, None))
        source = "bench" if generation else None
        if split in traffic:
            generation, source = traffic[split], "traffic"
        elif not generation and split in estimate.speeds:
            generation, source = estimate.speeds[split], guess
        found.append(
            {
                "moe_cpu_layers": split,
                "device_experts_bytes": _on_devices(status, split),
                "tokens_per_second": None if generation is None else round(generation, 2),
                "prompt_tokens_per_second": None if prompt is None else round(prompt, 1),
                "source": source,
            }
        )
    return found


def line_through(status: Status, known: Mapping[int, float]) -> SpeedEstimate | None:
    """What the splits that were measured say of the others; None where they are too few. Pure."""
    line = fitted(known)
    if line is None:
        return None
    found = {n: speed for n in range(status.block_count + 1) if (speed := _at(line, n))}
    return SpeedEstimate("line", "made by a line through what was measured", found)


def fitted(speeds: Mapping[int, float]) -> tuple[float, float] | None:
    """Seconds a token takes: with no layer's experts on the CPU, and more with each. By least
    squares; None where fewer than two splits are known. Each layer's experts take their time one
    after the other, so it is a line."""
    points = [(split, 1 / speed) for split, speed in speeds.items() if speed > 0]
    if len(points) < LEAST_POINTS:
        return None
    mean_n = sum(n for n, _ in points) / len(points)
    mean_s = sum(s for _, s in points) / len(points)
    spread = sum((n - mean_n) ** 2 for n, _ in points)
    slope = sum((n - mean_n) * (s - mean_s) for n, s in points) / spread
    return mean_s - slope * mean_n, slope


def _at(line: tuple[float, float], split: int) -> float | None:
    seconds = line[0] + line[1] * split
    return 1 / seconds if seconds > 0 else None


def _on_devices(status: Status, split: int) -> int:
    there = placement(status, split)
    return sum(x.experts_bytes for x in status.layers if there[x.index] != CPU)


async def _curve(state: Path, options: LoadOptions, devices: Sequence[Device]) -> Curve | None:
    if options.engine != "hosted":
        return None
    try:
        return await MODELS.run(partial(_load, state, options, devices))
    except Hangs:
        return None


def _load(state: Path, options: LoadOptions, devices: Sequence[Device]) -> Curve | None:
    try:
        model = model_id(options.path)
    except (OSError, GgufError):
        return None
    engine = engine_id(options.libdir, options.backends)
    return load(file_of(state, model, device_ids(devices), engine))
