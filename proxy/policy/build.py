"""From the documents to typed policies: merged, converted, with defaults and inheritance."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from proxy.policy.document import Document, Entry
from proxy.policy.environment import Environment
from proxy.policy.fields import BY_KEY, NAME, fields_of
from proxy.policy.model import (
    Catalog,
    DevicePolicy,
    Devices,
    EngineOptions,
    ModelPolicy,
    Policies,
    Server,
)
from proxy.policy.problems import KeyPath, Problem
from proxy.policy.schema import Field, Kind
from proxy.policy.values import Folders, convert
from proxy.split import AUTO

# A size that nobody wants of anything that takes memory.
FEW_BYTES: Final = 1 << 20
# What a variant does not take over: how its base is called and found.
NOT_OF_A_BASE: Final = ("path", "base", "aliases")
# A folder that is made when it is first needed.
STATE: Final = ("catalog", "state")


@dataclass(slots=True)
class Settings:
    """What the files set, converted; `spoiled` are the keys whose values are not allowed."""

    values: dict[KeyPath, Any] = field(default_factory=dict)
    origins: dict[KeyPath, Document] = field(default_factory=dict)
    named: dict[KeyPath, Document] = field(default_factory=dict)
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
        document = next(
            document
            for head in heads
            if (document := self.origins.get(head) or self.named.get(head))
        )
        return document.problem(path, message)


def merge(documents: Iterable[Document], home: Path) -> Settings:
    """All documents as one. A key that two of them set is a problem that names both places."""
    settings = Settings()
    for document in documents:
        settings.problems += document.problems
        settings.named |= dict.fromkeys(document.named, document)
        folders = Folders(document.file.parent, home)
        for entry in document.entries:
            if first := settings.origins.get(entry.path):
                place = first.problem(entry.path, "")
                message = f"is already set at {place.file}:{place.line}"
                settings.problems.append(document.problem(entry.path, message))
            else:
                settings.origins[entry.path] = document
                _convert_entry(settings, entry, folders)
    return settings


def _convert_entry(settings: Settings, entry: Entry, folders: Folders) -> None:
    def report(below: KeyPath, message: str) -> None:
        settings.spoiled.add(entry.path)
        settings.report(entry.path + below, message)

    value = convert(entry.field, entry.value, folders, report)
    if entry.path not in settings.spoiled:
        settings.values[entry.path] = value
        said, is_size = entry.value, entry.field.kind in (Kind.SIZE, Kind.SIZE_OR_AUTO)
        if is_size and isinstance(said, int) and 0 < said < FEW_BYTES:
            settings.note(entry.path, f'{said} is a number of bytes; or "{said}MiB"?')


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


def build(settings: Settings, environment: Environment, home: Path) -> Policies:
    """The policies; a key whose value is not allowed has its default in them."""
    builder = _Builder(settings, environment, Folders(Path.cwd(), home))
    return Policies(
        server=Server(**builder.table("server")),
        catalog=Catalog(**builder.table("catalog")),
        devices=Devices(
            **builder.table("devices"),
            others=DevicePolicy(**builder.table("devices.*")),
            named=MappingProxyType(
                {
                    name: DevicePolicy(**builder.table("devices.*", name))
                    for name in settings.names("devices")
                }
            ),
        ),
        engine=EngineOptions(**builder.table("engine")),
        defaults=ModelPolicy(name="", **builder.table("models.*")),
        models=MappingProxyType(
            {
                name: ModelPolicy(
                    name=name, written=builder.written(name), **builder.table("models.*", name)
                )
                for name in settings.names("models")
            }
        ),
    )


class _Builder:
    def __init__(self, settings: Settings, environment: Environment, folders: Folders) -> None:
        self._settings = settings
        self._environment = environment
        self._folders = folders

    def table(self, table: str, name: str = NAME) -> dict[str, Any]:
        """The attributes of one table; `name` is the one that its user gave it."""
        return {row.attribute: self._value(row, name) for row in fields_of(table)}

    def written(self, name: str) -> frozenset[str]:
        """The keys that the files set for a model, or for the one that it is a variant of."""
        names = {name, self._base_of(name)}
        return frozenset(
            str(path[2])
            for path in self._settings.values
            if len(path) == 3 and path[0] == "models" and path[1] in names
        )

    def _base_of(self, name: str) -> str | None:
        """The table of the model that this one is a variant of, which may be named by an alias."""
        values = self._settings.values
        base = values.get(("models", name, "base"))
        if base is None or ("models", base) in self._settings.named:
            return base
        tables = self._settings.names("models")
        return next((t for t in tables if base in values.get(("models", t, "aliases"), ())), base)

    def _value(self, row: Field, name: str) -> Any:
        """What counts, best first: a variable that wins, the files, what the base of a variant
        sets, what is inherited, a variable that gives the default, the default."""
        path = tuple(name if part == NAME else part for part in row.path)
        if row.key in self._environment.wins:
            return self._environment.wins[row.key]
        if path in self._settings.values:
            return self._settings.values[path]
        if row.path[0] == "models" and row.path[-1] not in NOT_OF_A_BASE:
            of_base: KeyPath = ("models", self._base_of(name) or name, row.path[-1])
            if of_base in self._settings.values:
                return self._settings.values[of_base]
        if row.inherits:
            return self._value(BY_KEY[row.inherits], NAME)
        if row.key in self._environment.defaults:
            return self._environment.defaults[row.key]
        return None if row.default is None else convert(row, row.default, self._folders, _fail)


def _fail(_: KeyPath, message: str) -> None:
    raise AssertionError(f"a default of the table of keys is wrong: {message}")
