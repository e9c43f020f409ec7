"""Keeps a machine's policy files and the fleet's set the same. What is to be done is decided by
plain functions here; `Folder` reads and writes.

An edit is told once it is good for this machine's node. What comes from the fleet is written in one
step, and known as the fleet's, so that it is not told again.
"""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from proxy.errors import reason_of
from proxy.files import NotPlain, read_small, replace
from proxy.fleet.cluster.directory import Entry
from proxy.policy.sources import MOST_BYTES, candidates, policy_files

KEPT: Final = ".before-fleet"
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


def edits(
    disk: Files, known: Mapping[str, Entry], unreadable: Collection[str] = ()
) -> dict[str, bytes | None]:
    """What was changed here since the fleet's last word; None: removed, which what is `unreadable`
    is not."""
    before = {name: entry.text for name, entry in known.items() if entry.text is not None}
    return {
        name: disk.get(name)
        for name in {**disk, **before}
        if disk.get(name) != before.get(name) and name not in unreadable
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
        # What changes: files that are there, and are no edits as long as nobody can read them:
        # folders, pipes, what is too large, what is another user's.
        self.unreadable: frozenset[str] = frozenset()

    def read(self) -> dict[str, bytes]:
        """Those that can be read; which cannot is in `unreadable` then. Raises OSError for a folder
        that cannot be looked at."""
        files = [self.path] if self.single else policy_files(self.path)
        found, unreadable = {}, set()
        for file in files:
            try:
                if not self.takes(file.name):
                    raise NotPlain("its name cannot be told to others")
                found[file.name] = read_small(file, MOST_BYTES)
            except FileNotFoundError:
                continue  # just now
            except OSError:
                unreadable.add(file.name)
        self.unreadable = frozenset(unreadable)
        return found

    def takes(self, name: str) -> bool:
        """Whether the fleet's file of this name has a place here. A name that is no UTF-8 cannot be
        told to others, nor be in a log."""
        if self.single:
            return name == self.path.name
        plain = name.endswith(".toml") and not name.startswith(".") and "/" not in name
        return plain and name.isprintable()

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
        now: bytes | None
        try:
            now = read_small(file, MOST_BYTES)
        except FileNotFoundError:
            now = None
        except OSError as error:
            if instead_of is not None:
                return False
            raise NotPlain(f"{file} is no file that can be read as a policy") from error
        if now != instead_of:
            return False
        try:
            if text is None:
                file.unlink(missing_ok=True)
            else:
                replace(file.resolve(), text)  # a link stays a link
        except OSError as error:  # whoever is told is to know which one
            raise OSError(f"{file} cannot be written: {reason_of(error)}") from error
        return True

    def keep_aside(self, name: str) -> Path:
        """The file is there under another name too. Raises OSError."""
        kept = self._folder / (name + KEPT)
        own = self._folder / name
        replace(kept, read_small(own, MOST_BYTES), mode=own.stat().st_mode & 0o7777)
        return kept


def own_files(path: Path) -> dict[str, bytes]:
    """What a machine with these policies begins a fleet with; nothing is made. Raises OSError."""
    return Folder(path, path).read() if path.exists() else {}


def folder_of(named: str | None, env: Mapping[str, str]) -> Path:
    """Where a machine's policies are, or would be."""
    if named is not None:
        return Path(named)
    places = candidates(None, env)
    return next((place for place in places if place.exists()), places[-1])
