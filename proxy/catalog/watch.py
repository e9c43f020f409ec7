"""Tells the catalogue to look again when models come or go, within a fraction of a second.

What an event says is not trusted; it only makes the catalogue look. Folders that send no events
(network file systems) are looked at when somebody asks for a name or a list.
"""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from proxy.catalog.folders import MAX_DEPTH
from proxy.catalog.local import Catalog, Places
from proxy.kernel import inotify
from proxy.kernel.inotify import Events, Happened
from proxy.threads import SCANS

# What is told of a folder. Not each piece of a file that is being written: its end.
WANTED: Final = (
    inotify.CREATE
    | inotify.DELETE
    | inotify.MOVED
    | inotify.CLOSE_WRITE
    | inotify.ATTRIB
    | inotify.SELF
)
# Of a folder that is watched only for what may appear in it.
APPEARS: Final = inotify.CREATE | inotify.MOVED | inotify.SELF
# A burst of events makes us look once nothing was added to it for so long, or this often.
PAUSE_S: Final = 0.1
MOST_S: Final = 0.4
# We look whether folders were mounted or unmounted this often; nothing tells.
RECHECK_S: Final = 5.0

Identity = tuple[int, int]  # device and inode


class CatalogWatch:
    """Keeps one catalogue up to date."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        # What changes: the watch, while there is one.
        self._events: Events | None = None

    def look_elsewhere(self) -> None:
        """The catalogue looks in other places from now on."""
        if self._events is not None:
            self._events.wake()

    async def run(self) -> None:
        """Refresh the catalogue at each change of its folders and stores, until cancelled.

        Raises OSError: a folder went away just now, the machine has no watches left. Begun again,
        it looks first, so nothing is missed.
        """
        while True:
            watch = await SCANS.run(_Watch, self._catalog.places)
            with closing(watch.events):
                self._events = watch.events
                # What came before the watch sends no event.
                await SCANS.run(self._catalog.refresh)
                await self._follow(watch)

    async def _follow(self, watch: "_Watch") -> None:
        """Until other folders are to be watched."""
        while await SCANS.run(watch.holds, self._catalog.places):
            happened = await watch.events.next(RECHECK_S)
            if not any(map(watch.concerns, happened)):
                continue
            happened += await watch.events.quiet(PAUSE_S, MOST_S)
            if any(map(watch.changes_folders, happened)):
                return
            await SCANS.run(self._catalog.refresh)


class _Watch:
    """The folders below some places, as they are when this is made."""

    def __init__(self, places: Places) -> None:
        """May block. Raises OSError."""
        self._places = places
        self._stores = tuple(store.manifests for store in places.stores)
        self._roots = {root: _identity(root) for root in places.watched}
        wanted: dict[Path, int] = {}
        self._missing: set[str] = set()
        for root, identity in self._roots.items():
            if identity is not None:
                wanted |= dict.fromkeys(_folders(root), WANTED)
            else:
                nearest = _nearest(root.parent)
                self._missing.add(root.relative_to(nearest).parts[0])
                wanted.setdefault(nearest, APPEARS)
        self.events = Events(wanted)

    def holds(self, places: Places) -> bool:
        """Whether these places are the ones, and there as they were. May block."""
        return places == self._places and all(
            _identity(root) == identity for root, identity in self._roots.items()
        )

    def concerns(self, each: Happened) -> bool:
        # Other files lie and change beside models; in a store each file is a model's name.
        return (
            self.changes_folders(each)
            or each.name.lower().endswith(".gguf")
            or (
                each.folder is not None
                and any(each.folder.is_relative_to(store) for store in self._stores)
            )
        )

    def changes_folders(self, each: Happened) -> bool:
        """Whether others may have to be watched, and what is in them was not told."""
        return not each.name or each.is_folder or each.name in self._missing


def _folders(root: Path) -> Iterator[Path]:
    """Those in which the catalogue finds models, from `root` down."""
    seen: set[Identity | None] = set()
    for folder, below, _ in os.walk(root, followlinks=True):
        identity = _identity(Path(folder))
        deep = folder.count(os.sep) - os.fspath(root).count(os.sep) >= MAX_DEPTH
        if identity in seen or deep:
            below.clear()
        if identity is not None and identity not in seen:
            seen.add(identity)
            yield Path(folder)
        below[:] = (name for name in below if not name.startswith("."))


def _identity(folder: Path) -> Identity | None:
    """None where there is no such folder."""
    try:
        status = folder.stat()
    except (OSError, ValueError):  # ValueError: a name with a NUL
        return None
    return (status.st_dev, status.st_ino) if folder.is_dir() else None


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    while not folder.is_dir():
        folder = folder.parent
    return folder
