"""One value from TOML or the environment, checked against its field and made into what we keep."""

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from proxy.engine.types import FLEET
from proxy.errors import BadRequest
from proxy.policy import units
from proxy.policy.problems import KeyPath, shown
from proxy.policy.schema import Field, Kind
from proxy.split import AUTO, parse_split

LISTS: Final = (
    *(Kind.PATHS, Kind.TEXTS, Kind.NAMES, Kind.HOSTS, Kind.ORIGINS),
    *(Kind.ADDRESSES, Kind.ADDRESSES_OR_FLEET),
)
_MEMORY: Final = re.compile(r"(?:nvml|sysfs)(?::\S+)?|ggml")
_ADDRESS: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\s:\[\]/]+):(\d{1,5})", re.ASCII)
_HOST: Final = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
_ORIGIN: Final = re.compile(r"null|\S*\*\S*|[a-z][a-z0-9+.-]*://[^\s/]*", re.ASCII)
_READY_PATH: Final = re.compile(r"none|/[!-~]*", re.ASCII)

# Told of each part of a value that is not allowed: where below the key, and a sentence.
Report = Callable[[KeyPath, str], None]


@dataclass(frozen=True, slots=True)
class Folders:
    """Where paths in a policy start: `base` for relative ones, `home` for "~"."""

    base: Path
    home: Path

    def path_of(self, text: str) -> Path:
        if text == "~" or text.startswith("~/"):
            return self.home / text[2:]
        return self.base / Path(text).expanduser() if text.startswith("~") else self.base / text


def home_of(env: Mapping[str, str]) -> Path:
    """The home folder, by `env` first; the root where there is none, as for some services."""
    return Path(env.get("HOME") or os.path.expanduser("~"))


def convert(field: Field, value: object, folders: Folders, report: Report) -> Any:
    """`value` as the attribute of `field` keeps it; what is wrong goes to `report`, and the result
    then means nothing."""
    match field.kind:
        case Kind.ADDRESSES_OR_FLEET if value == FLEET:
            return (FLEET,)
        case Kind.PARAMS:
            return _params(field, value, report)
        case Kind.ENV:
            return _variables(field, value, report)
        case kind if kind in LISTS:
            return _items(field, value, folders, report)
    try:
        return _scalar(field, value, folders)
    except (ValueError, RuntimeError):
        report((), refusal(value, field.allowed))
        return None


def refusal(value: object, allowed: str) -> str:
    return f"{shown(value)} is not allowed; use {allowed}"


def _scalar(field: Field, value: object, folders: Folders) -> Any:
    """Raises ValueError where `value` is not allowed, RuntimeError for the home of nobody."""
    match field.kind:
        case Kind.FLAG:
            return _require(isinstance(value, bool), value)
        case Kind.COUNT:
            return _require(_is_int(value, field.low, field.high), value)
        case Kind.COUNT_OR_AUTO:
            return _require(value == AUTO or _is_int(value, field.low, field.high), value)
        case Kind.SIZE_OR_AUTO:
            return value if value == AUTO else units.parse_size(value)
        case Kind.SIZE:
            size = units.parse_size(value)
            return _require(size >= field.low, size)
        case Kind.DURATION:
            return units.parse_duration(value)
        case Kind.KEEP_ALIVE:
            return units.parse_keep_alive(value)
        case Kind.SPLIT:
            return _split(value)
        case Kind.CHOICE:
            return _require(value in field.choices, value)
        case Kind.PATH:
            return folders.path_of(_text(value))
        case Kind.LISTEN:
            return ", ".join(map(_address, value if isinstance(value, list) and value else [value]))
        case Kind.MEMORY:
            return _require(_MEMORY.fullmatch(_text(value)) is not None, value)
        case Kind.READY_PATH:
            return _require(_READY_PATH.fullmatch(_text(value)) is not None, value)
        case _:
            return _text(value)


def _address(value: object) -> str:
    names = [name.strip() for name in _text(value).split(",")]
    _require(not any(" " in name or not name for name in names), value)
    return ", ".join(names)


def _items(field: Field, value: object, folders: Folders, report: Report) -> tuple[Any, ...]:
    if not isinstance(value, list):
        report((), refusal(value, field.allowed))
        return ()
    items = []
    for index, item in enumerate(value):
        try:
            items.append(_item(field.kind, item, folders))
        except (ValueError, RuntimeError):
            report((index,), refusal(item, field.allowed))
    return tuple(items)


def _item(kind: Kind, item: object, folders: Folders) -> Any:
    # An empty argument is a fine thing to give to a program; an empty name or path is not.
    text = _text(item, empty=kind is Kind.TEXTS)
    match kind:
        case Kind.PATHS:
            return folders.path_of(text)
        case Kind.NAMES:
            return _require("?" not in text, text)
        case Kind.ADDRESSES | Kind.ADDRESSES_OR_FLEET:
            address = _ADDRESS.fullmatch(text)
            return _require(address is not None and 1 <= int(address[1]) <= 65535, text)
        case Kind.HOSTS:
            name = text.lower().removesuffix(".")
            return _require(_HOST.fullmatch(name) is not None, name)
        case Kind.ORIGINS:
            # Copied from a browser it may end in "/", which no browser sends.
            origin = re.sub(r"(?<!/)/$", "", text.lower())
            return _require(_ORIGIN.fullmatch(origin) is not None, origin)
    return text


def _params(field: Field, value: object, report: Report) -> Mapping[str, object]:
    if not isinstance(value, dict):
        report((), refusal(value, field.allowed))
        return MappingProxyType({})
    _check_json((), value, report)
    return MappingProxyType(value)


def _variables(field: Field, value: object, report: Report) -> Mapping[str, str]:
    if not isinstance(value, dict):
        report((), refusal(value, field.allowed))
        return MappingProxyType({})
    for name, text in value.items():
        if not name or "=" in name or "\0" in name:
            report((name,), f"{shown(name)} cannot be the name of a variable")
        elif not isinstance(text, str) or "\0" in text:
            report((name,), refusal(text, "a string"))
    return MappingProxyType(value)


def _check_json(path: KeyPath, value: object, report: Report) -> None:
    """TOML knows dates, infinity and not-a-number, which no request can carry."""
    if isinstance(value, dict):
        for key, below in value.items():
            _check_json((*path, key), below, report)
    elif isinstance(value, list):
        for index, below in enumerate(value):
            _check_json((*path, index), below, report)
    elif not (math.isfinite(value) if isinstance(value, float) else isinstance(value, str | int)):
        report(path, f"{shown(value)} cannot be put into JSON")


def _split(value: object) -> Any:
    try:
        return parse_split(value)
    except BadRequest as error:
        raise ValueError(error.message) from None


def _text(value: object, *, empty: bool = False) -> str:
    # No path, address or argument of a program can hold a NUL.
    if isinstance(value, str) and (value or empty) and "\0" not in value:
        return value
    raise ValueError("not a string")


def _is_int(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _require(fulfilled: bool, value: Any) -> Any:
    if not fulfilled:
        raise ValueError("not allowed")
    return value
