"""Keeps a machine's policy files and the fleet's set the same. What is to be done is decided by
plain functions here; `Folder` reads and writes.

An edit is told once it is good for this machine's node. What comes from the fleet is written in one
step, and known as the fleet's, so that it is not told again.
"""

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from proxy.files import read_small
from proxy.fleet.cluster.directory import Entry
from proxy.policy.sources import MOST_BYTES, candidates, policy_files

KEPT: Final = ".before-fleet"
NEW_MODE: Final = 0o644
MOST_RECORD_BYTES: Final = 1 << 20

Files = Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Plan:
    """`write`: files and their new text, None to remove them. `aside`: own files that are kept
    under another name before."""

    write: Mapping[str, bytes | None]
    aside: frozenset[str] = frozenset()


def on_joining(disk: Files, fleet: Mapping[str, Entry], given: Mapping[str, str]) -> Plan:
    """What a machine does that takes the fleet's set. `given` are the digests of what the fleet had
    given it before: what is still like that is nobody's edit."""
    texts = {name: entry.text for name, entry in fleet.items()}
    write = {
        name: texts.get(name) for name in {**disk, **texts} if texts.get(name) != disk.get(name)
    }
    own = {name for name in write if name in disk and digest(disk[name]) != given.get(name)}
    return Plan(write, frozenset(own))


def edits(disk: Files, known: Mapping[str, Entry]) -> dict[str, bytes | None]:
    """What was changed here since the fleet's last word; None: removed."""
    before = {name: entry.text for name, entry in known.items() if entry.text is not None}
    return {
        name: disk.get(name) for name in {**disk, **before} if disk.get(name) != before.get(name)
    }


def news(fleet: Mapping[str, Entry], known: Mapping[str, Entry]) -> dict[str, Entry]:
    """What was changed elsewhere: of two edits, the later number counts everywhere."""
    return {
        name: entry
        for name, entry in fleet.items()
        if name not in known or entry.number > known[name].number
    }


def digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


class Folder:
    """A folder of policies, or a single file, of which the fleet's of its name alone counts. Its
    methods block."""

    def __init__(self, path: Path, record: Path) -> None:
        """`record` is where it is kept what the fleet has given."""
        self.path, self._record = path, record
        self.single = path.is_file()
        self._folder = path.parent if self.single else path
        self._folder.mkdir(parents=True, exist_ok=True)

    def read(self) -> dict[str, bytes]:
        """Raises OSError."""
        files = [self.path] if self.single else policy_files(self.path)
        found = {}
        for file in files:
            try:
                found[file.name] = read_small(file, MOST_BYTES)
            except FileNotFoundError:
                continue  # just now
        return found

    def takes(self, name: str) -> bool:
        return not self.single or name == self.path.name

    def given(self) -> dict[str, str]:
        try:
            text = read_small(self._record, MOST_RECORD_BYTES)
            return msgspec.json.decode(text, type=dict[str, str])
        except (OSError, msgspec.DecodeError):
            return {}

    def note(self, known: Mapping[str, Entry]) -> None:
        """What the fleet has given, for the next start."""
        given = {name: digest(each.text) for name, each in known.items() if each.text is not None}
        replace(self._record, msgspec.json.encode(given))

    def write(self, name: str, text: bytes | None, *, instead_of: bytes | None) -> bool:
        """False, and nothing is done, where the file is another one now. Raises OSError."""
        file = self._folder / name
        if self.read().get(name) != instead_of:
            return False
        if text is None:
            file.unlink(missing_ok=True)
        else:
            replace(file.resolve(), text)  # a link stays a link
        return True

    def keep_aside(self, name: str) -> Path:
        """The file is there under another name too. Raises OSError."""
        kept = self._folder / (name + KEPT)
        replace(kept, read_small(self._folder / name, MOST_BYTES))
        return kept


def folder_of(named: str | None, env: Mapping[str, str]) -> Path:
    """Where a machine's policies are, or would be."""
    if named is not None:
        return Path(named)
    places = candidates(None, env)
    return next((place for place in places if place.exists()), places[-1])


def replace(file: Path, text: bytes) -> None:
    """Whole, or not at all."""
    mode = file.stat().st_mode & 0o7777 if file.exists() else NEW_MODE
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(mode)
        Path(temporary).replace(file)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
