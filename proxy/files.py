"""Opens what lies in folders of models, policies and state, whatever it turns out to be, and writes
small files whole.

Files come from anywhere, and beside them lie pipes, sockets and devices: opening one of those can
wait for ever, for a writer that never comes. Only regular files are opened here, and only small
ones are read whole.
"""

import errno
import os
import stat
import tempfile
from io import FileIO
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

T = TypeVar("T")

CHUNK_BYTES: Final = 256 << 10
# There may be secrets in it.
NEW_MODE: Final = 0o600


class NotPlain(OSError):
    """A file that is not the kind of file that it should be; the message is for people."""


class BadJson(ValueError):
    """JSON that is none, is of another shape, or is nested too deep; the message is for people."""


def open_regular(path: Path) -> FileIO:
    """Open a regular file for reading, without a buffer. Raises OSError, for others at once."""
    # Not to be opened at all where opening already does something, as with devices.
    _check(path, os.stat(path).st_mode)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket took its place meanwhile
            raise NotPlain(_refusal(path)) from error
        raise
    try:
        _check(path, os.fstat(handle).st_mode)
        return FileIO(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def check_regular(path: Path) -> os.stat_result:
    """The file's status. Raises OSError where there is none, or it is no regular file."""
    found = os.stat(path)
    _check(path, found.st_mode)
    return found


def is_regular(path: Path) -> bool:
    """Whether there is a regular file that can be looked at."""
    try:
        check_regular(path)
    except (OSError, ValueError):  # ValueError: a name with a NUL
        return False
    return True


def read_small(path: Path, most_bytes: int) -> bytes:
    """All of a regular file. Raises OSError, also for one of more than `most_bytes`."""
    with open_regular(path) as file:
        data = bytearray()
        # In pieces: room is made for as much as is asked for.
        while len(data) <= most_bytes and (chunk := file.read(CHUNK_BYTES)):
            data += chunk
    if len(data) > most_bytes:
        raise NotPlain(f"{path} is larger than any real file of its kind")
    return bytes(data)


def decode_json(data: bytes, kind: type[T] | Any, what: str) -> T:
    """JSON of a file as `kind`. Raises BadJson that begins with `what`."""
    try:
        decoded: T = msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadJson(f"{what}: {error}") from error
    except RecursionError:
        raise BadJson(f"{what}: nested too deep") from None
    return decoded


def shown(path: str) -> str:
    """A path for people and for JSON: Linux takes any bytes as a name."""
    return os.fsencode(path).decode(errors="replace")


def _check(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise NotPlain(_refusal(path))


def _refusal(path: Path) -> str:
    return f"{path} is no regular file"


def replace(file: Path, text: bytes, mode: int | None = None) -> None:
    """Write a file whole, or not at all; its mode stays, where none is given. Raises OSError."""
    if mode is None:
        mode = file.stat().st_mode & 0o7777 if file.exists() else NEW_MODE
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(mode)
        Path(temporary).replace(file)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
