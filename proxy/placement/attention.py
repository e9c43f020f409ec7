"""How each layer of a model attends, as llama.cpp reads it from the header: heads, windows, shared
and recurrent layers. Pure.

llama.cpp keeps this in code for each architecture (src/models/*.cpp); the tables here are its
defaults, and a header's own keys come first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from proxy.catalog.gguf import Header

Kind = Literal["attention", "recurrent", "both", "none"]


@dataclass(frozen=True, slots=True)
class Pattern:
    """Which layers see a window: all but one of every `period`, the last of them or, with
    `dense_first`, the first. `window` is the default in tokens, None where the header must say."""

    period: int
    dense_first: bool = False
    window: int | None = None


WINDOWS: Final = {
    "afmoe": Pattern(4),
    "cohere2": Pattern(4),
    "cohere2moe": Pattern(4, dense_first=True),
    "exaone-moe": Pattern(4, window=128),
    "exaone4": Pattern(4, window=4096),
    "gemma2": Pattern(2, window=4096),
    "gemma3": Pattern(6),
    "gemma3n": Pattern(5),
    "gpt-oss": Pattern(2),
    "laguna": Pattern(4, dense_first=True),
    "llama4": Pattern(4, window=8192),
    "mellum": Pattern(4),
    "muse-glimmer": Pattern(4),
    "olmo2": Pattern(4),
    "plamo3": Pattern(8),
    "smallthinker": Pattern(4, dense_first=True, window=4096),
}
# Those that keep no cache at all: encoders, and models that write by diffusion.
CACHELESS: Final = frozenset(
    """
    bert jina-bert-v2 jina-bert-v3 nomic-bert nomic-bert-moe neo-bert eurobert modern-bert
    gemma-embedding wavtokenizer-dec dream llada llada-moe rnd1
    """.split()
)
RECURRENT: Final = frozenset(("mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"))
# A layer without KV heads is recurrent.
HEADLESS_RECURRENT: Final = frozenset(
    """
    jamba plamo2 granitehybrid lfm2 lfm2moe kimi-linear kimi-k3 bailingmoe3 nemotron_h
    nemotron_h_moe
    """.split()
)
# Every layer but one of so many is recurrent, unless the header has a list.
FULL_EVERY: Final = {"qwen3next": 4, "qwen35": 4, "qwen35moe": 4, "minimax-01": 8}
# Sparse attention keeps a cache of its own for the indexer beside the other.
INDEXED: Final = frozenset(("deepseek32", "glm-dsa"))
# Kinds of memory that this code does not know: what it says of their cache is a guess.
GUESSED: Final = frozenset(
    ("deepseek4", "dots3note", "glm5-next", "hy_v4", "minimax-m3", "qwen4exp", "kimi-k3")
)


@dataclass(frozen=True, slots=True)
class Attention:
    """One layer. Widths are in elements per token; a window of 0 means all tokens."""

    kind: Kind
    heads: int
    key_width: int  # of one token's keys, all KV heads together; 0 without a cache of its own
    value_width: int
    window: int
    head_key: int  # of one head
    head_value: int
    indexer_width: int = 0


def trunk_layers(header: Header) -> int:
    """The layers that every token goes through: all but those of multi-token prediction, which are
    not loaded unless asked for."""
    return max(header.layers - header.count("nextn_predict_layers"), 0)


def attention_of(header: Header) -> tuple[Attention, ...]:
    """Each layer of the trunk."""
    count = trunk_layers(header)
    windowed = _windowed(header, count)
    kinds = _kinds(header, count)
    heads = _each(header, "attention.head_count", count, 0)
    kv_heads = _each(header, "attention.head_count_kv", count, None) or heads
    owners = _cache_owners(header, count)
    latent = header.count("attention.key_length_mla") > 0
    indexer = header.count("attention.indexer.key_length") if header.architecture in INDEXED else 0
    window = header.count("attention.sliding_window") or _default_window(header)
    layers = []
    for index in range(count):
        key, value = _head_widths(header, heads[0], windowed=windowed[index])
        own = index < owners and kinds[index] in ("attention", "both")
        layers.append(
            Attention(
                kind=kinds[index],
                heads=heads[index],
                key_width=key * kv_heads[index] if own else 0,
                # Latent attention reads its values out of the keys.
                value_width=value * kv_heads[index] if own and not latent else 0,
                window=window if windowed[index] else 0,
                head_key=key,
                head_value=value,
                indexer_width=indexer if own else 0,
            )
        )
    return tuple(layers)


def _head_widths(header: Header, heads: int, *, windowed: bool) -> tuple[int, int]:
    default = header.embedding_length // heads if heads else 0
    key = header.count("attention.key_length") or default
    value = header.count("attention.value_length") or default
    if windowed:
        key = header.count("attention.key_length_swa") or key
        value = header.count("attention.value_length_swa") or value
    return key, value


def _windowed(header: Header, count: int) -> list[bool]:
    name = header.architecture
    pattern = WINDOWS.get(name)
    said = header.hyper("attention.sliding_window_pattern")
    if not (header.count("attention.sliding_window") or _default_window(header)):
        return [False] * count
    if name == "exaone4" and count != 64:
        return [False] * count  # only the large one has windows
    if name == "lfm2":
        return [kind == "attention" for kind in _kinds(header, count)]
    if isinstance(said, tuple):
        return [bool(flag) for flag in said[:count]] + [False] * (count - len(said))
    if pattern is None:
        return [False] * count  # a window that llama.cpp does not use (phi3, qwen2)
    period = said if isinstance(said, int) and said > 0 else pattern.period
    dense = 0 if pattern.dense_first else period - 1
    return [index % period != dense for index in range(count)]


def _default_window(header: Header) -> int:
    pattern = WINDOWS.get(header.architecture)
    # A model that says it has none has none.
    if pattern is None or header.hyper("attention.sliding_window") == 0:
        return 0
    return pattern.window or 0


def _kinds(header: Header, count: int) -> list[Kind]:
    name = header.architecture
    if name in CACHELESS:
        return ["none"] * count
    if name in RECURRENT:
        return ["recurrent"] * count
    if name == "falcon-h1":
        return ["both"] * count
    kv_heads = _each(header, "attention.head_count_kv", count, None)
    if name in HEADLESS_RECURRENT and kv_heads:
        # In Nemotron-H a layer is one thing only: a layer with a feed-forward part is just that.
        inner = _each(header, "feed_forward_length", count, 0)
        lone = name.startswith("nemotron")
        return [
            "none" if lone and inner[i] else "attention" if kv_heads[i] else "recurrent"
            for i in range(count)
        ]
    if name in FULL_EVERY:
        if isinstance(listed := header.hyper("attention.recurrent_layers"), tuple):
            flags = [*listed[:count], *[False] * (count - len(listed))]
            return ["recurrent" if flag else "attention" for flag in flags]
        every = header.count("full_attention_interval") or FULL_EVERY[name]
        return ["recurrent" if (i + 1) % every else "attention" for i in range(count)]
    return ["attention"] * count


def _cache_owners(header: Header, count: int) -> int:
    """The layers from this one on read the cache of an earlier one."""
    if header.architecture == "gemma3n":
        return min(20, count)
    if header.architecture == "gemma4":
        return count - header.count("attention.shared_kv_layers")
    return count


def _each(header: Header, key: str, count: int, default: int | None) -> Sequence[int]:
    """One number for each layer; empty where there is none and no default."""
    value = header.hyper(key)
    if isinstance(value, tuple):
        numbers = [int(v) if isinstance(v, int) else 0 for v in value[:count]]
        return numbers + [0] * (count - len(numbers))
    if isinstance(value, int):
        return [value] * count
    return [] if default is None else [default] * count
