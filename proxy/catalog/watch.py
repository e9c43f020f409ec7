"""Tells the catalogue to look again when models come or go, within a second or so.

What an event says is not trusted; it only makes the catalogue look. Folders that send no events
(network file systems) are looked at when somebody asks for a name or a list.
"""

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Final

from proxy.catalog.local import Catalog
from proxy.threads import SCANS

if TYPE_CHECKING:
    from watchfiles import Change

# A burst of events (a file that is being written) makes us look this often.
DEBOUNCE_MS: Final = 1000
STEP_MS: Final = 500  # each look of watchfiles' costs some 60 µs
# Folders that appear or that a policy names anew are noticed after this time at the latest.
RECHECK_MS: Final = 2000


async def watch(catalog: Catalog) -> None:
    """Refresh the catalogue at each change of its folders and stores, until cancelled.

    Raises what watchfiles does (OSError, RuntimeError, ExceptionGroup): a folder went away just
    now, the machine has no watches left, a file has a name that is not UTF-8. Begun again, it looks
    first, so nothing is missed.
    """
    while True:
        folders = await SCANS.run(_present, catalog)
        if not folders:
            await asyncio.sleep(RECHECK_MS / 1000)
            continue
        await SCANS.run(catalog.refresh)
        await _watch(catalog, folders)


async def _watch(catalog: Catalog, folders: frozenset[Path]) -> None:
    """Watch until other folders are to be watched."""
    from watchfiles import awatch  # it loads anyio: after the start

    # What came after the last look and before the watch sends no event.
    looked = False
    stores = tuple(store.manifests for store in catalog.places.stores)

    def concerns(_: "Change", path: str) -> bool:
        # Other files lie and change beside models; in a store each file is a model's name. What is
        # put into a new folder before that is watched sends no event of its own: the folder's has
        # to do.
        return (
            path.lower().endswith(".gguf")
            or any(Path(path).is_relative_to(store) for store in stores)
            or Path(path).is_dir()
        )

    async with aclosing(
        awatch(
            *folders,
            watch_filter=concerns,
            debounce=DEBOUNCE_MS,
            step=STEP_MS,
            rust_timeout=RECHECK_MS,
            yield_on_timeout=True,
            ignore_permission_denied=True,
        )
    ) as events:
        async for changes in events:
            if changes or not looked:
                await SCANS.run(catalog.refresh)
                looked = True
            if await SCANS.run(_present, catalog) != folders:
                return


def _present(catalog: Catalog) -> frozenset[Path]:
    return frozenset(folder for folder in catalog.places.watched if folder.is_dir())
