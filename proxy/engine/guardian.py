"""Sees to it that nothing of ours outlives us, however we end: by `kill -9`, by a crash, or at once
because a thread hangs.

A small process of its own reads from a pipe of which only we have the other end. When that closes,
which the kernel sees to, what was named here and not taken back is killed, run or removed: also a
process that is stopped, and what an engine's shell has started. One serves this whole process; it
is started when it is first needed.
"""

import atexit
import itertools
import json
import os
import secrets
import select
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import structlog

from proxy.engine.environment import inherited

log = structlog.get_logger()

TOLD_WITHIN_S: Final = 1.0  # it takes a moment to begin
# In the environment of all that we start: so a child is known that nobody could name in time.
MARK: Final = {"MOE_PROXY_CHILD_OF": secrets.token_hex(16)}
PROGRAM: Final = Path(__file__).with_name("guardian_process.py")


class _Guardian:
    def __init__(self) -> None:
        # Folders are named on threads.
        self._lock = threading.Lock()
        # What changes: the process, and what it was told and not told to forget.
        self._process: subprocess.Popen[bytes] | None = None
        self._kept: dict[str, str] = {}

    def keep(self, kind: str, what: str) -> None:
        with self._lock:
            self._kept[what] = kind
            if self._process is None or not self._tell(f"+{kind} {what}\n"):
                self._begin()

    def forget(self, kind: str, what: str) -> None:
        with self._lock:
            if self._kept.pop(what, None) is not None and not self._tell(f"-{kind} {what}\n"):
                self._begin()

    def end(self) -> None:
        """Where we end in order: what is left is seen to at once, and nothing is left to reap."""
        with self._lock:
            if self._process is not None and self._process.stdin is not None:
                try:
                    self._process.stdin.close()
                    self._process.wait(5)
                except (OSError, subprocess.TimeoutExpired):
                    pass

    def _begin(self) -> None:
        """Start it, or start another where somebody has ended it, and tell it everything."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        try:
            self._process = subprocess.Popen(
                # Without what the environment or the site would add: it is up in no time.
                [sys.executable, "-I", "-S", str(PROGRAM), *map("=".join, MARK.items())],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=inherited(os.environ),
                cwd="/",
                start_new_session=True,
            )
            assert self._process.stdin is not None
            # One that is stopped must not stop us: it is replaced.
            os.set_blocking(self._process.stdin.fileno(), False)
        except OSError as error:
            log.error("no_guardian", reason=str(error), hint="kill -9 would leave workers behind")
            return
        # One that does not listen from its first moment on is given up, for all that is left.
        if not all(self._tell(f"+{kind} {what}\n") for what, kind in self._kept.items()):
            log.error("guardian_not_told", hint="kill -9 would leave workers behind")

    def _tell(self, order: str) -> bool:
        if self._process is None or self._process.stdin is None:
            return False
        pipe, left = self._process.stdin.fileno(), order.encode()
        ready = select.poll()
        ready.register(pipe, select.POLLOUT)
        while left:
            try:
                left = left[os.write(pipe, left) :]  # unbuffered
            except BlockingIOError:
                # More than the pipe holds, as a long environment may be. It reads all the time, so
                # that only a stopped one is not told everything.
                if not ready.poll(TOLD_WITHIN_S * 1000):
                    return False
            except OSError:
                return False
        return True


_numbers = itertools.count()
_guardian = _Guardian()
atexit.register(_guardian.end)


def keep_group(group: int) -> None:
    """Have this process group killed if we end before `forget_group`."""
    _guardian.keep("", str(group))


def forget_group(group: int) -> None:
    """It has ended."""
    _guardian.forget("", str(group))


def keep_command(argv: Sequence[str], env: Mapping[str, str]) -> str:
    """Have this program run, with all of its environment, if we end before `forget_command`, which
    takes what this returns: several may be alike."""
    order = json.dumps([next(_numbers), *argv, dict(env)])
    _guardian.keep("!", order)
    return order


def forget_command(order: str) -> None:
    """It was run."""
    _guardian.forget("!", order)


def keep_folder(folder: Path) -> None:
    """Have this folder removed if we end before `forget_folder`."""
    _guardian.keep("/", json.dumps(str(folder)))


def forget_folder(folder: Path) -> None:
    """It is gone."""
    _guardian.forget("/", json.dumps(str(folder)))
