"""The documents as one: converted values, each with the place where it is set, and what of them is
for one node alone laid over that."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from proxy.policy.document import Document, Entry
from proxy.policy.nodes import NODES, parted
from proxy.policy.problems import KeyPath, Problem
from proxy.policy.schema import Kind
from proxy.policy.values import Folders, convert
from proxy.split import AUTO

# A size that nobody wants of anything that takes memory.
FEW_BYTES: Final = 1 << 20
# A folder that is made when it is first needed.
STATE: Final = ("catalog", "state")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a key of the settings is written: in a document, below `node`'s table if that is not
    None."""

    document: Document
    node: str | None = None

    def problem(self, path: KeyPath, message: str) -> Problem:
        above = () if self.node is None else (NODES, self.node)
        return self.document.problem((*above, *path), message)


@dataclass(slots=True)
class Settings:
    """What the files set, converted; `spoiled` are the keys whose values are not allowed."""

    values: dict[KeyPath, Any] = field(default_factory=dict)
    origins: dict[KeyPath, Origin] = field(default_factory=dict)
    named: dict[KeyPath, Origin] = field(default_factory=dict)
    spoiled: set[KeyPath] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)

    def names(self, table: str) -> list[str]:
        """The names that users gave to tables in `table` ("devices", "models")."""
        return [str(path[1]) for path in self.named if path[0] == table]

    def report(self, path: KeyPath, message: str) -> None:
        """Tell of a problem at `path`, which is a key that is set, a named table, or below one."""
        self.problems.append(self._at(path, message))

    def note(self, path: KeyPath, message: str) -> None:
        """The same for what is no problem, and yet good to know."""
        self.notes.append(self._at(path, message))

    def _at(self, path: KeyPath, message: str) -> Problem:
        heads = (path[:end] for end in range(len(path), 0, -1))
        origin = next(
            origin for head in heads if (origin := self.origins.get(head) or self.named.get(head))
        )
        return origin.problem(path, message)


@dataclass(slots=True)
class Merged:
    """What holds on all machines, and by node what is for it alone. `problems` are of the text and
    of single values."""

    common: Settings
    parts: dict[str, Settings]
    problems: list[Problem]

    def on(self, node: str) -> Settings:
        """What holds on the node of this name, in a table of its own or not; without problems."""
        part, common = self.parts.get(node, Settings()), self.common
        settings = Settings(
            common.values | part.values,
            common.origins | part.origins,
            common.named | part.named,
            common.spoiled - part.origins.keys() | part.spoiled,
            [],
            [*common.notes, *part.notes],
        )
        for path in common.values.keys() & part.values.keys():
            below, own = common.values[path], part.values[path]
            if isinstance(below, Mapping) and isinstance(own, Mapping):
                settings.values[path] = _overlaid(below, own)
                for key in below.keys() - own.keys():
                    settings.origins[*path, key] = common.origins[path]
        return settings


def _overlaid(below: Mapping[str, Any], own: Mapping[str, Any]) -> Mapping[str, Any]:
    """Tables merge, whatever else there is takes the other one's place."""
    both = dict(below)
    for key, value in own.items():
        was = both.get(key)
        if isinstance(was, Mapping) and isinstance(value, Mapping):
            value = _overlaid(was, value)
        both[key] = value
    return MappingProxyType(both)


def merge(documents: Iterable[Document], home: Path) -> Merged:
    """All documents as one. A key that two of them set is a problem that names both places."""
    common, parts, problems = Settings(), dict[str, Settings](), list[Problem]()
    for document in documents:
        problems += document.problems
        folders = Folders(document.file.parent, home)
        for named in document.named:
            node, path = parted(named)
            settings = common if node is None else parts.setdefault(node, Settings())
            if path:
                settings.named[path] = Origin(document, node)
        for entry in document.entries:
            node, path = parted(entry.path)
            settings = common if node is None else parts[node]
            if first := settings.origins.get(path):
                place = first.problem(path, "")
                message = f"is already set at {place.file}:{place.line}"
                problems.append(document.problem(entry.path, message))
            else:
                settings.origins[path] = Origin(document, node)
                _convert(settings, path, entry, folders)
    for settings in (common, *parts.values()):
        problems += settings.problems
    return Merged(common, parts, problems)


def _convert(settings: Settings, path: KeyPath, entry: Entry, folders: Folders) -> None:
    def report(below: KeyPath, message: str) -> None:
        settings.spoiled.add(path)
        settings.report(path + below, message)

    value = convert(entry.field, entry.value, folders, report)
    if path not in settings.spoiled:
        settings.values[path] = value
        said, is_size = entry.value, entry.field.kind in (Kind.SIZE, Kind.SIZE_OR_AUTO)
        if is_size and isinstance(said, int) and 0 < said < FEW_BYTES:
            settings.note(path, f'{said} is a number of bytes; or "{said}MiB"?')


def named_paths(settings: Settings) -> Iterator[tuple[Path, Problem]]:
    """The files and folders that the keys name and that are not made by us, and where each is
    named: a problem that has no message yet."""
    for key, value in settings.values.items():
        if key == STATE:
            continue
        document = settings.origins[key]
        if isinstance(value, Path):
            yield value, document.problem(key, "")
        elif isinstance(value, tuple):
            for index, item in enumerate(value):
                if isinstance(item, Path):
                    yield item, document.problem((*key, index), "")


def asked_caches(settings: Settings) -> Iterator[Problem]:
    """Where an expert cache of some size is asked for: a problem that has no message yet."""
    for key, value in settings.values.items():
        if key[-1] == "moe_cache" and value and value != AUTO:
            yield settings.origins[key].problem(key, "")


def named_programs(settings: Settings) -> Iterator[tuple[str, Problem]]:
    """The programs of commands, as they are named, and where."""
    for key, value in settings.values.items():
        if key[-1] in ("command", "stop_command") and isinstance(value, tuple) and value:
            yield str(value[0]), settings.origins[key].problem((*key, 0), "")
