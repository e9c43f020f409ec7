"""Notes of this machine's processes to each other, in a folder that all of its user share.

A lock on a note says that whoever wrote it lives: the kernel gives that up with the process,
however it ends. Those of the dead are removed by whoever looks.
"""

import fcntl
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, TypeVar

import msgspec

Kind = Literal["promise", "reserve"]
T = TypeVar("T")

FOLDER: Final = "moe-lent"
LOCK: Final = "lock"
# Whoever has the lock looks at drivers meanwhile, which may hang.
LOCKED_WITHIN_S: Final = 10.0
LOOKS_AGAIN_S: Final = 0.02


class Notes:
    """In the folder that `env` names. Methods may block."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._folder = _folder_in(env)

    def make_folder(self) -> None:
        """Raises OSError."""
        try:
            self._folder.mkdir(mode=0o700)
        except FileExistsError:
            _check(self._folder)

    def write(self, kind: Kind, what: msgspec.Struct) -> Callable[[], None]:
        """Returns how to take it back. Raises OSError."""
        path = self._folder / f"{os.getpid()}-{secrets.token_hex(4)}.{kind}"
        # Under another name until it is locked, so that who looks just now does not find it dead.
        made = path.with_suffix(".new")
        # Not inherited: what outlives us is no sign of life.
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(made, flags, 0o600)

        def take_back() -> None:
            path.unlink(missing_ok=True)
            os.close(descriptor)

        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.write(descriptor, msgspec.json.encode(what))
            made.rename(path)
        except BaseException:
            made.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        return take_back

    def living(self, kind: Kind, of: type[T]) -> Iterator[tuple[T, float]]:
        """With the seconds since each was written. None where they cannot be read."""
        try:
            _check(self._folder)
            paths = [path for path in self._folder.iterdir() if path.suffix == f".{kind}"]
        except OSError:
            return
        for path in paths:
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError:  # it has ended meanwhile
                continue
            try:
                if _is_locked(descriptor):
                    age_s = time.time() - os.fstat(descriptor).st_mtime
                    yield msgspec.json.decode(os.read(descriptor, 1 << 16), type=of), age_s
                else:
                    path.unlink(missing_ok=True)
            except (OSError, msgspec.DecodeError):
                continue
            finally:
                os.close(descriptor)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """By nobody else, for the length of the block. Raises TimeoutError and OSError."""
        descriptor = os.open(self._folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            until_s = time.monotonic() + LOCKED_WITHIN_S
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > until_s:
                        raise TimeoutError from None
                    time.sleep(LOOKS_AGAIN_S)
            yield
        finally:
            os.close(descriptor)


def _folder_in(env: Mapping[str, str]) -> Path:
    """Gone with the machine's start, as promises are."""
    own = env.get("XDG_RUNTIME_DIR", "")
    if own and os.access(own, os.W_OK | os.X_OK):
        return Path(own) / FOLDER
    return Path("/tmp") / f"{FOLDER}-{os.getuid()}"


def _check(folder: Path) -> None:
    """In /tmp others may have put what looks like it. Raises OSError."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise OSError(f"{folder} is not a folder that only this user can enter")


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
