"""The last words of an engine, and the cause of its end among them. Pure.

llama.cpp tells the cause first, and then layer by layer that something failed; a stack trace or the
text of its options may come behind that. So errors are kept beside the last lines, stack traces not
at all, and of the errors the most telling one counts.
"""

import re
import signal
from collections import deque
from collections.abc import Sequence
from typing import Final

from proxy.engine.causes import RULES, SIGNALS

LAST_LINES: Final = 40
LAST_ERRORS: Final = 20
# So many lines are quoted where a load failed; the log has the others.
QUOTED_LINES: Final = 6
# And so much of one is looked at.
LINE_CHARS: Final = 1000
# These say all there is to say, whatever was said before.
SURE_SIGNALS: Final = (signal.SIGKILL, signal.SIGTERM, signal.SIGBUS, signal.SIGILL)

_FRAME: Final = re.compile(
    r"#\d+\s|\[(?:New LWP|Thread debugging|Inferior)|Using host libthread|0x[0-9a-f]+ in "
    r"|Download failed|This GDB supports|\s+<https?://debuginfod|Enable debuginfod|Debuginfod has"
    r"|To make this setting|warning: (?:process|\d+\t|could not find|Unable to|File)"
    r"|\d+\t(?:in )?\S+\.[chSp]+|ptrace: |No stack\.|No symbol table|The program is not being run"
    r"|Could not attach|\(lldb\)|\* thread #|\s*frame #\d|\S+(?:\(\S*\))? ?\[0x[0-9a-f]+\]$"
    r'|Traceback \(most|\s+File "|\s+[\^~]+$|See: https://github'
)
# Behind these stands the place in the source, which is a path of whoever built it.
_ABORT: Final = re.compile(r"\S*/[\w.-]+\.(?:c|cc|cpp|cu|cuh|h|hpp|m|mm):\d+: ")
THROWN: Final = "  what():"
# What stands before the words: the place in the source; the time, the level, the part and the
# function; how C++ says it.
_PREFIXES: Final = re.compile(
    rf"{_ABORT.pattern}|{re.escape(THROWN)}|error: "
    r"|\d+(?:\.\d+){3} [A-Z] (?:\w+ +)?(?:[\w()]+: +)*"
)
_FILE: Final = re.compile(
    r"failed to load (?:multimodal |draft |lora |CLIP )?(?:model|adapter),? (?:from )?"
    r"(?:'(?P<a>[^']+)'|(?P<b>/\S+?)\.? )"
)
# Said wherever something failed.
_SAYS_NOTHING: Final = re.compile(
    r"from_file_impl: failed to load model|failed to (?:load|create).* model,? '|exiting due to"
    r"|to show complete usage"
)
_LEVELS: Final = frozenset("IWDE")
ERRORS: Final = ("E", "")  # of lines without a level, some


class LastWords:
    """What one process says, from its first line to its end."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=LAST_LINES)
        # With the number of the line.
        self._errors: deque[tuple[int, str]] = deque(maxlen=LAST_ERRORS)
        self._count = 0
        self._serves = False

    def add(self, line: str) -> None:
        line = line[:LINE_CHARS]
        level = level_of(line)
        if not level and _FRAME.match(line):
            return
        self._count += 1
        self.lines.append(line)
        if level in ERRORS and is_error(line):
            self._errors.append((self._count, line))

    def serves(self) -> None:
        """It has loaded: what it said until now is not why it ends."""
        self._serves = True
        self._errors.clear()

    def cause(self, status: int | None) -> str | None:
        """What ended it, by what it said and by its exit status (negative: the signal), for the end
        of a sentence; None where neither tells."""
        end = SIGNALS.get(-status) if status is not None else None
        if status is not None and -status in SURE_SIGNALS:
            return end
        return cause_in(self._fresh(), serves=self._serves) or end

    def quoted(self) -> str:
        """What it said as errors, and its very last line; else its last lines."""
        lines = [line for line in self.lines if line.strip()]
        last = [line for line in lines[-1:] if not _SAYS_NOTHING.search(line)]
        errors = [
            line for _, line in self._errors if line not in last and not _SAYS_NOTHING.search(line)
        ]
        said = [*errors[1 - QUOTED_LINES :], *last] if errors else lines[-QUOTED_LINES:]
        return "\n".join(_ABORT.sub("", line, count=1) for line in said) or "it said nothing"

    def _fresh(self) -> list[str]:
        """The errors that have to do with its end: one that serves may have had others long
        ago."""
        oldest = self._count - LAST_LINES if self._serves else 0
        return [line for number, line in self._errors if number > oldest]


def level_of(line: str) -> str:
    """The letter for the level that llama.cpp writes behind the time; empty where there is none."""
    letter = "".join(line.split(" ", 2)[1:2])
    return letter if letter in _LEVELS and line[:1].isdigit() else ""


def is_error(line: str) -> bool:
    """Whether something went wrong, as far as one line can say."""
    line = line[:LINE_CHARS]
    if level := level_of(line):
        return level == "E"
    return (
        line.lower().startswith(("error", "worker:"))
        or line.startswith(THROWN)
        or bool(_ABORT.match(line))
        or any(pattern.search(line) for pattern, _ in RULES)
    )


def cause_in(errors: Sequence[str], *, serves: bool = False) -> str | None:
    """What the most telling of these lines means; None where none tells. One that `serves` has
    errors of which it does not end."""
    for pattern, words in RULES:
        for line in reversed(errors):
            if match := pattern.search(line):
                return _filled(words, match, errors)
    for line in reversed(errors):
        is_last = bool(_ABORT.match(line)) or line.startswith(THROWN)
        if is_last or not (serves or _SAYS_NOTHING.search(line)):
            return _PREFIXES.sub("", line, count=1).strip()
    return None


def _filled(words: str, match: "re.Match[str]", errors: Sequence[str]) -> str:
    found = {name: (value or "").strip() for name, value in match.groupdict().items()}
    if size := found.get("bytes"):
        found["bytes"] = f"{int(size) / (1 << 20):.0f} MiB"
    named = (match["a"] or match["b"] for match in map(_FILE.search, errors) if match)
    return words.format(**{"x": "", "y": "", "file": next(named, "its file"), **found})
