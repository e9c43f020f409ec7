"""That programs wait for memory, told by the kernel (PSI) in the moment in which they do: nobody
has to look, and nothing wakes while memory is well.
"""

import asyncio
import os
import select
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

PRESSURE: Final = Path("/proc/pressure/memory")
# Some task has waited for a tenth of a window. Windows of other than whole 2 s are for root alone.
STALLED_S: Final = 0.2
WINDOW_S: Final = 2.0


@contextmanager
def told_of_pressure(
    tell: Callable[[], object],
    file: Path = PRESSURE,
    *,
    stalled_s: float = STALLED_S,
    window_s: float = WINDOW_S,
) -> Iterator[bool]:
    """Within the block, `tell` is called on the running event loop when tasks have waited for
    memory for `stalled_s` out of `window_s`, at most once in each such window. Whether it is: not
    where the kernel has no PSI (a container's may not), or does not let us have its word."""
    with ExitStack() as stack:
        try:
            handle = os.open(file, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            stack.callback(os.close, handle)
            os.write(handle, f"some {stalled_s * 1e6:.0f} {window_s * 1e6:.0f}\0".encode())
            stack.enter_context(urgent(handle, tell))
        except OSError:
            yield False
            return
        yield True


@contextmanager
def urgent(handle: int, tell: Callable[[], object]) -> Iterator[None]:
    """Within the block, call `tell` for each of a file's urgent events. Event loops wait for others
    only, which such a file seems to have at all times. Raises OSError for what has no such thing.
    """
    loop = asyncio.get_running_loop()
    with select.epoll() as events:
        events.register(handle, select.EPOLLPRI)

        def happened() -> None:
            for _, event in events.poll(0):
                if event & (select.EPOLLERR | select.EPOLLHUP):
                    loop.remove_reader(events.fileno())  # nothing will come any more
                if event & select.EPOLLPRI:
                    tell()

        loop.add_reader(events.fileno(), happened)
        try:
            yield
        finally:
            loop.remove_reader(events.fileno())
