"""Ollama's `options`: what each of them is to llama-server, and what is not applied. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from proxy.errors import BadRequest
from proxy.split import OPTION_NAMES, Split, parse_split

Kind = Literal["integer", "float32", "boolean", "array"]

# Ollama's defaults, where llama-server's or a model file's may be others: who comes from Ollama
# gets the answers that Ollama gives.
DEFAULTS: Final[Mapping[str, Any]] = {
    "temperature": 0.8,
    "top_k": 40,
    "top_p": 0.9,
    "min_p": 0.0,
    "typical_p": 1.0,
    "repeat_last_n": 64,
    "repeat_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "n_keep": 4,
}
# What a request may set, and llama-server's name for it.
SAMPLING: Final[Mapping[str, tuple[Kind, str]]] = {
    "num_keep": ("integer", "n_keep"),
    "seed": ("integer", "seed"),
    "num_predict": ("integer", "n_predict"),
    "top_k": ("integer", "top_k"),
    "top_p": ("float32", "top_p"),
    "min_p": ("float32", "min_p"),
    "typical_p": ("float32", "typical_p"),
    "repeat_last_n": ("integer", "repeat_last_n"),
    "temperature": ("float32", "temperature"),
    "repeat_penalty": ("float32", "repeat_penalty"),
    "presence_penalty": ("float32", "presence_penalty"),
    "frequency_penalty": ("float32", "frequency_penalty"),
    "mirostat": ("integer", "mirostat"),
    "mirostat_tau": ("float32", "mirostat_tau"),
    "mirostat_eta": ("float32", "mirostat_eta"),
    "stop": ("array", "stop"),
}
# What belongs to how a model is loaded. `num_ctx` is the router's; the others are policy here.
LOADING: Final[Mapping[str, tuple[Kind, str]]] = {
    "num_gpu": ("integer", "dense layers go where they fit, and experts by moe_cpu_layers"),
    "num_batch": ("integer", "set it for the model: args = ['--batch-size', 'N']"),
    "num_thread": ("integer", "set it for all models: [engine] threads = N"),
    "main_gpu": ("integer", "set it for the model: args = ['--main-gpu', 'N']"),
    "use_mmap": ("boolean", "it always is: experts are copied from the mapped file"),
    "draft_num_predict": (
        "integer",
        "set it for the model: args = ['--spec-draft-n-max', 'N']",
    ),
}
SMALLEST_CTX: Final = 4
MAX_INT: Final = 2**31 - 1  # llama-server's integers have 32 bits
MAX_LONG: Final = 2**63 - 1  # and seeds of Ollama's have so many
# "As long as the context": Ollama's -1, which llama-server does not take here.
WHOLE_CONTEXT: Final = MAX_INT


@dataclass(frozen=True, slots=True)
class Options:
    """What a request's options say. `sampling` has llama-server's names."""

    sampling: Mapping[str, Any] = field(default_factory=dict)
    ctx: int | None = None
    split: Split | None = None
    not_applied: tuple[str, ...] = ()  # known, but nothing that one request can change
    unknown: tuple[str, ...] = ()


def read_options(
    given: Mapping[str, Any] | None, beside: Mapping[str, Any] | None = None
) -> Options:
    """Read the `options` of a body, and what of ours stands `beside` its model. Raises BadRequest
    that names the option and what it must be."""
    sampling: dict[str, Any] = {}
    not_applied, unknown = [], []
    ctx: int | None = None
    splits = {
        name: parse_split(value, name=name)
        for name, value in (beside or {}).items()
        if value is not None
    }
    for name, value in (given or {}).items():
        if value is None:
            continue
        if name in OPTION_NAMES:
            place = f"options.{name}"
            splits[place] = parse_split(value, name=place)
        elif name in SAMPLING:
            kind, target = SAMPLING[name]
            sampling[target] = _adapted(target, _checked(name, kind, value))
        elif name == "num_ctx":
            ctx = context(value)
        elif name in LOADING:
            _checked(name, LOADING[name][0], value)
            not_applied.append(name)
        else:
            unknown.append(name)
    return Options(sampling, ctx, _one_split(splits), tuple(not_applied), tuple(unknown))


def context(value: Any) -> int | None:
    """The context that a `num_ctx` asks for; None: whatever there is. Raises BadRequest."""
    asked = _checked("num_ctx", "integer", value)
    return min(max(asked, SMALLEST_CTX), MAX_INT) if asked > 0 else None


def _checked(name: str, kind: Kind, value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    # As long as somebody likes to write it; a float would not hold it, nor would anything below.
    if number and isinstance(value, int):
        value = max(min(value, MAX_LONG), -MAX_LONG)
    match kind:
        case "integer" if number and math.isfinite(value):
            return int(value)  # JSON in Go has only floats, so Ollama cuts off what is behind
        case "float32" if number:
            return float(value)
        case "boolean" if isinstance(value, bool):
            return value
        case "array" if isinstance(value, list):
            if all(isinstance(item, str) for item in value):
                return value
            kind_text = "an array of strings"
            raise BadRequest(f'option "{name}" must be of {kind_text}', param=f"options.{name}")
    raise BadRequest(f'option "{name}" must be of type {kind}', param=f"options.{name}")


def _adapted(target: str, value: Any) -> Any:
    """The value in llama-server's terms, which refuses the negative ones that Ollama has, and takes
    zero for something else."""
    match target:
        case "seed" if value > MAX_INT:
            return value % (MAX_INT + 1)  # still the same for the same seed
        case "n_predict" if value <= 0:
            return -1  # no limit; -2 once was "fill the context", which is where that ends, too
        case "n_keep" if value < -1:
            return -1
        case "repeat_penalty" if value <= 0:
            return (
                1.0  # off: clients make it of an OpenAI penalty of 0, and nothing else would work
            )
        case "typical_p" if value == 0:
            return 1.0  # Ollama leaves it out then, and so it is off
        case "repeat_last_n" if value < 0:
            return WHOLE_CONTEXT
        case "top_k" if value < 0:
            return 0
    return max(min(value, MAX_INT), -MAX_INT) if isinstance(value, int) else value


def _one_split(splits: Mapping[str, Split]) -> Split | None:
    names = list(splits)
    for name in names[1:]:
        if splits[name] != splits[names[0]]:
            raise BadRequest(
                f"{names[0]} is {splits[names[0]]} and {name} is {splits[name]}; "
                "give one of them, or the same",
                param=name,
            )
    return splits[names[0]] if names else None
