"""Headers that were read, for as long as their files stay as they were: a load asks for one several
times, and that of a large vocabulary takes milliseconds, or the time of a disk."""

import threading
from pathlib import Path
from typing import Final

from cachetools import LRUCache

from proxy.catalog.gguf import Header
from proxy.catalog.gguf_reader import read_header
from proxy.catalog.parts import parts_of

# Lists of models need none.
KEPT: Final = 64

_Signature = tuple[tuple[int, int, int], ...]
_kept: LRUCache[Path, tuple[_Signature, Header]] = LRUCache(KEPT)
_lock = threading.Lock()


def header_at(path: Path) -> Header:
    """What `read_header` returns, and raises. Asks the disk: not for the event loop."""
    signature = tuple(_seen(file) for file in parts_of(path))
    with _lock:
        known = _kept.get(path)
    if known is not None and known[0] == signature:
        return known[1]
    header = read_header(path)
    with _lock:
        _kept[path] = signature, header
    return header


def _seen(file: Path) -> tuple[int, int, int]:
    stat = file.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
