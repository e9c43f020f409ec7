"""What a load would read from disk, and whether that is still what it was."""

import asyncio
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from proxy.catalog.gguf import GgufError
from proxy.catalog.parts import parts_of
from proxy.engine.types import LoadOptions
from proxy.errors import Hangs, LoadFailed
from proxy.threads import MODELS

# Of each file that is there: path, inode, time of the last change in nanoseconds, size in bytes.
Files = tuple[tuple[str, int, int, int], ...]

LOOK_S: Final = 5.0  # what a disk takes to say how old a file is, at most


async def files_now(options: LoadOptions) -> Files | None:
    """The files that a load of `options` reads, as they are now. None where a disk does not say in
    time, as one that is not reached any more."""
    try:
        return await asyncio.wait_for(MODELS.run(files_of, options), LOOK_S)
    except (TimeoutError, Hangs):
        return None


def files_of(options: LoadOptions) -> Files:
    """The same. Asks the disk: not for the event loop."""
    return tuple(_seen(options))


def _seen(options: LoadOptions) -> Iterator[tuple[str, int, int, int]]:
    for path in _named(options):
        try:
            found = path.stat()
        except (OSError, ValueError):  # ValueError: a name with a NUL
            continue  # that it comes is a change too
        yield str(path), found.st_ino, found.st_mtime_ns, found.st_size


def files_to_read(options: LoadOptions) -> Iterator[tuple[str, Path]]:
    """The files that llama-server is told to open, with what each is to people. Raises GgufError
    where a part of the model is missing."""
    yield from (("file", path) for path in parts_of(options.path))
    yield from _beside(options)


async def refuse_pipes(options: LoadOptions) -> None:
    """Raises LoadFailed where whoever opens the model would wait for what is written into it, or
    for its disk. It may be a folder, as some engines read, or not there."""
    try:
        mode = await MODELS.run(os.stat, options.path)
    except (OSError, ValueError):
        return
    except Hangs as error:
        raise LoadFailed(f"model {options.model!r}: {error.message}") from error
    if not (stat.S_ISREG(mode.st_mode) or stat.S_ISDIR(mode.st_mode)):
        raise LoadFailed(
            f"model {options.model!r} cannot be loaded: {options.path} is no regular file"
        )


def _beside(options: LoadOptions) -> Iterator[tuple[str, Path]]:
    if options.projector:
        yield "projector", options.projector
    yield from (("adapter", path) for path in options.adapters)
    if options.template:
        yield "chat template", options.template


def _named(options: LoadOptions) -> Iterator[Path]:
    try:
        yield from parts_of(options.path)
    except (GgufError, OSError, ValueError):  # a part is missing
        yield options.path
    yield from (path for _, path in _beside(options))
    if options.libdir:
        yield options.libdir
    yield from options.backends
    if options.command and (program := shutil.which(options.command[0])):
        yield Path(program)
