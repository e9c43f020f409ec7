"""Saved slots that wait for their model to be loaded again."""

from collections.abc import Set
from dataclasses import dataclass

from proxy.engine.types import LoadOptions
from proxy.slots.transferable import Stamp


@dataclass(frozen=True, slots=True)
class Saved:
    """One conversation in a file."""

    file: str
    options: LoadOptions  # of the worker that it was in
    stamp: Stamp  # of the files that this one had loaded
    tokens: int
    bytes: int


class Shelf:
    """Oldest first. Files are removed by whoever takes them off."""

    def __init__(self) -> None:
        # What changes:
        self._saved: list[Saved] = []

    def files(self) -> Set[str]:
        return {saved.file for saved in self._saved}

    def put(self, saved: Saved) -> None:
        self._saved.append(saved)

    def take(self, model: str) -> list[Saved]:
        """All of a model, the last saved first; they are not on the shelf any more."""
        taken = [saved for saved in self._saved if saved.options.model == model]
        self._saved = [saved for saved in self._saved if saved.options.model != model]
        return taken[::-1]

    def trim(self, limit_bytes: int, *, needed: Set[str]) -> list[Saved]:
        """Take off what is too much, the oldest first, but nothing of the models that are `needed`
        at once; returns what was taken off."""
        over = sum(saved.bytes for saved in self._saved) - limit_bytes
        dropped: list[Saved] = []
        for saved in self._saved:
            if over > 0 and saved.options.model not in needed:
                dropped.append(saved)
                over -= saved.bytes
        self._saved = [saved for saved in self._saved if saved not in dropped]
        return dropped
