"""Where the log goes: a stream that never waits for whoever reads it, and never fails.

A pipe that nobody reads any more, a full disk, a terminal that is gone or that somebody has stopped
with Ctrl-S: none of these is to hold up an answer. What does not go out is lost, and counted.

Pipes and sockets, such as systemd and containers have, are written to at once while they take what
comes: handing each line to a thread cost a sixth of what a short request does.
"""

import errno
import os
import select
import threading
import time
from collections import deque
from typing import Final

import structlog

from proxy.errors import reason_of

log = structlog.get_logger()

# What waits for a slow reader; a few thousand lines.
KEPT_BYTES: Final = 1 << 20


class LogStream:
    """A text stream for `proxy.observe.log.setup`. What is not taken at once goes out on a thread
    of its own."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._at_once = hasattr(os, "RWF_NOWAIT")
        self._changed = threading.Condition()
        # What changes: the lines that wait, with the one that is being written, and what was lost.
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._lost = 0
        self._why = ""
        threading.Thread(target=self._run, daemon=True, name="log").start()

    def write(self, text: str) -> int:
        data = text.encode(errors="backslashreplace")
        with self._changed:
            if self._at_once and not (self._lines or self._lost):
                data = data[self._taken(data) :]
            if not data:
                pass
            elif self._bytes + len(data) > KEPT_BYTES and self._lines:
                self._lost += 1
                self._why = "nobody reads it fast enough"
            else:
                self._lines.append(data)
                self._bytes += len(data)
                self._changed.notify_all()
        return len(text)

    def _taken(self, data: bytes) -> int:
        """How many bytes could be written without any waiting."""
        try:
            return os.pwritev(self._descriptor, [data], -1, os.RWF_NOWAIT)
        except OSError as error:
            # Files, terminals and older kernels cannot say whether they would wait.
            self._at_once = error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
            return 0

    def flush(self) -> None:
        """Nothing is to wait here; see `drain`."""

    def isatty(self) -> bool:
        try:
            return os.isatty(self._descriptor)
        except OSError:
            return False

    def drain(self, within_s: float) -> None:
        """Wait until all is written, but no longer than so many seconds; for the end."""
        deadline = time.monotonic() + within_s
        with self._changed:
            while self._lines and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._lines:
                    self._changed.wait()
                data = self._lines[0]
            why = _write(self._descriptor, data)
            with self._changed:
                self._lines.popleft()
                self._bytes -= len(data)
                if why:
                    self._lost, self._why = self._lost + 1, why
                lost, reason = self._lost, self._why
                if lost and not why:
                    self._lost = 0
                self._changed.notify_all()
            if lost and not why:
                log.warning("log_lines_lost", lines=lost, reason=reason)


def _write(descriptor: int, data: bytes) -> str:
    """Write all of it; returns why it could not be, or nothing."""
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # whoever shares it has set it so
            select.select((), (descriptor,), ())
        except OSError as error:
            return reason_of(error)
    return ""
