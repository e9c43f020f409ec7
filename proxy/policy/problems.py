"""What is wrong with the policies, as told in the log, in `/admin/state` and by `check`."""

import re
from dataclasses import dataclass
from typing import Final

KeyPath = tuple[str | int, ...]  # keys, and indices into lists, from the top of the document
ENVIRONMENT: Final = "environment"  # the `file` of a problem with an environment variable

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_SHOWN: Final = 60


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to put right. `line` counts from 1, None where no line is to blame.

    `key` is the dotted key as TOML writes it, the name of an environment variable, or empty.
    """

    file: str
    line: int | None
    key: str
    message: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return ": ".join(part for part in (place, self.key, self.message) if part)


def dotted(path: KeyPath) -> str:
    """The path as a TOML key: `models."gpt-oss:120b".args[1]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if _BARE.fullmatch(part) else quoted(part))
    return text


def quoted(text: str) -> str:
    """A TOML basic string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda match: f"\\u{ord(match[0]):04x}", escaped) + '"'


def shown(value: object) -> str:
    """`value` as its author may have written it, short enough for a line."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and abs(value) >= 10**_SHOWN:
        return "this integer"
    text = quoted(value) if isinstance(value, str) else str(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
