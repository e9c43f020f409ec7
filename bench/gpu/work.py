"""What the steps share: settings, the time that is left, and results that outlive a run."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GO_ON = 75  # exit status: temporary, try again (EX_TEMPFAIL)


class OutOfTime(Exception):
    """The time limit is near; what is done is kept."""


class StepFailed(Exception):
    """Why a step cannot be done, for people."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line says. Sizes in bytes, depth in tokens."""

    pack: Path
    work: Path
    out: Path
    model_folder: Path
    shape: str
    caps: tuple[int, ...]
    reserve: int
    depth: int
    arch: str
    cpu: bool
    confine: bool
    threads: int | None
    settle_s: (
        float  # how long memory has to last before experts come; nothing moves after twice that
    )
    limit_s: float
    started_s: float = field(default_factory=time.monotonic)

    @property
    def build(self) -> Path:
        return self.work / "build"

    @property
    def libdir(self) -> Path | None:
        """The folder with the libraries and programs that the build step made, if it did."""
        bin_folder = self.build / "bin"
        return bin_folder if (bin_folder / "llama-server").exists() else None

    @property
    def ctx(self) -> int:
        """Room for the deep prompt and what comes after it, in steps that caches like."""
        return (self.depth + 2048 + 1023) // 1024 * 1024

    def left_s(self) -> float:
        return self.limit_s - (time.monotonic() - self.started_s)

    def need(self, seconds: float, what: str) -> None:
        """Raises OutOfTime where `what` would not be done within the limit."""
        if self.left_s() < seconds:
            raise OutOfTime(what)


class Results:
    """What was measured, in a file that is written after each cell."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.cells: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}

    async def once(self, key: str, measure: Callable[[], Any]) -> Any:
        """The result of `measure` (awaited), which is not asked again once it is known."""
        if key not in self.cells:
            self.cells[key] = await measure()
            self._file.parent.mkdir(parents=True, exist_ok=True)
            part = self._file.with_suffix(".part")
            part.write_text(json.dumps(self.cells, indent=1) + "\n")
            part.replace(self._file)
        return self.cells[key]
