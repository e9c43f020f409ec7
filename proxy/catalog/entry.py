"""What the catalogue knows of one model, wherever it comes from."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

from proxy.files import check_regular

Source = Literal["folder", "policy", "own", "ollama"]
NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Message:
    """A message that stands before every conversation with a model."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One model. `path` is its first file, `files` all of a split one's, `size_bytes` all together.

    `modified_at` is the youngest file's (a store's: the manifest's), in seconds since the epoch.
    `projector` is the image or audio part that goes with it. What follows comes from manifests:
    `params` in Ollama's names with JSON values, `template` as it was written (Jinja or Go), and
    `template_file` the file with it where it is Jinja, which llama-server reads. `parent` is the
    model or file that it was made from, as it was called.
    `refusal` is the reason why it cannot be loaded, as far as that is known without its header.
    """

    name: str
    path: Path
    files: tuple[Path, ...]
    size_bytes: int
    modified_at: float
    projector: Path | None = None
    source: Source = "folder"
    digest: str = ""
    params: Mapping[str, Any] = field(default_factory=lambda: NOTHING, hash=False)
    system: str | None = None
    template: str | None = None
    template_file: Path | None = None
    messages: tuple[Message, ...] = ()
    adapters: tuple[Path, ...] = ()
    licenses: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=lambda: NOTHING, hash=False)
    refusal: str | None = None
    parent: str = ""
    # Of each file that is loaded, its device and number there: whatever two names have in common
    # is one file.
    inodes: tuple[tuple[int, int], ...] = ()

    @property
    def loaded_files(self) -> tuple[Path, ...]:
        """Those of the model, its projector and its adapters."""
        return (*self.files, *((self.projector,) if self.projector else ()), *self.adapters)


def inodes_of(files: Iterable[Path]) -> tuple[tuple[int, int], ...]:
    """For `Entry.inodes`; none where one is missing, or no regular file. Blocking."""
    try:
        found = [check_regular(file) for file in files]
    except (OSError, ValueError):
        return ()
    return tuple((status.st_dev, status.st_ino) for status in found)
