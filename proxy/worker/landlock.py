"""Linux's Landlock, by which a process gives up what it will not need: its system calls, no policy.

Constants are those of <linux/landlock.h>. The libraries that there are for it on PyPI are young, or
know nothing of TCP; what is needed here is three system calls.
"""

import ctypes as c
import errno
import os
import struct
import sys
from collections.abc import Iterable, Mapping
from enum import IntFlag
from pathlib import Path
from typing import Final

# Of <asm-generic/unistd.h>, and the same on all that llama.cpp is built for.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION: Final = 1  # LANDLOCK_CREATE_RULESET_VERSION
_PATH_BENEATH, _NET_PORT = 1, 2  # enum landlock_rule_type
_PR_SET_NO_NEW_PRIVS: Final = 38  # <linux/prctl.h>


class Fs(IntFlag):
    """LANDLOCK_ACCESS_FS_..., but for reading and for ioctls of devices."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14


class Net(IntFlag):
    """LANDLOCK_ACCESS_NET_..."""

    BIND_TCP = 1 << 0
    CONNECT_TCP = 1 << 1


class Scope(IntFlag):
    """LANDLOCK_SCOPE_...: processes that are not confined with this one."""

    ABSTRACT_UNIX_SOCKET = 1 << 0
    SIGNAL = 1 << 1


OVERWRITE: Final = Fs.WRITE_FILE | Fs.TRUNCATE
# What a folder may be given, beyond what a file may.
CHANGE: Final = (
    OVERWRITE
    | (Fs.REMOVE_DIR | Fs.REMOVE_FILE | Fs.REFER)
    | (Fs.MAKE_DIR | Fs.MAKE_REG | Fs.MAKE_SOCK | Fs.MAKE_FIFO | Fs.MAKE_SYM)
)
# The version of Landlock from which on each is known. By name: as numbers, those of one kind equal
# those of another.
_SINCE: Final[Mapping[str | None, int]] = {
    "REFER": 2,
    "TRUNCATE": 3,
    "BIND_TCP": 4,
    "CONNECT_TCP": 4,
    "ABSTRACT_UNIX_SOCKET": 6,
    "SIGNAL": 6,
}

_libc = c.CDLL(None, use_errno=True)
_libc.syscall.restype = c.c_long


def version() -> int:
    """The kernel's version of Landlock. Raises OSError where it has none, or it is off."""
    if sys.platform != "linux":  # where these numbers are other calls
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    return _call(_CREATE_RULESET, None, c.c_size_t(0), c.c_uint32(_VERSION))


def known(rights: IntFlag, version: int) -> int:
    """Those of `rights` that this version knows: of others it would refuse all."""
    single = (right for right in type(rights) if right in rights)
    return sum(right for right in single if _SINCE.get(right.name, 1) <= version)


def restrict(
    version: int,
    *,
    fs: Fs,
    net: Net,
    scope: Scope,
    paths: Iterable[tuple[Path, Fs]],
    ports: Iterable[int],
) -> None:
    """Give up these rights for this thread and all that it starts from now on, as far as `version`
    knows them: on the file system but for `paths` and what is below them, of TCP but for
    connections to `ports`.

    A path that is not there is left out. Raises OSError, and then nothing is given up.
    """
    handled = known(fs, version)
    sizes = {1: 1, 4: 2, 6: 3}  # how many of the fields a version knows
    size = sizes[max(since for since in sizes if since <= version)]
    fields = (handled, known(net, version), known(scope, version))[:size]
    ruleset = _call(_CREATE_RULESET, *_struct(f"={len(fields)}Q", *fields), c.c_uint32(0))
    try:
        for path, rights in paths:
            _allow_path(ruleset, path, known(rights, version) & handled)
        for port in ports if known(net, version) & Net.CONNECT_TCP else ():
            rule = _struct("=QQ", Net.CONNECT_TCP, port)[0]
            _call(_ADD_RULE, c.c_int(ruleset), c.c_int(_NET_PORT), rule, c.c_uint32(0))
        if _libc.prctl(_PR_SET_NO_NEW_PRIVS, *map(c.c_ulong, (1, 0, 0, 0))):
            raise _error()
        _call(_RESTRICT_SELF, c.c_int(ruleset), c.c_uint32(0))
    finally:
        os.close(ruleset)


def _allow_path(ruleset: int, path: Path, rights: int) -> None:
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
            return
        raise
    try:
        rights = rights if os.path.isdir(opened) else rights & OVERWRITE
        rule = _struct("=Qi", rights, opened)[0]  # packed, unlike others
        if rights:
            _call(_ADD_RULE, c.c_int(ruleset), c.c_int(_PATH_BENEATH), rule, c.c_uint32(0))
    finally:
        os.close(opened)


def _struct(layout: str, *values: int) -> tuple[c.Array[c.c_char], c.c_size_t]:
    data = struct.pack(layout, *values)
    return c.create_string_buffer(data, len(data)), c.c_size_t(len(data))


def _call(number: int, *arguments: object) -> int:
    result = _libc.syscall(c.c_long(number), *arguments)
    if result < 0:
        raise _error()
    return int(result)


def _error() -> OSError:
    number = c.get_errno()
    return OSError(number, os.strerror(number))
