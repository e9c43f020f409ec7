"""Where the catalogue looks, by the policies, and that it looks elsewhere when they say so."""

import asyncio
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from proxy.catalog.local import Catalog
from proxy.catalog.store import Store, Stores
from proxy.errors import Hangs
from proxy.policy.diff import Changes
from proxy.policy.model import Policies
from proxy.tasks import spawn
from proxy.threads import MODELS, SCANS

log = structlog.get_logger()

LOOK_S: Final = 120.0
# Unknown names make us look into the folders again, but no faster than this.
AGAIN_S: Final = 2.0
# How long whoever asks for an unknown name waits for that.
ASKED_S: Final = 10.0


def model_dirs(
    policies: Policies, stores: Stores
) -> tuple[tuple[Path, ...], dict[str, Path], tuple[Store, ...]]:
    """Folders, the files that policies name, our store and Ollama's."""
    named = {name: model.path for name, model in policies.models.items() if model.path}
    place = policies.catalog
    return place.dirs, named, stores.at(place.state, place.ollama_dir, ollama=place.ollama)


async def first_catalog(policies: Policies, stores: Stores) -> Catalog:
    """What models there are. Where a disk hangs it begins with none: who watches looks again."""
    cache = policies.catalog.state / "headers.json"
    make = partial(Catalog, *model_dirs(policies, stores), cache=cache)
    catalog = await MODELS.run(make, look=False)
    try:
        await SCANS.run(catalog.refresh)
    except Hangs as error:
        log.warning("models_not_looked_for", reason=error.message)
    return catalog


class ModelDirs:
    """Has the catalogue follow the policies. A scan may take its time (a disk that sleeps, a
    network), so nothing else that follows an edit waits for it, but for whoever needs files that
    the edit names: `settled`."""

    def __init__(self, catalog: Catalog, stores: Stores) -> None:
        self._catalog, self._stores = catalog, stores
        # What changes: the policies that are to be followed next, and the following.
        self._next: Policies | None = None
        self._following: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._looked_s = float("-inf")

    async def policies_changed(self, old: Policies, new: Policies, changes: Changes) -> None:
        self._next = new
        if self._following is None or self._following.done():
            self._following = spawn(self._follow(), name="model folders")

    async def settled(self) -> None:
        """Return when the catalogue has looked where the policies in force say, or when that takes
        so long that its disk hangs."""
        if self._following is not None:
            await asyncio.wait([self._following], timeout=LOOK_S)

    async def look(self) -> None:
        """Have the folders read again. Raises Hangs where a disk does not answer."""
        self._looked_s = time.monotonic()
        await SCANS.run(self._catalog.refresh)

    async def look_again(self) -> None:
        """Have the folders read again, unless that has just been done. Where a disk does not
        answer, what is known has to do."""
        if time.monotonic() - self._looked_s < AGAIN_S:
            return
        if self._looking is not None and not self._looking.done():
            # It began before: it may not have seen what came just now.
            await asyncio.wait([self._looking], timeout=ASKED_S)
            if not self._looking.done():
                return
        self._looking = spawn(self._look_quietly(), name="look again")
        await asyncio.wait([self._looking], timeout=ASKED_S)

    async def _look_quietly(self) -> None:
        with suppress(Hangs):  # told as what degrades the proxy
            await self.look()

    async def _follow(self) -> None:
        while (policies := self._next) is not None:
            self._next = None
            await SCANS.run(self._look, policies)

    def _look(self, policies: Policies) -> None:
        self._catalog.use(*model_dirs(policies, self._stores))
