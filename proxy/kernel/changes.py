"""That files change, told by the kernel: through watchfiles, whose look for what it has heard is on
a thread of its own. (Its `awatch` is not used: with it come 1.5 MiB of anyio, and the event loop
waits while folders of folders are gone through, on whatever disk.)
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.clock import Bell, together
from proxy.threads import Lane

if TYPE_CHECKING:
    from watchfiles._rust_notify import RustNotify


class Changes:
    """What was told since it was asked for last. Belongs to the event loop."""

    def __init__(self) -> None:
        # What changes:
        self._changed = False
        self._error: Exception | None = None
        self._bell = Bell()

    def tell(self, error: Exception | None = None) -> None:
        """Something has changed; or nothing is told any more, for this reason."""
        self._changed, self._error = True, error
        self._bell.ring()

    async def come(self, within_s: float) -> bool:
        """Whether there are any; waits for them so long, or some tenths of a second more or less.
        Raises OSError or RuntimeError where nothing is told any more."""
        await self._bell.wait(0.0 if self._changed else together(within_s))
        if self._error is not None:
            raise self._error
        changed, self._changed = self._changed, False
        return changed


@asynccontextmanager
async def told_of_changes(
    paths: Collection[Path],
    concerns: Callable[[str], bool],
    *,
    lane: Lane,
    debounce_ms: int,
    step_ms: int,
    below: bool = False,
) -> AsyncIterator[Changes]:
    """Within the block all changes of these files and folders, with `below` of all folders in them,
    are told that `concerns` says to matter, by their paths. A burst is told of as one, when nothing
    was added to it for `step_ms`, or after `debounce_ms`.

    Raises OSError or RuntimeError: a path is not there, or may not be read, or the machine has no
    watches left. Raises Hangs where a disk does (`lane` has the threads for that)."""
    changes, stop = Changes(), threading.Event()
    loop = asyncio.get_running_loop()
    watcher = await lane.run(_watcher, *paths, below=below)

    def tell(error: Exception | None = None) -> None:
        with suppress(RuntimeError):  # the loop is closed, and nobody waits any more
            loop.call_soon_threadsafe(changes.tell, error)

    def listen() -> None:
        try:
            # It looks each `step_ms` until there is something.
            while isinstance(found := watcher.watch(debounce_ms, step_ms, 0, stop), set):
                if any(concerns(path) for _, path in found):
                    tell()
        except Exception as error:
            tell(error)
        finally:
            watcher.close()

    threading.Thread(target=listen, name="changes of files", daemon=True).start()
    try:
        yield changes
    finally:
        stop.set()


def _watcher(*paths: Path, below: bool) -> "RustNotify":
    from watchfiles._rust_notify import RustNotify  # it loads anyio's beginnings: after the start

    # Without polling. Within a folder of models there may be one that we may not enter.
    return RustNotify([str(path) for path in paths], False, False, 0, below, below)
