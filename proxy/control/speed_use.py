"""How fast answers really were at each split: what is kept of it, what fades, and how it keeps a
measured curve true. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Annotated, Final

import msgspec

from proxy.control.speed_curve import Point

# Of each split; one figure in so many seconds, so that a long answer is not all there is.
KEPT: Final = 40
SPACING_S: Final = 10.0
# What is older says nothing any more: of a split that was left since, it is tried again.
FADES_S: Final = 14 * 86400.0
# So many figures of a split are needed before a decision rests on them.
LEAST: Final = 6
# Further on in a conversation attention takes its time, at whatever split.
MOST_DEPTH: Final = 4096
# Answers differ in what they compute, and machines in what else they do.
NOISE: Final = 0.10

Seconds = Annotated[float, msgspec.Meta(ge=0)]
Speed = Annotated[float, msgspec.Meta(gt=0)]
# Unix time, and tokens a second of one answer that was written alone.
Figure = tuple[Seconds, Speed]
# By split, the oldest first.
Use = Mapping[int, Sequence[Figure]]


def merged(*uses: Use, now_s: float) -> dict[int, list[Figure]]:
    """All of it but what has faded or is too much; what lies in the future is from a clock that was
    wrong."""
    found: dict[int, list[Figure]] = {}
    for split in sorted({split for use in uses for split in use}):
        figures = sorted({figure for use in uses for figure in use.get(split, ())})
        fresh = [each for each in figures if now_s - FADES_S < each[0] <= now_s]
        if fresh:
            found[split] = fresh[-KEPT:]
    return found


def speeds_of(use: Use, least: int = 1) -> dict[int, float]:
    """The median of each split of which so many figures are known."""
    return {
        split: median(speed for _, speed in figures)
        for split, figures in use.items()
        if len(figures) >= least
    }


def kept_true(points: Sequence[Point], used: Mapping[int, float]) -> list[Point]:
    """The curve of `points`, by rising split, as use has shown it to be.

    A machine in use is slower than one that is measured, and that says nothing for or against a
    split. So the curve is scaled to what use shows where both are known, and only what differs from
    that counts. What was used and not measured has the prompt speed of its nearest neighbour.
    """
    if not points:
        return [Point(split, speed, 0.0) for split, speed in sorted(used.items())]
    ratios = [used[p.moe_cpu_layers] / p.generation for p in points if p.moe_cpu_layers in used]
    if not ratios:  # nothing says how the two compare
        return list(points)
    scale = median(ratios)
    known = {p.moe_cpu_layers: replace(p, generation=p.generation * scale) for p in points}
    for split, speed in used.items():
        nearest = min(points, key=lambda p: (abs(p.moe_cpu_layers - split), p.moe_cpu_layers))
        known[split] = replace(nearest, moe_cpu_layers=split, generation=speed)
    return [known[split] for split in sorted(known)]
