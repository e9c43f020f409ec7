"""The parameters that a Modelfile or `/api/create` may set, with their types."""

import difflib
import math
from collections.abc import Mapping
from typing import Any, Final, Literal

from proxy.errors import BadRequest
from proxy.split import OPTION_NAMES, parse_split, plain

Kind = Literal["int", "float", "bool", "text", "texts", "split"]

KINDS: Final[Mapping[str, Kind]] = {
    "num_keep": "int", "seed": "int", "num_predict": "int", "top_k": "int", "repeat_last_n": "int",
    "num_ctx": "int", "num_batch": "int", "num_gpu": "int", "main_gpu": "int", "num_thread": "int",
    "draft_num_predict": "int",
    "top_p": "float", "min_p": "float", "typical_p": "float", "temperature": "float",
    "repeat_penalty": "float", "presence_penalty": "float", "frequency_penalty": "float",
    "use_mmap": "bool", "stop": "texts", "moe_cpu_layers": "split",
}  # fmt: skip
# The split has other names that people have tried; what is kept has one.
ALIASES: Final = dict.fromkeys(OPTION_NAMES, "moe_cpu_layers")
# Ollama reads these in old Modelfiles, and does nothing with them.
DROPPED: Final = frozenset(
    {"penalize_newline", "low_vram", "f16_kv", "logits_all", "vocab_only", "use_mlock", "mirostat",
     "mirostat_tau", "mirostat_eta"}
)  # fmt: skip
_BOOLS: Final = {
    **dict.fromkeys(("1", "t", "true"), True), **dict.fromkeys(("0", "f", "false"), False),
}  # fmt: skip


# What JSON libraries, and llama-server, take as a whole number.
_LEAST, _MOST = -(2**63), 2**63 - 1


class BadParameter(ValueError):
    """A parameter that there is not, or a value it cannot have; the message is for people."""


def from_text(name: str, text: str) -> tuple[str, Any]:
    """A parameter as a Modelfile writes it: its one name and its value. Raises BadParameter."""
    name = ALIASES.get(name.lower(), name.lower())
    kind = _kind(name)
    try:
        match kind:
            case "int" | "float":
                return name, _checked(name, kind, int(text) if kind == "int" else float(text))
            case "bool":
                return name, _BOOLS[text.lower()]
            case "split":
                return name, plain(parse_split(text))
            case _:
                return name, text
    except (ValueError, KeyError, BadRequest):
        raise BadParameter(f"{name} {_short(text)}: {_wants(kind)}") from None


def from_json(given: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as a request has them, under their one names. Those that are not known are kept as
    in a manifest, which is how Ollama has them, or left out. Raises BadParameter.
    """
    result: dict[str, Any] = {}
    for given_name, value in given.items():
        name = ALIASES.get(given_name, given_name)
        if name in DROPPED or value is None:
            continue
        if name not in KINDS:
            if _is_plain(value):
                result[name] = value
            continue
        kind = KINDS[name]
        if isinstance(value, str) and kind != "texts":
            result[name] = from_text(name, value)[1]
        else:
            result[name] = _checked(name, kind, value)
    return result


def unknown(given: Mapping[str, Any]) -> list[str]:
    """What to say of each of a request's parameters that there is not."""
    names = [name for name in given if name not in DROPPED and name not in ALIASES]
    return [_not_known(name) for name in names if name not in KINDS]


def from_manifest(given: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as a model's manifest has them. Those that are not known here are kept as they
    are where they are plain values. Raises BadParameter.
    """
    result: dict[str, Any] = {}
    for name, value in given.items():
        kind = KINDS.get(name)
        if value is None:
            continue
        if kind is None or kind == "split":  # older ones may have words that are no longer taken
            if not _is_plain(value):
                raise BadParameter(f"{name[:80]!r} {_short(value)}: a plain value is wanted")
            result[name] = value
        else:
            result[name] = _checked(name, kind, value)
    return result


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(item, str) for item in value)
    if isinstance(value, int | float):
        return math.isfinite(value) if isinstance(value, float) else _LEAST <= value <= _MOST
    return isinstance(value, str)


def _short(value: Any) -> str:
    """A value for a message, however much it is."""
    if isinstance(value, int | float | str):
        text = repr(value[:80] if isinstance(value, str) else value)
        return text if len(text) <= 100 else text[:80] + "..."
    return f"(a {type(value).__name__})"


def _checked(name: str, kind: Kind, value: Any) -> Any:
    if kind == "texts":
        texts = [value] if isinstance(value, str) else value
        if isinstance(texts, list) and all(isinstance(text, str) for text in texts):
            return list(texts)
    elif kind == "bool" and isinstance(value, bool):
        return value
    elif kind == "split":
        try:
            return plain(parse_split(value))
        except BadRequest as error:
            raise BadParameter(f"{name}: {error.message}") from None
    elif isinstance(value, int | float) and not isinstance(value, bool) and _is_plain(value):
        if kind == "float":
            return value
        if kind == "int" and value == int(value) and _is_plain(int(value)):
            return int(value)
    raise BadParameter(f"{name} {_short(value)}: {_wants(kind)}")


def _kind(name: str) -> Kind:
    if name not in KINDS:
        raise BadParameter(_not_known(name))
    return KINDS[name]


def _not_known(name: str) -> str:
    near = difflib.get_close_matches(name[:80], KINDS, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"unknown parameter {name[:80]!r}{hint}"


def _wants(kind: Kind) -> str:
    return {
        "int": "a whole number is wanted",
        "float": "a number is wanted",
        "bool": "true or false is wanted",
        "text": "text is wanted",
        "texts": "text, or a list of texts, is wanted",
        "split": 'a number of layers, "auto", "none", "partial", "full" or "0-11,20" is wanted',
    }[kind]
