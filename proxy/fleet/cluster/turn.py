"""Commands that start or end something on a machine take turns: two that find no Ray would start
two, and one that ends Ray takes it from one that has just found it. Blocking."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

# No node's folder, beside which it is, is called so.
LOCK: Final = "commands.lock"


@contextmanager
def turn(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """For the length of the block, no other command of this user has it; `say` is told if one has
    to be waited for. Whoever has it, has it no more when its process ends. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another moe-proxy fleet command on this machine")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
