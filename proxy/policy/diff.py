"""What an edit of the policies changes, by comparing effective values.

So a changed default touches exactly those that inherit it, and a key that is written down with the
value it had anyway touches nobody.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from proxy.policy.fields import BY_KEY, fields_of
from proxy.policy.model import ModelPolicy, Policies
from proxy.policy.schema import Effect, Kind


@dataclass(frozen=True, slots=True)
class ModelChange:
    """One model before and after; `keys` are the changed keys of its table, never none."""

    old: ModelPolicy
    new: ModelPolicy
    keys: tuple[str, ...]

    def moves(self, *, dense: bool = False) -> bool:
        """Whether weights have to move: `moe_cpu_layers` is another one, or `dense_cpu_layers` for
        a backend that was loaded with `LoadOptions.dense` and goes on."""
        if dense:
            return "dense_cpu_layers" in self.keys and not self.makes_movable
        return "moe_cpu_layers" in self.keys

    @property
    def makes_movable(self) -> bool:
        """Whether a model without experts has to be loaded anew, since its weights can move now, or
        cannot any more."""
        return (self.old.dense_cpu_layers is None) != (self.new.dense_cpu_layers is None)

    @property
    def reload(self) -> tuple[str, ...]:
        """The changed keys that take a new backend."""
        effects = {key: BY_KEY[f"models.*.{key}"].effect for key in self.keys}
        return tuple(key for key, effect in effects.items() if effect is Effect.RELOAD)


@dataclass(frozen=True, slots=True)
class Changes:
    """All that differs between two sets of policies.

    `keys` are the changed keys of [server], [catalog], [devices] (`devices.CUDA1.limit` for one
    that has a table), and [engine]. `models` has the changed models among those with a table before
    or after. `defaults_changed` is the change for every model without one, None if there is none.
    """

    keys: Mapping[str, Effect]
    models: Mapping[str, ModelChange]
    defaults_changed: ModelChange | None
    named: frozenset[str]

    def __bool__(self) -> bool:
        return bool(self.keys or self.models or self.defaults_changed)

    def for_model(self, name: str) -> ModelChange | None:
        """What changes for the model called `name`, with a table or without, if anything does."""
        if name in self.named or self.defaults_changed is None:
            return self.models.get(name)
        change = self.defaults_changed
        return replace(
            change, old=replace(change.old, name=name), new=replace(change.new, name=name)
        )


def diff(old: Policies, new: Policies) -> Changes:
    """What `new` changes. Nothing that is equal in both appears; equal policies make it false."""
    named = old.models.keys() | new.models.keys()
    changes = {
        name: change
        for name in sorted(named)
        if (change := _model_change(_own(old, name), _own(new, name)))
    }
    return Changes(
        keys=MappingProxyType(_changed_keys(old, new)),
        models=MappingProxyType(changes),
        defaults_changed=_model_change(old.defaults, new.defaults),
        named=frozenset(named),
    )


def _own(policies: Policies, name: str) -> ModelPolicy:
    """The policy of the model itself, even where `name` is also an alias of another one."""
    return policies.models.get(name) or replace(policies.defaults, name=name)


def _model_change(old: ModelPolicy, new: ModelPolicy) -> ModelChange | None:
    keys = tuple(_changed("models.*", old, new))
    return ModelChange(old, new, keys) if keys else None


def _changed_keys(old: Policies, new: Policies) -> dict[str, Effect]:
    keys = {
        f"{table}.{key}": BY_KEY[f"{table}.{key}"].effect
        for table in ("server", "catalog", "devices", "engine")
        for key in _changed(table, getattr(old, table), getattr(new, table))
    }
    for name in sorted(old.devices.named.keys() | new.devices.named.keys()):
        before, after = old.devices.for_device(name), new.devices.for_device(name)
        for key in _changed("devices.*", before, after):
            keys[f"devices.{name}.{key}"] = BY_KEY[f"devices.*.{key}"].effect
    return keys


def _changed(table: str, old: Any, new: Any) -> Iterable[str]:
    for row in fields_of(table):
        before, after = getattr(old, row.attribute), getattr(new, row.attribute)
        if before != after or (row.kind is Kind.PARAMS and _json(before) != _json(after)):
            yield row.path[-1]


def _json(params: Mapping[str, object]) -> str:
    """1, 1.0 and true are equal in Python, but not to the server that gets them."""
    return json.dumps(dict(params), sort_keys=True)
