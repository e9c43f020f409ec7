"""Where the policies are, and their text as it stands there at one moment."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from proxy.files import read_small
from proxy.policy.values import home_of

# The longest that anybody has written is a hundredth of it.
MOST_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Sources:
    """The policy files and their bytes; `failed` are files that could not be read, and why;
    `folder` is the one that was looked through, if it was one.

    Two of these are equal when the policies are: this is what the watcher compares.
    """

    texts: tuple[tuple[Path, bytes], ...]
    failed: tuple[tuple[Path, str], ...] = ()
    folder: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(file for file, _ in self.texts)


def candidates(path: Path | None, env: Mapping[str, str]) -> tuple[Path, ...]:
    """The places to look at, best first. Only one that is named outright has to be there."""
    if path is not None:
        return (path.absolute(),)
    if named := env.get("MOE_PROXY_POLICIES"):
        return (Path(named).absolute(),)
    return (Path("policies").absolute(), home_of(env) / ".config" / "moe-proxy")


def read(path: Path | None, env: Mapping[str, str]) -> Sources:
    """What there is to read now: a file, the *.toml of a folder in name order, or nothing."""
    places = candidates(path, env)
    for place in places:
        try:
            if place.is_dir():
                return replace(_read_files(policy_files(place)), folder=place)
            if place.exists():
                return _read_files((place,))
        except OSError as error:
            return Sources((), ((place, f"cannot be read: {error.strerror}"),))
    if len(places) == 1:
        return Sources((), ((places[0], "there is no such file or folder"),))
    return Sources(())


def policy_files(folder: Path) -> tuple[Path, ...]:
    """The policies in `folder`; editors' hidden files beside them are none."""
    return tuple(sorted(file for file in folder.glob("*.toml") if not file.name.startswith(".")))


def _read_files(files: tuple[Path, ...]) -> Sources:
    texts: list[tuple[Path, bytes]] = []
    failed: list[tuple[Path, str]] = []
    for file in files:
        try:
            texts.append((file, read_small(file, MOST_BYTES)))
        except OSError as error:
            failed.append((file, f"cannot be read: {error.strerror or error}"))
    return Sources(tuple(texts), tuple(failed))
