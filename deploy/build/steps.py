"""Running one step of the set-up: what it is about is printed, what it says goes to a log."""

import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

# How often a long step says where it is: on a terminal it rewrites its line, in a log it adds one.
TERMINAL_INTERVAL_S = 1.0
LOG_INTERVAL_S = 30.0
# ninja's "[12/242] ..." and make's "[ 45%] ...".
STEP_OF = re.compile(r"\s*\[(\d+/\d+|\s*\d+%)\]")
TAIL_LINES = 40
KEPT_LINES = 2000  # the first error is far above the last line


class Failure(Exception):
    """The set-up cannot go on; the message says what to do about it."""


def say(text: str) -> None:
    """One line about what is being done now."""
    print(f"set-up: {text}", flush=True)


def run(
    command: list[str],
    log: Path,
    *,
    env: dict[str, str] | None = None,
    title: str = "",
    explain: Callable[[str], str | None] = lambda _: None,
) -> None:
    """Runs a command with its output appended to `log`. With a `title`, reports its progress.

    Raises Failure if it fails, with what `explain` makes of the output, else with its last lines.
    """
    with log.open("a", encoding="utf-8", errors="replace") as file:
        file.write(f"\n$ {' '.join(command)}\n")
        process = subprocess.Popen(
            command,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # a group of its own, to be ended as a whole
        )
        output = Output(process, file)
        try:
            output.follow(title)
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)  # pip alone would leave the compilers behind
            output.follow("")
            raise
        finally:
            process.wait()
    if process.returncode != 0:
        if why := explain("".join(output.kept)):
            raise Failure(f"{why}\nAll of its output: {log}")
        tail = "".join([*output.kept][-TAIL_LINES:])
        raise Failure(
            f"failed with exit status {process.returncode}: {' '.join(command[:6])} ...\n"
            f"{tail}\nAll of its output: {log}"
        )


class Output:
    """Reads a process's output on a thread: into the log, the last lines, and the step it is at."""

    def __init__(self, process: "subprocess.Popen[str]", log: IO[str]) -> None:
        self.kept: deque[str] = deque(maxlen=KEPT_LINES)
        assert process.stdout is not None  # it is a pipe
        self._stream = process.stdout
        self._log = log
        self._at = ""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def follow(self, title: str) -> None:
        """Returns when the output has ended."""
        if not title:
            self._thread.join()
            return
        terminal = sys.stdout.isatty()
        interval_s = TERMINAL_INTERVAL_S if terminal else LOG_INTERVAL_S
        start = time.monotonic()
        while self._thread.is_alive():
            self._thread.join(interval_s)
            text = f"{self._at or 'starting:'} {title}, {spoken(time.monotonic() - start)} so far"
            print(f"\r\033[K{text}" if terminal else text, end="" if terminal else "\n", flush=True)
        if terminal:
            print()

    def _read(self) -> None:
        with self._stream:
            for line in self._stream:
                self._log.write(line)
                self.kept.append(line)
                if step := STEP_OF.match(line):
                    self._at = f"[{step[1].strip()}]"


@contextmanager
def only_one(lock: Path, who: str) -> Iterator[None]:
    """Holds a lock file, so that two set-ups do not write the same files; waits for `who`."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for {who}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def spoken(seconds: float) -> str:
    """A duration as people say it: 50 s, 2 min 5 s."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
