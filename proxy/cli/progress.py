"""Shows people how far something is: the lines of a pull, a line for each step and the progress of
a blob in place; the measurements of a bench."""

import json
import sys
import time
from collections.abc import Callable
from typing import Final, TextIO

from proxy.cli.bars import Kind, bar
from proxy.hub.progress import Line

CLEAR: Final = "\r\033[K"
DONE, LEFT = Kind("done", "█"), Kind("left", "░")
BAR: Final = 30


class ProgressBar:
    """Writes to a terminal, a file, or as JSON for programs."""

    def __init__(self, out: TextIO | None = None, *, as_json: bool = False) -> None:
        self._out = out or sys.stdout
        self._json = as_json
        # What changes: the step that was shown last, and whether its line is still open.
        self._last = ""
        self._open = False

    def show(self, line: Line) -> None:
        if self._json:
            print(json.dumps(line), file=self._out, flush=True)
            return
        text = str(line.get("status", ""))
        completed, total = line.get("completed", 0), line.get("total", 0)
        if total and self._out.isatty():
            end = "\n" if completed >= total else ""
            done = f"\r{text}  {completed * 100 // total:3}%  {completed:,} of {total:,} bytes"
            if text != self._last or self._open:
                print(done, end=end, file=self._out, flush=True)
            self._open = not end
        elif text != self._last:
            if self._open:
                print(file=self._out)
            self._open = False
            print(text, file=self._out, flush=True)
        self._last = text


class Steps:
    """Lines of words, and at a terminal, below them, how many steps are done and how long the
    others may take."""

    def __init__(
        self, out: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._out, self._clock = out or sys.stderr, clock
        # What changes: since when there are steps, and what is shown of them.
        self._began_s = 0.0
        self._shown = ""

    def say(self, text: str) -> None:
        clear = CLEAR if self._shown else ""
        print(f"{clear}{text}", file=self._out)
        self._show()

    def step(self, done: int, of: int) -> None:
        """`done` of them are done; all of them: nothing is shown any more."""
        if not self._out.isatty():
            return
        if not done:
            self._began_s = self._clock()
        drawn = bar([(DONE, done), (LEFT, of - done)], width=BAR)
        left_s = (self._clock() - self._began_s) * (of - done) / done if done else 0.0
        left = f", about {left_s:.0f} s left" if done else ""
        self._shown = f"{drawn} {done} of {of}{left}" if done < of else ""
        self._show()

    def _show(self) -> None:
        print(f"{CLEAR}{self._shown}" if self._out.isatty() else "", end="", file=self._out)
        self._out.flush()
