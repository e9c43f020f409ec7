"""The parameters that a Modelfile or `/api/create` may set, with their types."""

import difflib
from collections.abc import Mapping, Sequence
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


class BadParameter(ValueError):
    """A parameter that there is not, or a value it cannot have; the message is for people."""


def from_text(name: str, text: str) -> tuple[str, Any]:
    """A parameter as a Modelfile writes it: its one name and its value. Raises BadParameter."""
    name = ALIASES.get(name.lower(), name.lower())
    kind = _kind(name)
    try:
        match kind:
            case "int":
                return name, int(text)
            case "float":
                return name, float(text)
            case "bool":
                return name, _BOOLS[text.lower()]
            case "split":
                return name, plain(parse_split(text))
            case _:
                return name, text
    except (ValueError, KeyError, BadRequest):
        raise BadParameter(f"{name} {text!r}: {_wants(kind)}") from None


def from_json(given: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as a request has them, under their one names. Raises BadParameter."""
    result: dict[str, Any] = {}
    for given_name, value in given.items():
        name = ALIASES.get(given_name, given_name)
        if name in DROPPED or value is None:
            continue
        kind = _kind(name)
        if isinstance(value, str) and kind != "texts":
            result[name] = from_text(name, value)[1]
        else:
            result[name] = _checked(name, kind, value)
    return result


def _checked(name: str, kind: Kind, value: Any) -> Any:
    if kind == "texts":
        texts = [value] if isinstance(value, str) else value
        if isinstance(texts, Sequence) and all(isinstance(text, str) for text in texts):
            return list(texts)
    elif kind == "bool" and isinstance(value, bool):
        return value
    elif kind == "split":
        try:
            return plain(parse_split(value))
        except BadRequest as error:
            raise BadParameter(f"{name}: {error.message}") from None
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if kind == "float":
            return value
        if kind == "int" and value == int(value):
            return int(value)
    raise BadParameter(f"{name} {value!r}: {_wants(kind)}")


def _kind(name: str) -> Kind:
    if name not in KINDS:
        near = difflib.get_close_matches(name, KINDS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise BadParameter(f"unknown parameter {name[:80]!r}{hint}")
    return KINDS[name]


def _wants(kind: Kind) -> str:
    return {
        "int": "a whole number is wanted",
        "float": "a number is wanted",
        "bool": "true or false is wanted",
        "text": "text is wanted",
        "texts": "text, or a list of texts, is wanted",
        "split": 'a number of layers, "auto", "none", "partial", "full" or "0-11,20" is wanted',
    }[kind]
