"""The GGUF files of folders as models: split files as one, projectors with what they belong to."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import filterfalse
from pathlib import Path
from typing import Final

from proxy.catalog import names
from proxy.catalog.entry import Entry, inodes_of
from proxy.catalog.gguf import GgufError
from proxy.catalog.parts import parts_of
from proxy.errors import reason_of
from proxy.files import check_regular, is_regular, shown

# Deeper than anybody sorts models, and less than os.walk can go.
MAX_DEPTH: Final = 64


def scan_named(named: Mapping[str, Path], problems: dict[str, str]) -> list[Entry]:
    """The files that policies name, under those names; what is not there goes to `problems`."""
    entries = []
    for name, path in named.items():
        try:
            entry = replace(_entry(path, name), source="policy")
            beside = [*filter(_is_text, _gguf_files(path.parent))]
            projectors = [file for file in beside if _is_projector(path.parent, file)]
            stems = {names.stem_of(file) for file in beside if not names.is_projector(file)}
            alone = _is_one_model(stems)
            entries.append(_with_projector(entry, projectors, alone=alone))
        except (OSError, GgufError) as error:
            problems[name] = shown(str(error))
    return entries


def scan_folders(
    dirs: Iterable[Path],
    *,
    taken: Iterable[Path],
    names_in_use: Iterable[str],
    problems: dict[str, str],
) -> list[Entry]:
    """The models of folders and all below them, each file once, without the files `taken`."""
    seen = {os.path.realpath(path) for path in taken}
    found: list[tuple[Path, Entry]] = []
    for root in dirs:
        for folder, files in _folders(root, problems):
            real_folder = os.path.realpath(folder)
            for entry in _models(folder, files, problems):
                # A link is followed; of other files only the folder can have several names.
                is_link = entry.path.is_symlink()
                real = (
                    os.path.realpath(entry.path) if is_link else f"{real_folder}/{entry.path.name}"
                )
                if real not in seen:
                    seen.add(real)
                    found.append((root, entry))
    return list(_unique(found, names_in_use))


def _folders(root: Path, problems: dict[str, str]) -> Iterator[tuple[Path, list[str]]]:
    """Every folder from `root` down with its GGUF files; links are followed, each seen once."""
    seen: set[tuple[int, int]] = set()

    def unreadable(error: OSError) -> None:
        problems[shown(str(error.filename))] = error.strerror or str(error)

    for folder, below, files in os.walk(root, followlinks=True, onerror=unreadable):
        try:
            stat = os.stat(folder)
        except OSError as error:
            unreadable(error)
            continue
        if (stat.st_dev, stat.st_ino) in seen:
            below.clear()
            continue
        seen.add((stat.st_dev, stat.st_ino))
        if folder.count(os.sep) - os.fspath(root).count(os.sep) > MAX_DEPTH:
            problems[shown(folder)] = f"folders are looked into up to {MAX_DEPTH} deep"
            below.clear()
            continue
        # Names that begin with a dot are files and folders that somebody is still writing or hides.
        below[:] = sorted(name for name in below if not name.startswith("."))
        ggufs = _gguf_only(files)
        for name in filterfalse(_is_text, (*below, *ggufs)):
            problems[shown(os.path.join(folder, name))] = (
                "its name is not UTF-8, in which requests name models; rename it"
            )
        below[:] = filter(_is_text, below)
        yield Path(folder), [*filter(_is_text, ggufs)]


def _gguf_files(folder: Path) -> list[str]:
    return _gguf_only(os.listdir(folder))


def _gguf_only(files: Iterable[str]) -> list[str]:
    return sorted(name for name in files if name.lower().endswith(".gguf") and name[0] != ".")


def _is_text(name: str) -> bool:
    """Whether a name is UTF-8. Linux takes any bytes, and Python keeps them as halves of pairs."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _models(folder: Path, files: list[str], problems: dict[str, str]) -> Iterator[Entry]:
    firsts: dict[str, str] = {}
    projectors = []
    for name in files:
        if names.is_projector(name):
            projectors += [name] if _is_projector(folder, name) else []
        else:
            firsts.setdefault(names.stem_of(name), name)
    alone = bool(projectors) and _is_one_model(firsts)
    for stem, name in firsts.items():
        try:
            entry = _entry(folder / name, stem)
            yield _with_projector(entry, projectors, alone=alone) if projectors else entry
        except (OSError, GgufError) as error:
            # Parts still to come, or a link to nothing: the other models are none the worse.
            why = reason_of(error) if isinstance(error, OSError) else str(error)
            problems[shown(f"{folder}/{name}")] = shown(why)


def _is_projector(folder: Path, name: str) -> bool:
    """Whether a file can be a model's projector: others would keep its start waiting for ever."""
    return names.is_projector(name) and is_regular(folder / name)


def _with_projector(entry: Entry, projectors: list[str], *, alone: bool) -> Entry:
    """The entry with the projector of its folder that goes with it."""
    stem = names.stem_of(entry.path.name)
    chosen = names.pair_projector(stem, projectors, alone=alone)
    if not chosen:
        return entry
    projector = entry.path.with_name(chosen)
    return replace(entry, projector=projector, inodes=entry.inodes + inodes_of((projector,)))


def _is_one_model(stems: Iterable[str]) -> bool:
    """Whether all of a folder's stems are one model in several quantisations."""
    return len({names.split_quant(stem)[0] for stem in stems}) == 1


def _entry(path: Path, name: str) -> Entry:
    files = parts_of(path)
    stats = [check_regular(file) for file in files]
    size = sum(stat.st_size for stat in stats)
    inodes = tuple((stat.st_dev, stat.st_ino) for stat in stats)
    changed = max(stat.st_mtime for stat in stats)
    return Entry(name, files[0], files, size, changed, inodes=inodes)


def _unique(found: list[tuple[Path, Entry]], named: Iterable[str]) -> Iterator[Entry]:
    """Each entry under a name of its own: where stems are the same, with the folder before it."""
    uses = Counter(names.fold(entry.name) for _, entry in found)
    uses.update(names.fold(name) for name in named)
    for root, entry in found:
        if uses[names.fold(entry.name)] > 1:
            inner = entry.path.parent.relative_to(root)
            yield replace(entry, name=(root.name / inner / entry.name).as_posix())
        else:
            yield entry
