"""From what the files set to typed policies, with defaults and inheritance."""

from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from proxy.policy.environment import Environment
from proxy.policy.fields import BY_KEY, NAME, fields_of
from proxy.policy.merge import Settings
from proxy.policy.model import (
    Catalog,
    DevicePolicy,
    Devices,
    EngineOptions,
    ModelPolicy,
    Policies,
    Server,
)
from proxy.policy.problems import KeyPath
from proxy.policy.schema import Field
from proxy.policy.values import Folders, convert

# What a variant does not take over: how its base is called and found.
NOT_OF_A_BASE: Final = ("path", "base", "aliases")


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
