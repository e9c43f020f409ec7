"""One thing that a request may say by several names: what counts as said, so that no default stands
against it, and by which name an endpoint takes it. Pure.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

import msgspec

# How long an answer may be, by all names that there are for it.
LENGTHS: Final = (
    "n_predict", "max_tokens", "max_completion_tokens", "max_output_tokens", "num_predict",
)  # fmt: skip
KWARGS: Final = "chat_template_kwargs"
# Whether a model thinks, and how long. What of a template's own arguments is about it too.
EFFORTS: Final = ("reasoning_effort", "reasoning", "thinking", "think")
EFFORT_KWARGS: Final = ("enable_thinking", "reasoning_effort")
# Names of one thing: who says one has said all of them.
SAME: Final[tuple[tuple[str, ...], ...]] = (
    LENGTHS,
    EFFORTS,
    ("stop", "stop_sequences"),
    ("repeat_penalty", "repetition_penalty"),
    ("n_keep", "num_keep"),
    ("n_cmpl", "n"),
    ("grammar", "json_schema", "response_format", "text", "output_format", "output_config"),
    ("reasoning_budget_tokens", "thinking_budget_tokens", "thinking"),
)
# More that is closed by a name, though not the other way round.
BESIDES: Final[Mapping[str, tuple[str, ...]]] = {
    "logprobs": ("top_logprobs", "n_probs"),
    "n_probs": ("logprobs", "top_logprobs"),
    "top_logprobs": ("n_probs",),
}
# By which name llama-server takes a thing, and the other ones that it would not see.
UNSEEN: Final[Mapping[str, tuple[str, ...]]] = {
    "n_predict": ("max_output_tokens", "num_predict"),
    "n_keep": ("num_keep",),
    "stop": ("stop_sequences",),
    "repeat_penalty": ("repetition_penalty",),
}
ALL_UNSEEN: Final = frozenset(name for names in UNSEEN.values() for name in names)

MAX_INT: Final = 2**31 - 1  # its integers have 32 bits
# The least that it takes, and what is meant by less: no limit, all of it, off.
LEAST: Final[Mapping[str, tuple[float, Any]]] = {
    **dict.fromkeys(("n_predict", "max_tokens", "max_completion_tokens", "n_keep"), (-1, -1)),
    "repeat_last_n": (0, MAX_INT),
    "repeat_penalty": (1e-6, 1.0),
}


def still_open(params: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `params` about which nothing is said yet: `said` is what counts more, where the same
    may stand by another name. There null is nothing, as it is to llama-server."""
    names = {name for name, value in said.items() if _counts(name, value)}
    closed = _closed(names)
    if _says_effort(said.get(KWARGS)):
        closed |= _closed({EFFORTS[0]})
    left = {name: value for name, value in params.items() if name not in closed}
    if EFFORTS[0] in closed and isinstance(kwargs := left.get(KWARGS), Mapping):
        left[KWARGS] = {name: v for name, v in kwargs.items() if name not in EFFORT_KWARGS}
    return left


def by_known_names(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What `fields` say by names that llama-server would not see, by those that it does."""
    found: dict[str, Any] = {}
    if ALL_UNSEEN.isdisjoint(fields):
        return found  # as nearly always
    for name, unseen in UNSEEN.items():
        there = [n for n in _group(name) if n in fields and not _is_null(fields[n])]
        if there and all(n in unseen for n in there):
            found[name] = _length(there[0], fields[there[0]])
    return found


def as_taken(fields: Mapping[str, msgspec.Raw]) -> dict[str, Any]:
    """What `fields` say by numbers that llama-server refuses, by those that mean the same to it."""
    found: dict[str, Any] = {}
    for name, (least, instead) in LEAST.items():
        if name not in fields:
            continue
        number = msgspec.json.decode(fields[name])
        if not isinstance(number, int | float) or isinstance(number, bool):
            continue
        if number < least:
            found[name] = instead
        elif number > MAX_INT:
            found[name] = MAX_INT
    return found


def _group(name: str) -> tuple[str, ...]:
    return next(group for group in SAME if name in group)


def _length(name: str, value: Any) -> Any:
    """Of Ollama's own name 0 is no limit, as every negative number is."""
    if name != "num_predict":
        return value
    length = msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else value
    return -1 if isinstance(length, int | float) and length <= 0 else value


def _closed(said: Collection[str]) -> set[str]:
    groups = (group for group in SAME if any(name in said for name in group))
    besides = (names for name, names in BESIDES.items() if name in said)
    return {*said}.union(*groups, *besides)


def _is_null(value: Any) -> bool:
    return value is None or (isinstance(value, msgspec.Raw) and bytes(value) == b"null")


def _counts(name: str, value: Any) -> bool:
    """llama-server does not know the word by which Anthropic's clients ask for no thoughts: a
    default that says the same has to stay."""
    return not _is_null(value) and not (name == "thinking" and "disabled" in _text(value))


def _text(value: Any) -> str:
    return bytes(value).decode() if isinstance(value, msgspec.Raw) else str(value)


def _says_effort(kwargs: Any) -> bool:
    return kwargs is not None and any(name in _text(kwargs) for name in EFFORT_KWARGS)
