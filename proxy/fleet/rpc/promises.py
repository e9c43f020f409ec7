"""What this machine has promised to others and they have not filled yet: so it is promised once.

Whoever lends notes it in a folder that all of the machine's user share. A lock on its note says
that it lives, and goes with its process, however that ends. What its servers hold is in the
machine's own readings already, so that only the rest of a promise is taken off them.
"""

import fcntl
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from proxy.fleet.rpc.held import held_below
from proxy.text import gib

FOLDER: Final = "moe-lent"
ENDING: Final = ".promise"
LOCK: Final = "lock"
# Whoever has the lock looks at drivers meanwhile, which may hang.
LOCKED_WITHIN_S: Final = 10.0
LOOKS_AGAIN_S: Final = 0.02
# Where nobody tells what a server holds of a card, it is taken to have all of it by then.
FILLED_WITHIN_S: Final = 60.0

# What this machine has free, by place, and what of a place the processes below one hold; None: not
# known.
Free = Callable[[], Mapping[str, int]]
Held = Callable[[int, str], int | None]


class NotPromised(Exception):
    """Why not, in words for people."""


class Promise(msgspec.Struct, frozen=True):
    """A note: who lends, and so many bytes of each place."""

    pid: int
    bytes_of: dict[str, int]


class Promises:
    """Those of this machine, in a folder that `env` names. Methods may block."""

    def __init__(self, env: Mapping[str, str], held: Held = held_below) -> None:
        self._folder, self._held = _folder_in(env), held

    def open(self) -> Mapping[str, int]:
        """What was promised and is not filled, by place. Notes of the dead are removed. Nothing
        where there is none, or where it cannot be read."""
        sums: dict[str, int] = {}
        for note in self._living():
            for place, size in self._left(note).items():
                sums[place] = sums.get(place, 0) + size
        return sums

    @contextmanager
    def made(self, free: Free, wanted: int, least: int) -> Iterator[int]:
        """Promise so many bytes for the length of the block, or as many as `free` leaves beside
        the promises of others: it says how many. Raises NotPromised where that is less than
        `least`, and OSError."""
        self._make_folder()
        with self._locked():
            promised = self.open()
            left = {place: size - promised.get(place, 0) for place, size in free().items()}
            shares = _shared(left, wanted)
            size = sum(shares.values())
            if size < max(least, 1):
                raise NotPromised(_why(least, left, promised))
            path, descriptor = self._note(Promise(os.getpid(), shares))
        try:
            yield size
        finally:
            path.unlink(missing_ok=True)
            os.close(descriptor)

    def _note(self, promise: Promise) -> tuple[Path, int]:
        path = self._folder / f"{promise.pid}-{secrets.token_hex(4)}{ENDING}"
        # Under another name until it is locked, so that who looks just now does not find it dead.
        made = path.with_suffix(".new")
        # Not inherited: what outlives us is no sign of life.
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(made, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.write(descriptor, msgspec.json.encode(promise))
            made.rename(path)
        except BaseException:
            made.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        return path, descriptor

    def _living(self) -> Iterator[tuple[Promise, float]]:
        """With the seconds since each was made."""
        try:
            _check(self._folder)
            paths = [path for path in self._folder.iterdir() if path.suffix == ENDING]
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
                    yield msgspec.json.decode(os.read(descriptor, 1 << 16), type=Promise), age_s
                else:
                    path.unlink(missing_ok=True)
            except (OSError, msgspec.DecodeError):
                continue
            finally:
                os.close(descriptor)

    def _left(self, note: tuple[Promise, float]) -> Mapping[str, int]:
        promise, age_s = note
        left = {}
        for place, size in promise.bytes_of.items():
            held = self._held(promise.pid, place)
            if held is None:
                held = size if age_s > FILLED_WITHIN_S else 0
            left[place] = max(size - held, 0)
        return left

    def _make_folder(self) -> None:
        try:
            self._folder.mkdir(mode=0o700)
        except FileExistsError:
            _check(self._folder)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            until_s = time.monotonic() + LOCKED_WITHIN_S
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > until_s:
                        raise NotPromised("another load has had its promises to itself") from None
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


def _why(least: int, left: Mapping[str, int], promised: Mapping[str, int]) -> str:
    most = max([0, *left.values()])
    return (
        f"{gib(least)} are asked for, {gib(most)} are free beside {gib(sum(promised.values()))} "
        "that are promised to others"
    )


def _shared(left: Mapping[str, int], wanted: int) -> dict[str, int]:
    """Of the place with the most."""
    place = max(left, key=lambda each: left[each], default=None)
    if place is None or left[place] <= 0:
        return {}
    return {place: min(wanted, left[place])}
