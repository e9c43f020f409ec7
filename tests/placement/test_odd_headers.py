"""Whatever a header says that passed the check of its numbers, it can be planned with."""

from pathlib import Path

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.catalog.entry import Entry
from proxy.catalog.gguf import Header, Tensor, Value
from proxy.catalog.gguf_bounds import problem_of
from proxy.catalog.summary import summary_of
from proxy.dialect.ollama import models
from proxy.engine.types import LoadOptions
from proxy.placement import attention
from proxy.placement.budget import Budget
from proxy.placement.estimate import Settings
from proxy.placement.footprint import footprint
from proxy.placement.plan import plan
from proxy.placement.ubatch import choose_ubatch
from proxy.routing.load_plan import header_facts

FILE = Path("x.gguf")
ARCHITECTURES = sorted(
    {*attention.WINDOWS, *attention.CACHELESS, *attention.RECURRENT, *attention.FULL_EVERY}
    | {*attention.HEADLESS_RECURRENT, *attention.INDEXED, *attention.GUESSED}
    | {"falcon-h1", "gemma4", "qwen3moe", "deepseek2", ""}
)
KEYS = (
    "attention.head_count", "attention.head_count_kv", "attention.key_length",
    "attention.key_length_mla", "attention.recurrent_layers", "attention.shared_kv_layers",
    "attention.sliding_window", "attention.sliding_window_pattern", "embedding_length",
    "expert_count", "expert_used_count", "feed_forward_length", "full_attention_interval",
    "kda.head_dim", "nextn_predict_layers", "pooling_type", "shortconv.l_cache", "ssm.conv_kernel",
    "ssm.inner_size", "ssm.state_size", "wkv.head_size", "context_length",
)  # fmt: skip
NAMES = (
    "attn_q", "attn_qkv", "attn_kv_a_mqa", "attn_k_b", "attn_q_a", "ffn_up", "ffn_gate",
    "ffn_up_exps", "ffn_gate_exps", "ffn_down_exps", "ffn_gate_up_exps", "ffn_up_shexp", "ssm_in",
)  # fmt: skip

numbers = st.sampled_from([0, 1, 2, 3, 8, 128, 512, 1024, 1 << 16, 1 << 24])
scalars = st.one_of(numbers, st.booleans(), st.just(1.5), st.just("x"), st.just(-1))
values = st.one_of(
    numbers, scalars, st.lists(numbers, max_size=6).map(tuple), st.lists(st.booleans()).map(tuple)
)
shapes = st.lists(numbers, min_size=1, max_size=4).map(tuple)


@st.composite
def headers(draw: st.DrawFn) -> Header:
    name = draw(st.sampled_from(ARCHITECTURES))
    layers = draw(st.integers(0, 6))
    told = draw(st.dictionaries(st.sampled_from(KEYS), values))
    metadata: dict[str, Value] = {f"{name}.{key}": value for key, value in told.items()}
    metadata |= {"general.architecture": name, f"{name}.block_count": layers}
    inner = st.builds(
        "blk.{}.{}.{}".format,
        st.sampled_from([0, 1, 2, 5, 10**30]),
        st.sampled_from(NAMES),
        st.sampled_from(["weight", "bias"]),
    )
    outer = st.sampled_from(["token_embd.weight", "output.weight", "rope_freqs.weight"])
    tensors = draw(st.dictionaries(st.one_of(inner, outer), shapes, max_size=20))
    made = (Tensor(name, "F16", shape, FILE, 0, 1000) for name, shape in tensors.items())
    return Header((FILE,), 1000, metadata, {}, tuple(made))


@given(headers(), st.booleans(), st.lists(numbers, min_size=1, max_size=3))
@settings(max_examples=300, deadline=None)
def test_every_header_can_be_planned_with(header: Header, dense: bool, sizes: list[int]) -> None:
    if problem_of(header.metadata, header.array_lengths):
        return
    asked = Settings(ctx=8192, parallel=2, dense=dense)
    budgets = [Budget(f"CUDA{n}", size << 10) for n, size in enumerate(sizes)]
    entry = Entry("m", FILE, (FILE,), 1000, 0.0)

    plan(header, asked, budgets, host_free_bytes=1)
    choose_ubatch("prompt", header, asked, budgets)
    footprint(header, LoadOptions("m", FILE, ctx=8192, dense=dense), ["CUDA0"])
    header_facts(header)
    msgspec.json.encode([models.model_info(header), models.tensors(header)])
    models.capabilities(entry, summary_of(header))
