"""The models on this machine's disks: folders of GGUF files, files that a policy names, and stores
in Ollama's layout (Ollama's own, and ours).
"""

import itertools
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from proxy.catalog import names
from proxy.catalog.cache import load, save
from proxy.catalog.entry import Entry as Entry  # what callers ask for here
from proxy.catalog.folders import scan_folders, scan_named
from proxy.catalog.gguf import Header
from proxy.catalog.headers import header_at
from proxy.catalog.reference import OLLAMA_HOST, Reference
from proxy.catalog.store import Store
from proxy.catalog.summary import Summaries, Summary

log = structlog.get_logger()

HANGS_AFTER_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class _Index:
    """What one scan found. `spellings`: all that answer to a folded name."""

    entries: tuple[Entry, ...]
    spellings: Mapping[str, tuple[Entry, ...]]
    problems: Mapping[str, str]
    origins: Mapping[str, tuple[Store, Reference]]
    twins: Mapping[tuple[tuple[int, int], ...], tuple[Entry, ...]]


@dataclass(frozen=True, slots=True)
class Places:
    """Where models are. Of stores with a model of the same name, the first one counts."""

    dirs: tuple[Path, ...]
    named: Mapping[str, Path]
    stores: tuple[Store, ...] = ()

    @property
    def watched(self) -> tuple[Path, ...]:
        """The folders in which models appear and disappear."""
        return (*self.dirs, *(store.manifests for store in self.stores))


class Catalog:
    """Finds models by name.

    A scan reads folders and manifests, not model files; a header is read when asked for and kept
    while its file stays. `refresh` swaps the whole index at once, so other threads always see one
    scan. `cache` is the file where summaries of headers outlive the process; what was read of
    manifests is kept beside it.
    """

    def __init__(
        self,
        dirs: Sequence[Path],
        named: Mapping[str, Path],
        stores: Sequence[Store] = (),
        *,
        cache: Path | None = None,
        look: bool = True,
        hangs_after_s: float = HANGS_AFTER_S,
    ) -> None:
        """Without `look` it knows of nothing before the first `refresh`. `hangs_after_s`: after so
        long a scan is not waited for any more."""
        self._summaries = Summaries(cache)
        self._hangs_after_s = hangs_after_s
        self._manifests_file = cache.with_name("manifests.json") if cache else None
        for root, kept in load(self._manifests_file).items():
            for store in stores:
                if str(store.root) == root:
                    store.cache = kept
        # One scan at a time, unless its disk hangs; what counts is which began last.
        self._scanning = threading.Lock()
        self._scans = itertools.count(1)
        # What changes: where to look (by `use`), what the last scan found, and the headers of
        # files that have not changed since.
        self.places = Places(tuple(dirs), dict(named), tuple(stores))
        self._index, self._newest = _Index((), {}, {}, {}, {}), 0
        if look:
            self.refresh()

    @property
    def problems(self) -> Mapping[str, str]:
        """What the last scan could not use: model's name or path, and the reason."""
        return self._index.problems

    @property
    def scan(self) -> object:
        """What the last scan found, to be compared by identity: another one may differ."""
        return self._index

    def use(
        self, dirs: Sequence[Path], named: Mapping[str, Path], stores: Sequence[Store] | None = None
    ) -> None:
        """Look in these places from now on, and do so at once if they are others than before. None:
        the stores stay the same."""
        stores = self.places.stores if stores is None else tuple(stores)
        places = Places(tuple(dirs), dict(named), stores)
        if places != self.places:
            self.places = places
            self.refresh()

    def refresh(self) -> None:
        """Look at the folders and stores again. Blocking, also where another look hangs."""
        number = next(self._scans)
        alone = self._scanning.acquire(timeout=self._hangs_after_s)
        try:
            index = _scan(self.places)
            if number < self._newest:
                return  # it began before one that is done: it may not know what came meanwhile
            self._newest = number
            for where, why in index.problems.items():
                if self._index.problems.get(where) != why:
                    log.warning("model_not_usable", where=where, why=why)
            self._index = index
            stores = self.places.stores
            if self._manifests_file and any(store.changed for store in stores):
                save(self._manifests_file, {str(store.root): store.cache for store in stores})
        finally:
            if alone:
                self._scanning.release()

    def list(self) -> tuple[Entry, ...]:
        """All models by name."""
        return self._index.entries

    def find(self, name: str) -> Entry | None:
        """The model of this name; None if there is none, or several (see `nearest`)."""
        found = self._index.spellings.get(names.fold(name), ())
        return found[0] if len(found) == 1 else None

    def nearest(self, name: str) -> tuple[str, ...]:
        """Names to suggest where `find` gave None: all that answer to it, else lookalikes."""
        if several := self._index.spellings.get(names.fold(name)):
            return tuple(entry.name for entry in several)
        return names.nearest(name, [entry.name for entry in self._index.entries])

    def origin(self, entry: Entry) -> tuple[Store, Reference] | None:
        """The store that a model is in and its name there; None for a file in a folder."""
        return self._index.origins.get(entry.name)

    def twins(self, entry: Entry) -> tuple[Entry, ...]:
        """All names of the files that are loaded for a model, this one among them: what policies
        name first, then the oldest."""
        return self._index.twins.get(entry.inodes, (entry,))

    def header(self, entry: Entry) -> Header:
        """The header of a model.

        Raises GgufError if it is not a usable GGUF, OSError if it is gone.
        """
        return header_at(entry.path)

    def summary(self, entry: Entry) -> Summary:
        """The little of a model's header that lists show. Empty for a file that is not usable."""
        return self._summaries.of(entry)

    def summaries(self) -> Mapping[str, Summary]:
        """The summaries of all models, by name; what was read is kept in the cache file."""
        found = {entry.name: self._summaries.of(entry) for entry in self._index.entries}
        self._summaries.save({entry.path for entry in self._index.entries})
        return found


