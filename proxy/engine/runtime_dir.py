"""Folders for sockets and the like that are there as long as the process that made them.

A lock on a file inside says that it lives: the kernel gives that up with the process, however it
ends, and a process id that somebody else has by now would not say it. What the dead left is removed
at the next start.
"""

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import structlog

from proxy.engine.guardian import forget_folder, keep_folder

log = structlog.get_logger()

PREFIX: Final = "moe-proxy-"
LOCK: Final = "lock"
# A Unix socket's path has at most 107 bytes; the rest is for "/", a backend's id and an ending.
LONGEST: Final = 80


@contextmanager
def runtime_dir(env: Mapping[str, str], *, infix: str = "") -> Iterator[Path]:
    """A new folder that only we can enter, with a short path, for the length of the block; what
    dead processes left beside it goes. Raises OSError where it cannot be made."""
    parent = _parent(env)
    _sweep(parent)
    # Under another name until it is locked, so that who sweeps just now does not find it dead.
    made = Path(tempfile.mkdtemp(prefix=f".{PREFIX}{infix}", dir=parent))
    # Not inherited: a child that outlives us is no sign of life.
    lock = os.open(made / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    folder = made.with_name(made.name[1:])
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made.rename(folder)
        keep_folder(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        forget_folder(folder)
        os.close(lock)


def _parent(env: Mapping[str, str]) -> Path:
    wanted = env.get("XDG_RUNTIME_DIR", "")
    short = wanted and len(os.fsencode(wanted)) < LONGEST - 20
    return Path(wanted if short and os.access(wanted, os.W_OK | os.X_OK) else "/tmp")


def _sweep(parent: Path) -> None:
    """Remove folders of ours whose process is dead. In /tmp others may have put what looks like
    one: it has to be a folder, no link, that is this user's and that nobody else can enter."""
    try:
        found = [entry.path for entry in os.scandir(parent) if entry.name.startswith(PREFIX)]
    except OSError:
        return
    for path in found:
        try:
            if _is_dead(path):
                shutil.rmtree(path)
                log.info("runtime_folder_swept", folder=path)
        except OSError as error:
            log.debug("runtime_folder_not_swept", folder=path, reason=str(error))


def _is_dead(path: str) -> bool:
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        return False
    try:
        lock = os.open(
            os.path.join(path, LOCK), os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        )
    except FileNotFoundError:
        return False  # just being made, or nothing of this version's
    try:
        if not stat.S_ISREG(os.fstat(lock).st_mode):
            return False
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True
