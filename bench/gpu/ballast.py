"""Takes device memory until only so much is left free, and holds it until standard input ends.

    python -m bench.gpu.ballast BYTES_LEFT_FREE

A process of its own, so that its CUDA context is none of those that are measured.
"""

import ctypes as c
import sys
from collections.abc import Iterator
from pathlib import Path

CHUNK = 1 << 30
PLACES = ("/usr/local/cuda/lib64", "/usr/local/cuda/targets/x86_64-linux/lib", "/usr/lib64")


def names() -> Iterator[str]:
    """What CUDA's runtime library may be called."""
    yield "libcudart.so"
    for place in PLACES:
        yield from map(str, sorted(Path(place).glob("libcudart.so*")))


def cudart() -> c.CDLL:
    """CUDA's runtime. Raises OSError where there is none."""
    for name in names():
        try:
            return c.CDLL(name)
        except OSError:
            continue
    raise OSError("no libcudart.so: is CUDA installed?")


def memory(library: c.CDLL) -> tuple[int, int]:
    """(free, total) bytes of the first device."""
    free, total = c.c_size_t(), c.c_size_t()
    if status := library.cudaMemGetInfo(c.byref(free), c.byref(total)):
        raise OSError(f"cudaMemGetInfo: error {status}")
    return free.value, total.value


def take(library: c.CDLL, left_free: int) -> int:
    """Allocate all but `left_free` bytes; returns how much that was."""
    taken = 0
    library.cudaMalloc.argtypes = (c.c_void_p, c.c_size_t)
    while (spare := memory(library)[0] - left_free) >= 1 << 20:
        pointer, size = c.c_void_p(), min(spare, CHUNK)
        if library.cudaMalloc(c.byref(pointer), size):
            break
        taken += size
    return taken


def main() -> None:
    library = cudart()
    taken = take(library, int(sys.argv[1]))
    free, total = memory(library)
    print(f"{taken} bytes taken, {free} of {total} free", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
