"""The folder of saved slots: conversations, so nobody else may read it, and nothing stays in it."""

import os
import secrets
from collections.abc import Callable, Set
from pathlib import Path
from typing import Final

from proxy.memory.host import available_host_bytes

# What is left to everybody else where the slots are: the workers' sockets are there too.
LEFT_BYTES: Final = 64 << 20
# What is left of RAM where the folder is in RAM, as /run usually is.
LEFT_RAM_BYTES: Final = 1 << 30
IN_RAM: Final = frozenset(("tmpfs", "ramfs"))
MOUNTS: Final = Path("/proc/self/mountinfo")


class SlotFiles:
    """One for all workers. Its methods may block: for disks, not for people."""

    def __init__(
        self, folder: Path, *, ram_bytes: Callable[[], int | None] = available_host_bytes
    ) -> None:
        """The folder is made where it is not there. `ram_bytes`: what is available; None where that
        is not known."""
        self.folder = folder
        self._ram_bytes = ram_bytes
        folder.mkdir(mode=0o700, exist_ok=True)

    def new_name(self, backend_id: str) -> str:
        """A name that nobody guesses: whoever may speak to a worker could read a file by it."""
        return f"{backend_id}-{secrets.token_hex(16)}"

    def size_bytes(self, name: str) -> int:
        """0 where it is not there."""
        try:
            return (self.folder / name).stat().st_size
        except OSError:
            return 0

    def remove(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)

    def sweep(self, backend_id: str, kept: Set[str]) -> None:
        """Remove all files of a backend that is gone, but those that are `kept`."""
        for file in self.folder.glob(f"{backend_id}-*"):
            if file.name not in kept:
                file.unlink(missing_ok=True)

    def room_bytes(self) -> int:
        """How much may be written there now."""
        disk = os.statvfs(self.folder)
        room = disk.f_bavail * disk.f_frsize - LEFT_BYTES
        if is_in_ram(self.folder):
            ram = self._ram_bytes()
            room = min(room, (0 if ram is None else ram) - LEFT_RAM_BYTES)
        return max(room, 0)


def is_in_ram(folder: Path, mounts: Path = MOUNTS) -> bool:
    """Whether files there take memory. False where that cannot be told."""
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return False
    for line in lines:
        mount, _, kind = line.partition(" - ")
        if mount.split()[2:3] == [number]:
            return kind.partition(" ")[0] in IN_RAM
    return False
