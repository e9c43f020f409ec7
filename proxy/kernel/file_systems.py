"""Which file systems tell of each change in them. On others, such as a network's, one may be made
where our kernel does not see it."""

import ctypes
import os
from pathlib import Path
from typing import Final

# By statfs(2).
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


def tells(path: Path) -> bool:
    """Whether the file system of a path tells of each change. May block."""
    found = (ctypes.c_long * 64)()  # more than a struct statfs; it begins with the type
    if _libc.statfs(os.fsencode(path), found) < 0:
        return False
    return found[0] & 0xFFFFFFFF in _TELLING
