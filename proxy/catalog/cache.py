"""What was read of stores' manifests, kept over restarts: a start reads those that are new.

Pure but for one file, which holds nothing that could not be read anew.
"""

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import msgspec

from proxy.catalog.entry import Entry
from proxy.catalog.reference import Reference
from proxy.files import read_small

Signature = tuple[int, int, int]
# A file that was written by other code, with other fields, is of no use.
VERSION: Final = " ".join(("3", *(field.name for field in fields(Entry))))


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One manifest as it was read; valid while its file's size, time of change and inode stay, and
    the files that it leads to are the same."""

    signature: Signature
    reference: Reference
    entry: Entry


# Thousands of models come to a few megabytes.
MAX_BYTES: Final = 64 << 20

# By the store's folder, then by the manifest's path below `manifests`.
Stores = Mapping[str, Mapping[str, CacheEntry]]


class _File(msgspec.Struct):
    version: str
    stores: dict[str, dict[str, CacheEntry]]


def load(file: Path | None) -> Stores:
    """What the file holds; nothing where there is none, or none that is usable."""
    if file is None:
        return {}
    try:
        data = read_small(file, MAX_BYTES)
        found = msgspec.json.decode(data, type=_File, dec_hook=_decoded)
    except (OSError, ValueError, RecursionError):
        return {}
    return found.stores if found.version == VERSION else {}


def save(file: Path, stores: Stores) -> None:
    """Write it in one go. A disk that is full or read-only makes the next start slower, no more."""
    found = {root: dict(cache) for root, cache in stores.items()}
    try:
        data = msgspec.json.encode(_File(VERSION, found), enc_hook=_encoded)
    except (ValueError, OverflowError, RecursionError):
        return  # names that are not UTF-8, or what somebody wrote into the last file
    write(file, data)


def write(file: Path, data: bytes) -> None:
    """Replace a cache file, or leave it as it is."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        # A home that is not there, as of some services, is not made for this.
        file.parent.mkdir(exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(file)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _encoded(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise NotImplementedError


def _decoded(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(value)
    raise NotImplementedError
