"""On which line each key of a TOML document stands, which tomli does not tell.

It reads only text that tomli has accepted, so it looks for ends, not for errors.
"""

import re
from bisect import bisect_right
from typing import Final

import tomli

from proxy.policy.problems import KeyPath

MAX_DEPTH: Final = 40  # of tables and lists in each other; more cannot be policies

_BLANK: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_STRING: Final = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}(?!")'
    r"|'''.*?'{3,5}(?!')"
    r'|"(?:[^"\\]|\\.)*"'
    r"|'[^']*'",
    re.DOTALL,
)
_SCALAR: Final = re.compile(r"[^\s,#\]}]+(?: [0-9][^\s,#\]}]*)?")  # a date may have a time after it


class TooDeepError(ValueError):
    """The document nests deeper than MAX_DEPTH; `line` is where."""

    def __init__(self, line: int) -> None:
        super().__init__(f"nested more than {MAX_DEPTH} deep")
        self.line = line


def find_lines(text: str) -> dict[KeyPath, int]:
    """The line, from 1, where each key, table and list item of valid TOML first stands.

    Raises TooDeepError.
    """
    return _Finder(text).run()


class _Finder:
    def __init__(self, text: str) -> None:
        self._text = text
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self._at = 0
        self._lines: dict[KeyPath, int] = {}

    def run(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        self._skip_blank()
        while self._at < len(self._text):
            if self._text.startswith("[", self._at):
                table = self._header()
            else:
                self._pair(table)
            self._skip_blank()
        return self._lines

    def _header(self) -> KeyPath:
        brackets = 2 if self._text.startswith("[[", self._at) else 1
        start = self._at
        self._at += brackets
        table = self._key()
        self._note(table, start)
        self._at += brackets
        return table

    def _pair(self, table: KeyPath) -> None:
        start = self._at
        path = table + self._key()
        self._note(path, start)
        self._at += 1  # the equals sign
        self._value(path)

    def _key(self) -> KeyPath:
        """Read a dotted key and the blanks after it."""
        parts: list[str] = []
        while True:
            self._skip_blank()
            if match := _BARE_KEY.match(self._text, self._at):
                parts.append(match.group())
            else:
                match = self._match(_STRING)
                parts.append(tomli.loads(f"key = {match.group()}")["key"])
            self._at = match.end()
            self._skip_blank()
            if not self._text.startswith(".", self._at):
                return tuple(parts)
            self._at += 1

    def _value(self, path: KeyPath) -> None:
        self._skip_blank()
        opening = self._text[self._at]
        if opening in "\"'":
            self._at = self._match(_STRING).end()
        elif opening in "[{":
            self._at += 1
            self._items(path, "]" if opening == "[" else "}")
        else:
            self._at = self._match(_SCALAR).end()

    def _items(self, path: KeyPath, closing: str) -> None:
        """Read the items of a list or the pairs of an inline table, and what closes it."""
        index = 0
        self._skip_blank()
        while not self._text.startswith(closing, self._at):
            if closing == "]":
                self._note((*path, index), self._at)
                self._value((*path, index))
                index += 1
            else:
                self._pair(path)
            self._skip_blank()
            if self._text.startswith(",", self._at):
                self._at += 1
                self._skip_blank()
        self._at += 1

    def _note(self, path: KeyPath, at: int) -> None:
        line = bisect_right(self._starts, at)
        if len(path) > MAX_DEPTH:
            raise TooDeepError(line)
        for end in range(1, len(path) + 1):
            self._lines.setdefault(path[:end], line)

    def _skip_blank(self) -> None:
        self._at = self._match(_BLANK).end()

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str]:
        match = pattern.match(self._text, self._at)
        assert match is not None, f"not valid TOML at {self._at}"
        return match
