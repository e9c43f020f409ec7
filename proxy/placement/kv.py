"""The bytes of the KV cache and of recurrent state, layer by layer, as llama.cpp allocates them.
Pure."""

from typing import Final

from proxy.catalog.ggml_types import TYPES
from proxy.catalog.gguf import Header
from proxy.placement.attention import Attention

CELL_PADDING: Final = 256
F32_BYTES: Final = 4
# Names as llama-server's --cache-type-k and -v take them.
KV_TYPES: Final = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
_BLOCKS: Final = {name.lower(): (elements, size) for name, elements, size in TYPES.values()}


def padded(count: int, to: int = CELL_PADDING) -> int:
    return -(-count // to) * to


def cells(ctx: int, window: int, ubatch: int) -> int:
    """The tokens that a layer's cache holds for one conversation of `ctx` tokens.

    A window needs room for itself and for the batch that moves it on.
    """
    full = padded(ctx)
    return min(full, padded(min(full, window + ubatch))) if window else full


def kv_bytes(
    attention: Attention, *, ctx: int, parallel: int, ubatch: int, key_type: str, value_type: str
) -> int:
    """One layer's cache for `parallel` conversations of `ctx` tokens each, each with cells of its
    own. Raises KeyError for a type that is not in KV_TYPES."""
    count = cells(ctx, attention.window, ubatch) * parallel
    keys = row_bytes(key_type, attention.key_width)
    values = row_bytes(value_type, attention.value_width)
    # The indexer looks at all tokens.
    index = row_bytes(key_type, attention.indexer_width) * padded(ctx) * parallel
    return (keys + values) * count + index


def row_bytes(kind: str, width: int) -> int:
    elements, size = _BLOCKS[kind]
    return -(-width // elements) * size


def state_bytes(header: Header, *, parallel: int) -> int | None:
    """One recurrent layer's state for `parallel` conversations; None where the header does not
    have the keys to know it."""
    elements = _convolution(header), _state(header)
    if None in elements or not any(elements):
        return None
    return sum(count or 0 for count in elements) * F32_BYTES * parallel


def _convolution(header: Header) -> int | None:
    width, heads = header.embedding_length, header.count("attention.head_count")
    kernel = header.count("ssm.conv_kernel")
    if header.count("wkv.head_size"):
        shifts = header.count("token_shift_count") or 2
        return shifts * width
    if cache := header.count("shortconv.l_cache"):
        return width * (cache - 1)
    if head := header.count("kda.head_dim"):
        return 3 * ((kernel or 4) - 1) * heads * head
    if header.architecture == "minimax-01":
        return 0
    if not kernel:
        return None
    inner, state = header.count("ssm.inner_size"), header.count("ssm.state_size")
    return (kernel - 1) * (inner + 2 * header.count("ssm.group_count") * state)


def _state(header: Header) -> int | None:
    heads = header.count("attention.head_count")
    if head := header.count("wkv.head_size"):
        return header.embedding_length * head
    if header.count("shortconv.l_cache"):
        return 0
    if head := header.count("kda.head_dim"):
        return head * head * heads
    if header.architecture == "minimax-01":
        head = header.count("attention.key_length")
        return head * head * heads
    return header.count("ssm.state_size") * header.count("ssm.inner_size")
