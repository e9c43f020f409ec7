"""Tells the catalogue to look again when models come or go, within a second or so.

What an event says is not trusted; it only makes the catalogue look. Folders that send no events
(network file systems) are looked at when somebody asks for a name or a list.
"""

import asyncio
from pathlib import Path
from typing import Final

from proxy.catalog.local import Catalog
from proxy.clock import together
from proxy.kernel.changes import told_of_changes
from proxy.threads import SCANS

# A burst of events (a file that is being written) makes us look this often.
DEBOUNCE_MS: Final = 1000
STEP_MS: Final = 500  # each look of watchfiles' costs some 60 µs
# Folders that appear or that a policy names anew are noticed after this time at the latest.
RECHECK_S: Final = 2.0


async def watch(catalog: Catalog) -> None:
    """Refresh the catalogue at each change of its folders and stores, until cancelled.

    Raises what watchfiles does (OSError, RuntimeError): a folder went away just
    now, the machine has no watches left, a file has a name that is not UTF-8. Begun again, it looks
    first, so nothing is missed.
    """
    while True:
        folders = await SCANS.run(_present, catalog)
        if not folders:
            await asyncio.sleep(together(RECHECK_S))
            continue
        await SCANS.run(catalog.refresh)
        await _watch(catalog, folders)


async def _watch(catalog: Catalog, folders: frozenset[Path]) -> None:
    """Watch until other folders are to be watched."""
    stores = tuple(store.manifests for store in catalog.places.stores)

    def concerns(path: str) -> bool:
        # Other files lie and change beside models; in a store each file is a model's name. What is
        # put into a new folder before that is watched sends no event of its own: the folder's has
        # to do.
        return (
            path.lower().endswith(".gguf")
            or any(Path(path).is_relative_to(store) for store in stores)
            or Path(path).is_dir()
        )

    async with told_of_changes(
        folders, concerns, lane=SCANS, debounce_ms=DEBOUNCE_MS, step_ms=STEP_MS, below=True
    ) as changes:
        changed = True  # what came after the last look and before the watch sends no event
        while True:
            if changed:
                await SCANS.run(catalog.refresh)
            if await SCANS.run(_present, catalog) != folders:
                return
            changed = await changes.come(RECHECK_S)


def _present(catalog: Catalog) -> frozenset[Path]:
    return frozenset(folder for folder in catalog.places.watched if folder.is_dir())
