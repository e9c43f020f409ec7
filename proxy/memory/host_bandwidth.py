"""How fast main memory is read: measured, since no system tells it."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from proxy.memory.host import available_host_bytes

CPUS: Final = Path("/sys/devices/system/cpu")
# Caches hold some of a buffer that is not several times as large, and are not what is asked for.
TIMES_CACHES: Final = 3
SMALLEST_BYTES: Final = 96 << 20
LARGEST_BYTES: Final = 1 << 30
# Whoever is this short of memory is not to be robbed of more of it.
SHARE_OF_RAM: Final = 8
PASSES: Final = 4


def host_bandwidth(threads: int | None, cpus: Path = CPUS) -> float | None:
    """Bytes a second that this many threads read together; as many as there are processors for
    None. Takes some tens of milliseconds, most of them to write what is then read.

    None where there is too little RAM to try. Blocking: not for the event loop.
    """
    import numpy as np  # here: it takes longer to import than to measure

    size = _size(cpus)
    if (available_host_bytes() or 0) < size * SHARE_OF_RAM:
        return None
    count = threads or len(os.sched_getaffinity(0))
    # Ones: pages that nobody has written to are all the same page.
    try:
        parts = np.array_split(np.ones(size, np.uint8), count)
    except MemoryError:  # a limit of the process's own
        return None
    best_s = float("inf")
    with ThreadPoolExecutor(count, "memory speed") as pool:
        for _ in range(PASSES):
            began = time.perf_counter()
            list(pool.map(_read, parts))
            best_s = min(best_s, time.perf_counter() - began)
    return size / best_s


def _read(part: Any) -> None:
    part.max()  # by vectors, and without Python's lock


def _size(cpus: Path) -> int:
    return min(max(TIMES_CACHES * last_level_bytes(cpus), SMALLEST_BYTES), LARGEST_BYTES)


def last_level_bytes(cpus: Path = CPUS) -> int:
    """What all caches of the third level hold together; 0 where the system does not tell."""
    caches: dict[str, int] = {}
    for folder in cpus.glob("cpu[0-9]*/cache/index3"):
        try:
            sharing = (folder / "shared_cpu_list").read_text().strip()
            size = (folder / "size").read_text().strip()
        except OSError:
            continue
        if size.endswith("K") and size[:-1].isdigit():
            caches[sharing] = int(size[:-1]) << 10
    return sum(caches.values())