def _scan(places: Places) -> _Index:
    problems: dict[str, str] = {}
    entries = scan_named(places.named, problems)
    in_use = {names.fold(name) for name in places.named}
    spelled: list[tuple[Entry, tuple[str, ...]]] = []
    origins: dict[str, tuple[Store, Reference]] = {}
    for store in places.stores:
        for reference, entry in store.scan(problems):
            if (folded := names.fold(entry.name)) not in in_use:
                in_use.add(folded)
                origins[entry.name] = (store, reference)
                spelled.append((entry, _ways_of_reference(reference)))
    # A file that a policy names is that policy's model, not a second one.
    spelled.extend((entry, _ways_of_file(entry)) for entry in entries)
    taken = [entry.path for entry in entries]
    folders = scan_folders(places.dirs, taken=taken, names_in_use=in_use, problems=problems)
    spelled.extend((entry, _ways_of_file(entry)) for entry in folders)
    spelled.sort(key=lambda pair: names.fold(pair[0].name))
    found = tuple(entry for entry, _ in spelled)
    return _Index(found, _spell(spelled), problems, origins, _twins(found))


def _twins(entries: Sequence[Entry]) -> dict[tuple[tuple[int, int], ...], tuple[Entry, ...]]:
    found: dict[tuple[tuple[int, int], ...], list[Entry]] = {}
    for entry in entries:
        if entry.inodes:
            found.setdefault(entry.inodes, []).append(entry)
    for twins in found.values():
        twins.sort(key=lambda entry: (entry.source != "policy", entry.modified_at, entry.name))
    return {inodes: tuple(twins) for inodes, twins in found.items()}


def _ways_of_file(entry: Entry) -> tuple[str, ...]:
    return (names.fold(entry.name), *names.spellings(names.stem_of(entry.path.name)))


def _ways_of_reference(reference: Reference) -> tuple[str, ...]:
    """Ollama's short name and its full one; a repository also without Hugging Face before it."""
    bare = f"{reference.namespace}/{reference.model}:{reference.tag}"
    ways = [reference.short, reference.full]
    if reference.on_hub:
        ways += [f"huggingface.co/{bare}", bare]
    elif reference.host.casefold() == OLLAMA_HOST:
        ways.append(bare)
    return tuple(names.fold(way) for way in ways)


def _spell(spelled: Iterable[tuple[Entry, tuple[str, ...]]]) -> dict[str, tuple[Entry, ...]]:
    """Who answers to each spelling: the most exact way of being called leaves the others out."""
    ranked: dict[str, dict[int, list[Entry]]] = {}
    for entry, ways in spelled:
        for spelling in dict.fromkeys(ways):
            # Where two ways of one entry are spelled the same, the more exact one counts.
            ranked.setdefault(spelling, {}).setdefault(ways.index(spelling), []).append(entry)
    return {spelling: tuple(ranks[min(ranks)]) for spelling, ranks in ranked.items()}
