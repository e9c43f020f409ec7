"""Shows the lines of a pull to people: a line for each step, the progress of a blob in place."""

import json
import sys
from typing import TextIO

from proxy.hub.progress import Line


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
