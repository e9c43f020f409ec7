"""What benches have in common: figures with their spread, a ratio only where there is a difference,
and where, when and how it was measured."""

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Figure:
    """Of several times the same: the median, and between what the middle half lies."""

    median: float
    low: float
    high: float
    count: int

    def text(self, scale: float = 1.0, digits: int = 0) -> str:
        """With its spread, in the unit that `scale` makes of it."""
        low, middle, high = (f"{scale * x:.{digits}f}" for x in (self.low, self.median, self.high))
        return f"{middle} ({low} to {high})"


def figure(values: Sequence[float]) -> Figure:
    """At least two are needed for a spread; of one alone it is nothing."""
    if len(values) < 2:
        return Figure(values[0], values[0], values[0], len(values))
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return Figure(statistics.median(values), low, high, len(values))


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Figure | None:
    """Of values that were measured in turns, pair by pair; None where the spread is larger than the
    difference, so that nobody can tell them apart."""
    found = figure([a / b for a, b in zip(ours, theirs, strict=True)])
    return None if found.low <= 1 <= found.high else found


def ratio_text(found: Figure | None) -> str:
    return "not told apart" if found is None else found.text(digits=2)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """As Markdown, which can be read as it is."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def circumstances() -> dict[str, Any]:
    """Where, when and how."""
    commit = subprocess.run(
        ("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"),
        capture_output=True,
        text=True,
        check=False,
    )
    command = [Path(sys.argv[0]).stem, *sys.argv[1:]]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores of {platform.machine()}, Linux {platform.release()}",
        "load": os.getloadavg()[0],
        "commit": commit.stdout.strip() or None,
        "command": f"python -m bench.{' '.join(command)}",
    }


def write(path: Path, results: dict[str, Any]) -> None:
    """The results as JSON, with the circumstances."""
    found = {"circumstances": circumstances(), **results}
    path.write_text(json.dumps(found, indent=1, default=asdict) + "\n")
