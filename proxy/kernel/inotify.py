"""What happens in folders, told by the kernel (inotify): nobody has to look, and nothing wakes
while nothing happens.

Of our own: of the libraries for it, one has a thread that looks many times a second whether it was
told something, which is most of what an idle proxy would cost; another starts a compiler to find
the C library.
"""

import asyncio
import ctypes
import errno
import os
import struct
import weakref
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

MODIFY: Final = 0x2
ATTRIB: Final = 0x4
CLOSE_WRITE: Final = 0x8
MOVED: Final = 0x40 | 0x80
CREATE: Final = 0x100
DELETE: Final = 0x200
SELF: Final = 0x400 | 0x800  # it was itself deleted or moved
# What the kernel adds: unmounted, some were lost, not watched any more; and of the entry, that it
# is a folder.
_ALWAYS: Final = 0x2000 | 0x4000 | 0x8000
_LOST: Final = 0x4000
_ISDIR: Final = 0x40000000

_EVENT: Final = struct.Struct("iIII")
_READ_BYTES: Final = 1 << 16
_NONBLOCK_CLOEXEC: Final = os.O_NONBLOCK | os.O_CLOEXEC
# By statfs(2). On others, such as a network's, a change may be made where our kernel does not see
# it.
_TELLING: Final = frozenset(
    {
        0xEF53,  # ext2, ext3, ext4
        0x9123683E,  # btrfs
        0x58465342,  # xfs
        0x01021994,  # tmpfs
        0x858458F6,  # ramfs
        0x794C7630,  # overlay
        0x2FC12FC1,  # zfs
        0xF2F52010,  # f2fs
        0xCA451A4E,  # bcachefs
        0x4D44,  # fat
        0x2011BAB0,  # exfat
        0x5346544E,  # ntfs
    }
)

_libc: Final = ctypes.CDLL(None, use_errno=True)


class Happened(NamedTuple):
    """One event. `name` is empty where it is about what is watched itself; `folder` is None where
    some events were lost: anything may have happened."""

    folder: Path | None
    name: str
    is_folder: bool


class Events:
    """What happens from the moment on in which this is made. To be made where it may block, to be
    read on an event loop, and to be closed."""

    def __init__(self, wanted: Mapping[Path, int]) -> None:
        """`wanted`: folders or files, and what is to be told of each. One that has gone meanwhile
        is left out. Raises OSError, as where this user may have no more watches."""
        handle = _checked(_libc.inotify_init1(_NONBLOCK_CLOEXEC), "inotify")
        self.close = weakref.finalize(self, os.close, handle)
        self._handle = handle
        self._paths: dict[int, Path] = {}
        for path, mask in wanted.items():
            with suppress(FileNotFoundError, NotADirectoryError):
                name = os.fsencode(path)
                number = _checked(_libc.inotify_add_watch(handle, name, mask), str(path))
                self._paths[number] = path
        # Whether each change is told of; else it takes a look now and then.
        self.complete = all(map(_tells, wanted))
        # What changes: who waits, and whether he is to look for another reason.
        self._waiting: asyncio.Future[None] | None = None
        self._woken = False

    def wake(self) -> None:
        """Have who waits, or who will wait next, go on without an event."""
        self._woken = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def next(self, within_s: float) -> list[Happened]:
        """What has happened since the last call; waits for something for so long. Raises OSError
        once it is closed."""
        if not (found := self._read()) and not self._woken:
            await self._wait(within_s)
            found = self._read()
        self._woken = False
        return found

    async def quiet(self, pause_s: float, most_s: float) -> list[Happened]:
        """What happens until nothing does for `pause_s`; for `most_s` at most."""
        loop = asyncio.get_running_loop()
        found: list[Happened] = []
        until_s = loop.time() + most_s
        while (left_s := until_s - loop.time()) > 0:
            if not (more := await self.next(min(pause_s, left_s))):
                break
            found += more
        return found

    async def _wait(self, within_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._waiting = waiting = loop.create_future()

        def ready() -> None:
            if not waiting.done():
                waiting.set_result(None)

        loop.add_reader(self._handle, ready)
        try:
            await asyncio.wait((waiting,), timeout=within_s)
        finally:
            loop.remove_reader(self._handle)
            self._waiting = None

    def _read(self) -> list[Happened]:
        if not self.close.alive:
            raise OSError(errno.EBADF, "closed")  # the number may be another file's by now
        found: dict[Happened, None] = {}
        with suppress(BlockingIOError):
            while data := os.read(self._handle, _READ_BYTES):
                found.update(dict.fromkeys(self._parsed(data)))
        return [*found]

    def _parsed(self, data: bytes) -> Iterator[Happened]:
        at = 0
        while at < len(data):
            number, mask, _, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size
            name = os.fsdecode(data[at : at + length].rstrip(b"\0"))
            at += length
            lost = bool(mask & _LOST)
            yield Happened(None if lost else self._paths.get(number), name, bool(mask & _ISDIR))


def _checked(answer: int, what: str) -> int:
    if answer < 0:
        number = ctypes.get_errno()
        why = "no watches are left" if number == errno.ENOSPC else os.strerror(number)
        raise OSError(number, why, what)
    return answer


def _tells(path: Path) -> bool:
    """Whether the file system of a path tells of each change."""
    found = (ctypes.c_long * 64)()  # more than a struct statfs; it begins with the type
    if _libc.statfs(os.fsencode(path), found) < 0:
        return False
    return found[0] & 0xFFFFFFFF in _TELLING
