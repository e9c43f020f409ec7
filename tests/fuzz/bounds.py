"""What one input may cost: whoever sends it must not be able to keep the proxy busy, or to fill its
memory. Processor time, not time: a slow machine passes, and one that is busy with others too.
"""

import contextlib
import resource
import time
import tracemalloc
from collections.abc import Iterator

# A few milliseconds is what inputs of some KB take; what grows with a power of its length does not
# stay below this.
MOST_S = 5.0
MOST_BYTES = 64 << 20


@contextlib.contextmanager
def little_time(most_s: float = MOST_S) -> Iterator[None]:
    """Of this thread. What never ends is ended by the test's own limit."""
    began_s = time.thread_time()
    yield
    used_s = time.thread_time() - began_s
    assert used_s < most_s, f"{used_s:.1f} s for one input"


@contextlib.contextmanager
def little_memory(most_bytes: int = MOST_BYTES) -> Iterator[None]:
    """Of Python's objects, exactly; everything is slower meanwhile."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < most_bytes, f"{peak} bytes for one input"


@contextlib.contextmanager
def little_growth(most_bytes: int = MOST_BYTES) -> Iterator[None]:
    """Of the process, as far as it has never been larger: quick enough for millions of inputs."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    assert grown < most_bytes, f"{grown} bytes for one input"
