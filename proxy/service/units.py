"""The units that run the proxy as a service: their text for one installation, and what writing it
would do to what is there already. Pure but for reading.
"""

import difflib
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

SERVICE: Final = "moe-proxy.service"
SOCKET: Final = "moe-proxy.socket"
TEMPLATES: Final = Path(__file__).with_name("units")
# The last line of a unit that we wrote has a digest of the others: it tells an edited one from one
# of an earlier version.
MARK: Final = "# Written by moe-proxy install-service; edited if this is not its SHA-256: "
_PROGRAM: Final = re.compile(r"^(ExecStart=)\S+/moe-proxy(?= )", re.MULTILINE)
# Folders that the system's unit does not see.
HIDDEN: Final = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")

State = Literal["new", "same", "older", "edited"]


@dataclass(frozen=True, slots=True)
class Change:
    """What writing a unit would do. `before` is "" where there is no such file."""

    path: Path
    before: str
    after: str
    state: State

    def diff(self) -> str:
        """From what is there to what would be, as `diff -u` shows it."""
        lines = self.before.splitlines(), self.after.splitlines()
        names = str(self.path), f"{self.path} (new)"
        return "\n".join(difflib.unified_diff(*lines, *names, lineterm=""))


def template(name: str, *, user: bool) -> str:
    """A unit as it comes with this package. Raises OSError."""
    stem, _, kind = name.partition(".")
    return (TEMPLATES / (f"{stem}.user.{kind}" if user else name)).read_text(encoding="utf-8")


def unit(name: str, program: Path, *, user: bool) -> str:
    """A unit whose service starts `program`. Raises OSError."""
    start = quoted(str(program))
    body = _PROGRAM.sub(lambda match: match[1] + start, template(name, user=user))
    return f"{body}{MARK}{_digest(body)}\n"


def quoted(path: str) -> str:
    """A path as one word of ExecStart=, where %, $, quotes and spaces mean something."""
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"' if re.search(r"""[\s'"\\;]""", path) else escaped


def change(path: Path, before: str | None, after: str) -> Change:
    """`before` is None where there is no such file."""
    if before is None:
        return Change(path, "", after, "new")
    state: State = "same" if before == after else "older" if is_as_written(before) else "edited"
    return Change(path, before, after, state)


def is_as_written(text: str) -> bool:
    """Whether a unit is one of ours that nobody has edited."""
    body, mark, digest = text.rpartition(MARK)
    return bool(mark) and digest == f"{_digest(body)}\n"


def hidden_from_service(paths: Mapping[str, Path]) -> list[str]:
    """Which of these the system's unit could not read: their names and where they are."""
    return [
        f"{name} ({path})"
        for name, path in paths.items()
        if any(path.is_relative_to(folder) for folder in HIDDEN)
    ]


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()
