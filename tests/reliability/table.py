"""The table of docs/reliability.md: what the tests saw, one cell for each fault in each phase.

python -m tests.reliability.table     # writes it from what the last run of the tests noted
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from tests.support.archive import cache_folder

DOC: Final = Path(__file__).parents[2] / "docs" / "reliability.md"
MARK: Final = "<!-- From here on written by python -m tests.reliability.table -->\n"
PHASES: Final = ("idle", "loading", "waiting", "prompt", "streaming", "moving")


@dataclass(frozen=True, slots=True)
class Cell:
    """What clients saw and how many seconds after the fault, without a byte of their answer and in
    the middle of one; and how long it took after the fault's end until two more had theirs."""

    without: list[tuple[str, float]]
    amid: list[tuple[str, float]]
    whole_s: float


def note(fault: str, phase: str, cell: Cell) -> None:
    """Keep what a test saw, for the table."""
    seen = noted()
    seen.setdefault(fault, {})[phase] = asdict(cell)
    _file().write_text(json.dumps(seen, indent=1))


def noted() -> dict[str, dict[str, dict[str, object]]]:
    return dict(json.loads(_file().read_text())) if _file().exists() else {}


def table(seen: Mapping[str, Mapping[str, Cell]]) -> str:
    """Markdown: a row for each fault, a column for each phase."""
    rows = [("Fault", *PHASES), ("---",) * (len(PHASES) + 1)]
    for fault, phases in seen.items():
        rows.append((fault, *(_shown(phases[phase]) for phase in PHASES)))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _shown(cell: Cell) -> str:
    said = [*_said("", cell.without), *_said("in mid-answer: ", cell.amid)]
    return "<br>".join([*said, f"then {cell.whole_s:.1f} s"])


def _said(where: str, seen: Iterable[tuple[str, float]]) -> list[str]:
    return [
        f"{where}{outcome}" + ("" if outcome == "goes on" else f", {seconds:.1f} s")
        for outcome, seconds in seen
    ]


def _file() -> Path:
    return cache_folder() / "reliability.json"


def main() -> None:
    """Write the table. Raises KeyError where a cell was not noted: run all of the tests first."""
    cells = {
        fault: {phase: Cell(**cell) for phase, cell in phases.items()}  # type: ignore[arg-type]
        for fault, phases in noted().items()
    }
    before, _, _ = DOC.read_text().partition(MARK)
    DOC.write_text(f"{before}{MARK}{table(cells)}")


if __name__ == "__main__":
    main()
