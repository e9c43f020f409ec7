"""The widths of one layer's operations, read from its tensors' shapes. Pure."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from proxy.catalog.gguf import Header, Tensor
from proxy.engine.tensor_names import EXPERT_TENSORS, FEED_FORWARD_TENSORS
from proxy.placement.attention import Attention

BLOCK: Final = re.compile(r"blk\.(\d+)\.(.+)")
# What `--n-cpu-moe` moves, biases and scales included.
EXPERTS: Final = re.compile(rf"{EXPERT_TENSORS}(\.|$)")
# What moves in its place of a model without experts, as with `--n-cpu-ffn`.
FEED_FORWARD: Final = re.compile(FEED_FORWARD_TENSORS)


@dataclass(frozen=True, slots=True)
class Work:
    """Widths in elements per token; 0 for what a layer does not have."""

    width: int
    query: int
    key: int
    value: int
    attended: int  # what attention gives, before its output matrix
    fused: bool  # query, key and value come from one matrix
    # Latent attention: the query's own rank, the query before it is widened, and what is made of
    # the values afterwards. All 0 in ordinary attention.
    query_rank: int
    latent: int
    unfolded: int
    heads: int
    window: int
    recurrent: int  # all that a recurrent layer makes of a token before its state is applied
    inner: int  # of the dense feed-forward part
    gated: bool
    # The matrices of the dense part in the order of use, in bytes, where it can move; else ().
    inner_steps: tuple[int, ...]
    experts: int
    used: int
    expert_inner: int
    shared_inner: int
    # The experts' matrices in the order of use: what each makes of a token, and its bytes.
    expert_steps: tuple[tuple[int, int], ...]


def by_block(tensors: Iterable[Tensor]) -> dict[int | None, dict[str, Tensor]]:
    """Tensors by layer, under their names within it; those of no layer under None."""
    found: dict[int | None, dict[str, Tensor]] = defaultdict(dict)
    for tensor in tensors:
        match = BLOCK.fullmatch(tensor.name)
        if match:
            found[int(match[1])][match[2]] = tensor
        else:
            found[None][tensor.name] = tensor
    return found


def is_expert(name: str) -> bool:
    """Whether a tensor, by its name within the layer, belongs to the experts."""
    return EXPERTS.match(name) is not None


def is_movable(name: str, *, dense: bool) -> bool:
    """Whether a tensor is of what moves: experts, or in a `dense` model the feed-forward part."""
    return bool(FEED_FORWARD.match(name)) if dense else is_expert(name)


def work_of(
    header: Header,
    index: int,
    attention: Attention,
    tensors: Mapping[str, Tensor],
    *,
    dense: bool = False,
) -> Work:
    """The operations of layer `index`, whose tensors are given by their names within it. `dense`:
    its feed-forward part can move."""

    def out(*names: str) -> int:
        return next((_rows(tensors[n]) for n in names if n in tensors), 0)

    heads = attention.heads
    fused = out("attn_qkv.weight")
    latent_keys = out("attn_kv_a_mqa.weight") if "attn_k_b.weight" in tensors else 0
    # An encoder attends without keeping anything.
    attends = attention.kind in ("attention", "both") or (
        attention.kind == "none" and ("attn_q.weight" in tensors or bool(fused))
    )
    value = attention.value_width or (latent_keys and attention.head_value)
    merged = out("ffn_gate_up_exps.weight")
    expert_steps = tuple(
        (_rows(tensors[name]), tensors[name].size_bytes)
        for part in ("gate_up", "up", "gate", "down")
        if (name := f"ffn_{part}_exps.weight") in tensors
    )
    return Work(
        width=header.embedding_length,
        query=heads * attention.head_key if attends else 0,
        key=attention.key_width,
        value=value,
        attended=heads * attention.head_value if attends else 0,
        fused=bool(fused) and attends,
        query_rank=out("attn_q_a.weight") if latent_keys else 0,
        unfolded=heads * header.count("attention.value_length_mla") if latent_keys else 0,
        latent=out("attn_q_b.weight", "attn_q.weight") if latent_keys else 0,
        heads=heads,
        window=attention.window,
        recurrent=_recurrent(tensors) if attention.kind in ("recurrent", "both") else 0,
        inner=out("ffn_up.weight"),
        gated="ffn_gate.weight" in tensors,
        inner_steps=tuple(
            tensors[name].size_bytes
            for part in ("up", "gate", "down")
            if dense and (name := f"ffn_{part}.weight") in tensors
        ),
        # Scales and biases alone compute nothing.
        experts=header.expert_count if expert_steps else 0,
        used=_used(header, index),
        expert_inner=merged // 2 or out("ffn_up_exps.weight"),
        shared_inner=out("ffn_up_shexp.weight"),
        expert_steps=expert_steps,
    )


def _rows(tensor: Tensor) -> int:
    return tensor.shape[1] if len(tensor.shape) > 1 else tensor.shape[0]


def _used(header: Header, index: int) -> int:
    value = header.hyper("expert_used_count")
    if isinstance(value, tuple):
        value = value[index] if index < len(value) else 0
    return value if isinstance(value, int) else 0


def _recurrent(tensors: Mapping[str, Tensor]) -> int:
    names = ("ssm_in", "attn_qkv", "attn_gate", "ssm_beta_alpha", "shortconv.in_proj")
    return sum(_rows(tensors[f"{n}.weight"]) for n in names if f"{n}.weight" in tensors)
