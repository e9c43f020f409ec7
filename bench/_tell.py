"""What benches say beside their figures: whether two sides differ at all, and where it is kept."""

from collections.abc import Sequence
from math import comb
from pathlib import Path
from typing import Any

from bench._report import Figure, circumstances, figure, ratio_text, write
from bench._report import ratio as ratio_of_pairs

# How often chance alone may put so many pairs on one side, and they still count as apart. So at
# least five are needed: four of four agree by luck every eighth time.
LUCK = 0.1


def apart(differences: Sequence[float]) -> bool:
    """Whether so many pairs differ the same way that it is no luck (the sign test)."""
    count = len(differences)
    fewer = min(sum(d >= 0 for d in differences), sum(d <= 0 for d in differences))
    return 2 * sum(comb(count, n) for n in range(fewer + 1)) / 2**count <= LUCK


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Figure | None:
    """None where the spread is larger than the difference, or that may be luck."""
    pairs = zip(ours, theirs, strict=True)
    return ratio_of_pairs(ours, theirs) if apart([a - b for a, b in pairs]) else None


def difference(ours: Sequence[float], theirs: Sequence[float]) -> Figure | None:
    """What one adds to the other, pair by pair; None as for `ratio`."""
    more = [a - b for a, b in zip(ours, theirs, strict=True)]
    found = figure(more)
    return None if found.low <= 0 <= found.high or not apart(more) else found


def times_text(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """The ratio in words."""
    return ratio_text(ratio(ours, theirs))


def more_text(
    ours: Sequence[float], theirs: Sequence[float], scale: float = 1.0, digits: int = 0
) -> str:
    """The difference in words, in the unit that `scale` makes of it."""
    found = difference(ours, theirs)
    return ratio_text(None) if found is None else found.text(scale, digits)


def spread(values: Sequence[float], scale: float = 1.0, digits: int = 0) -> str:
    """The figure of these in words; of what was measured once there is no spread."""
    found = figure(values)
    once = f"{scale * found.median:.{digits}f} (once)"
    return once if found.count == 1 else found.text(scale, digits)


def tell(results: dict[str, Any], *parts: str, file: Path | None) -> None:
    """Print where and when, then each part; write the results to `file`, where there is one."""
    where = ", ".join(f"{key}: {value}" for key, value in circumstances().items())
    print("\n\n".join([where, *parts]), flush=True)
    if file is not None:
        write(file, results)
