"""Whether the numbers of a header are such as a model can have. Pure.

Plans, estimates and lists count with them: a file of a hundred bytes that claims two thousand
million layers would take all memory there is. What is checked here can be used without a thought.
"""

from collections.abc import Mapping
from typing import Final

from proxy.catalog.gguf import Value

# As llama.cpp itself has it.
MAX_LAYERS: Final = 512
_WIDTH: Final = 1 << 24
_TOKENS: Final = 1 << 32
# What stands under the architecture's name: the largest number that makes sense. Each may be one
# number, or a list with one for each layer.
_MOST: Final[Mapping[str, int]] = {
    "block_count": MAX_LAYERS,
    "nextn_predict_layers": MAX_LAYERS,
    "leading_dense_block_count": MAX_LAYERS,
    "attention.shared_kv_layers": MAX_LAYERS,
    "full_attention_interval": MAX_LAYERS,
    "context_length": _TOKENS,
    "attention.sliding_window": _TOKENS,
    "vocab_size": _WIDTH,
    "embedding_length": _WIDTH,
    "feed_forward_length": _WIDTH,
    "expert_feed_forward_length": _WIDTH,
    "expert_shared_feed_forward_length": _WIDTH,
    "expert_count": 1 << 16,
    "expert_used_count": 1 << 10,
    "expert_shared_count": 1 << 10,
    "attention.head_count": 1 << 16,
    "attention.head_count_kv": 1 << 16,
    "attention.key_length": _WIDTH,
    "attention.value_length": _WIDTH,
    "attention.key_length_swa": _WIDTH,
    "attention.value_length_swa": _WIDTH,
    "attention.key_length_mla": _WIDTH,
    "attention.value_length_mla": _WIDTH,
    "attention.indexer.key_length": _WIDTH,
    "ssm.conv_kernel": 1 << 16,
    "ssm.inner_size": _WIDTH,
    "ssm.state_size": _WIDTH,
    "ssm.group_count": 1 << 16,
    "wkv.head_size": _WIDTH,
    "token_shift_count": 1 << 16,
    "shortconv.l_cache": 1 << 16,
    "kda.head_dim": _WIDTH,
}
# A window of all tokens is written as -1 by some.
_MAY_BE_NEGATIVE: Final = frozenset({"attention.sliding_window"})


def problem_of(metadata: Mapping[str, Value], lengths: Mapping[str, int]) -> str | None:
    """What is wrong with a header's numbers, for people; None where nothing is.

    `lengths` are those of all arrays, also of those that are not among the metadata.
    """
    architecture = metadata.get("general.architecture", "")
    if not isinstance(architecture, str):
        return f"general.architecture is {_shown(architecture)}, and no name"
    for name, most in _MOST.items():
        key = f"{architecture}.{name}"
        if lengths.get(key, 0) > MAX_LAYERS:
            return f"{key} is a list of {lengths[key]}, more than any model has layers"
        value = metadata.get(key)
        least = -1 if name in _MAY_BE_NEGATIVE else 0
        for number in value if isinstance(value, tuple) else (value,):
            if number is not None and not _is_count(number, least, most):
                return f"{key} is {_shown(number)}, which no model has"
    return _part_of_too_much(architecture, metadata)


def _part_of_too_much(architecture: str, metadata: Mapping[str, Value]) -> str | None:
    """What is more than that of which it is a part."""
    for part, whole in (
        ("nextn_predict_layers", "block_count"),
        ("attention.shared_kv_layers", "block_count"),
        ("expert_used_count", "expert_count"),
    ):
        fewer, more = (
            metadata.get(f"{architecture}.{part}"),
            metadata.get(f"{architecture}.{whole}"),
        )
        if isinstance(fewer, int) and isinstance(more, int) and more and fewer > more:
            return f"{architecture}.{part} is {fewer}, and {architecture}.{whole} only {more}"
    return None


def _is_count(value: object, least: int, most: int) -> bool:
    """Whether this is a whole number; true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _shown(value: Value) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "..."
