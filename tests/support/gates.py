"""Named pipes at which a child process waits until the test lets it go on."""

import asyncio
import os
from pathlib import Path


class Gate:
    """A gate that one process waits at. `reached` tells that it is there, `open` lets it go on."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = str(path)
        self._end: int | None = None

    async def reached(self) -> None:
        """Return when a process waits here; it stays until `open`."""
        # Opening one end of a pipe waits for the other: no polling, no sleeping.
        self._end = await asyncio.to_thread(os.open, self.path, os.O_WRONLY)

    async def open(self) -> None:
        if self._end is None:
            await self.reached()
        self.close()

    def close(self) -> None:
        if self._end is not None:
            os.close(self._end)
            self._end = None
