"""A measured curve: how fast a model is at several splits on one machine, and what follows from it.
Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

# Medians of a few rounds differ by this much between two runs on a machine that does other things.
NOISE: Final = 0.03
AUTO_POINTS: Final = 5


@dataclass(frozen=True, slots=True)
class Point:
    """One split: medians in tokens per second. `spread` is (highest - lowest) / median of the
    rounds' generation speeds."""

    moe_cpu_layers: int
    generation: float
    prompt: float
    spread: float = 0.0


@dataclass(frozen=True, slots=True)
class CachePoint:
    """With llama.cpp's expert cache on the device, and as many whole layers as fit beside it: the
    same medians. `share` is what of the experts' room the cache has."""

    share: float
    cache_bytes: int
    cached_layers: int
    generation: float
    prompt: float
    spread: float = 0.0


@dataclass(frozen=True, slots=True)
class Curve:
    """What was measured for one model, and how. `points` by rising `moe_cpu_layers`; `caches` where
    the build has an expert cache."""

    model: str
    model_id: str  # the file's identity, whatever it is called
    devices: tuple[str, ...]
    engine: str
    at: str  # ISO 8601, UTC
    block_count: int
    ctx: int
    prompt_tokens: int
    generated_tokens: int
    rounds: int
    points: tuple[Point, ...]
    caches: tuple[CachePoint, ...] = ()


def splits_to_try(block_count: int) -> list[int]:
    """Where to measure if nobody said so: both ends, and evenly between them."""
    steps = AUTO_POINTS - 1
    return sorted({round(block_count * step / steps) for step in range(steps + 1)})


def best_split(points: Iterable[Point], noise: float = NOISE) -> int | None:
    """The `moe_cpu_layers` with the best generation speed; None without points.

    More experts on the device have to earn it: of the splits that generate within `noise` of the
    fastest, and among these read prompts within `noise` of their fastest, it is the one with most
    experts on the CPU. What the device does not hold is there for longer contexts and other models.
    """
    fastest = _near_the_top(list(points), [point.generation for point in points], noise)
    fastest = _near_the_top(fastest, [point.prompt for point in fastest], noise)
    return max((point.moe_cpu_layers for point in fastest), default=None)


def floor_of(points: Sequence[Point], noise: float = NOISE) -> int | None:
    """The least `moe_cpu_layers` that "auto" should use; None: nothing speaks against more experts
    on the devices.

    If the best is the least that was measured, nobody knows how it would be below it.
    """
    best = best_split(points, noise)
    least = min((point.moe_cpu_layers for point in points), default=None)
    return None if best == least else best


def best_share(curve: Curve, noise: float = NOISE) -> float:
    """What of the experts' room is best given to an expert cache; 0: nothing, whole layers are as
    fast. A cache has to earn it by generation, for what it has cannot move; and of two that are
    equally fast the smaller one is better, beside which more layers do."""
    whole = max((point.generation for point in curve.points), default=0.0)
    best = max((point.generation for point in curve.caches), default=0.0)
    if best <= whole * (1 + noise):
        return 0.0
    return min(x.share for x in curve.caches if x.generation >= best * (1 - noise))


def _near_the_top(points: list[Point], speeds: Sequence[float], noise: float) -> list[Point]:
    least = max(speeds, default=0.0) * (1 - noise)
    return [point for point, speed in zip(points, speeds, strict=True) if speed >= least]
