"""A folder whose disk does not answer any more, as that of a file server that is gone.

A FUSE file system that nobody serves, in a mount namespace that only one command sees:

    python tests/support/dead_mount.py FOLDER COMMAND ...

Whoever looks below FOLDER waits for ever; only SIGKILL ends that. It needs root, and ends with the
command.
"""

import ctypes
import os
import sys
from functools import cache
from pathlib import Path

CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 0x40000


def dead_mount(folder: Path, *command: str) -> tuple[str, ...]:
    """The command line of `command` with a dead disk at `folder`."""
    return (sys.executable, __file__, str(folder), *command)


@cache
def can_mount() -> bool:
    """Whether this user may, on this machine."""
    if not (child := os.fork()):
        try:
            _mount(b"/mnt")
            os._exit(0)
        except OSError:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _mount(folder: bytes) -> None:
    libc = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *arguments: object) -> None:
        if getattr(libc, name)(*arguments):
            raise OSError(ctypes.get_errno(), name)

    call("unshare", CLONE_NEWNS)
    call("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    nobody = os.open("/dev/fuse", os.O_RDWR)
    os.set_inheritable(nobody, True)
    options = f"fd={nobody},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
    call("mount", b"dead", folder, b"fuse", 0, options.encode())


if __name__ == "__main__":
    _mount(os.fsencode(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
