"""Which options a build of llama.cpp has that others lack."""

import mmap
from functools import lru_cache
from pathlib import Path
from typing import Final

from proxy.engine import installed

EXPERT_CACHE: Final = "--moe-cache-mib"
# Where llama.cpp's table of options is compiled in.
LIBRARY: Final = "libllama-common.so"
NO_CACHE: Final = f"this build of llama.cpp has no expert cache ({EXPERT_CACHE})"


def has_expert_cache(libdir: Path | None) -> bool:
    """Whether the libraries in this folder, or llama-cpp-python's, know of an expert cache.

    They are asked by their text: llama-server's own help would need a process that starts drivers.
    Blocking; what was read of a file is remembered as long as that is the same.
    """
    folder = libdir or installed.folder("lib")
    if folder is None:
        return False
    file = folder / LIBRARY
    try:
        found = file.stat()
        return _has(file, found.st_mtime_ns, found.st_size, EXPERT_CACHE)
    except (OSError, ValueError):  # ValueError: it is empty
        return False


@lru_cache(maxsize=64)
def _has(file: Path, mtime_ns: int, size: int, option: str) -> bool:
    with file.open("rb") as library, mmap.mmap(library.fileno(), 0, prot=mmap.PROT_READ) as text:
        return text.find(option.encode() + b"\0") != -1
