"""What a person asks `moe-proxy bench`."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Question:
    """What to measure. `splits` of None: chosen by the number of layers; `ctx` of None: as the
    policies say."""

    model: str
    policies: Path | None = None
    splits: tuple[int, ...] | None = None
    ctx: int | None = None
    prompt: int = 512
    tokens: int = 64
    rounds: int = 3
