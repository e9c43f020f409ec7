"""Plans: never over a budget, never more on the CPU than needed, and a reason where none fits."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.engine.types import CPU
from proxy.placement.budget import Budget, Packer
from proxy.placement.commandline import server_args
from proxy.placement.estimate import Settings
from proxy.placement.plan import UBATCHES, WORTH, plan
from tests.placement.headers import MIB, header, moe

SETTINGS = Settings(ctx=1024)
MODEL = Path("model.gguf")


def budget(name: str, mib: int, *, attention: bool = True, experts: bool = True) -> Budget:
    return Budget(name, mib * MIB, attention=attention, experts=experts)


sizes = st.lists(st.integers(0, 2000), min_size=1, max_size=3)
layer_counts = st.integers(1, 12)


@given(
    layers=layer_counts,
    mib=sizes,
    leading=st.integers(0, 3),
    apart=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=3, max_size=3),
)
def test_a_plan_keeps_every_budget_and_its_neighbour_does_not(
    layers: int, mib: list[int], leading: int, apart: list[tuple[bool, bool]]
) -> None:
    model = moe(layers, leading_dense=min(leading, layers - 1))
    budgets = [
        budget(f"GPU{i}", size, attention=attention or i == 0, experts=experts)
        for i, (size, (attention, experts)) in enumerate(zip(mib, apart, strict=False))
    ]

    made = plan(model, SETTINGS, budgets, tune="generation")

    held = {each.name: each.total_bytes for each in made.devices}
    over = [b.name for b in budgets if held[b.name] > b.size_bytes]
    assert made.fits == (not over)
    assert bool(made.problems) == (not made.fits)
    for layer in made.estimate.layers:
        on_cpu = made.layout.experts[layer.index] == CPU
        assert on_cpu == (layer.index < made.moe_cpu_layers and layer.experts > 0)
    if made.fits and made.moe_cpu_layers:
        # Not one layer more would fit.
        assert not Packer(made.estimate, budgets).arrange(made.moe_cpu_layers - 1).fits
    for each in budgets:
        assert each.attention or each.name not in made.layout.attention
        assert (
            each.experts
            or not made.fits
            or each.name
            not in [
                made.layout.experts[layer.index] for layer in made.estimate.layers if layer.experts
            ]
        )


@given(layers=layer_counts, mib=sizes, more=st.integers(0, 500))
def test_more_memory_never_means_more_on_the_cpu(layers: int, mib: list[int], more: int) -> None:
    def layers_on_cpu(extra: int) -> int:
        budgets = [budget(f"GPU{i}", size + extra) for i, size in enumerate(mib)]
        made = plan(moe(layers), SETTINGS, budgets, tune="generation")
        return made.moe_cpu_layers if made.fits else layers + 1

    assert layers_on_cpu(more) <= layers_on_cpu(0)


@given(layers=layer_counts, mib=sizes, cpu_layers=st.integers(0, 12))
def test_the_tensor_split_gives_each_device_its_layers(
    layers: int, mib: list[int], cpu_layers: int
) -> None:
    model = moe(layers)
    budgets = [budget(f"GPU{i}", size) for i, size in enumerate(mib)]

    layout = plan(model, SETTINGS, budgets, cpu_layers=cpu_layers).layout

    # llama.cpp: layer i of n + 1 goes to the first device whose share ends after i / (n + 1).
    total, slots = sum(layout.split), layers + 1
    for index, home in enumerate(layout.attention):
        ends = [sum(layout.split[: place + 1]) / total for place in range(len(budgets))]
        assert budgets[next(i for i, end in enumerate(ends) if index / slots < end)].name == home


def test_experts_go_where_the_policy_lets_them() -> None:
    budgets = [budget("CUDA0", 400, experts=False), budget("CUDA1", 700, attention=False)]

    made = plan(moe(8), SETTINGS, budgets, tune="generation")

    assert set(made.layout.attention) == {"CUDA0"}
    assert set(made.layout.experts) == {CPU, "CUDA1"}
    args = server_args(made, MODEL)
    assert args[args.index("--tensor-split") + 1] == "9,0"
    override = args[args.index("--override-tensor") + 1]
    on_second = [i for i, place in enumerate(made.layout.experts) if place == "CUDA1"]
    assert override == (
        rf"blk\.({'|'.join(map(str, on_second))})\.ffn_(up|down|gate|gate_up)_(ch|)exps=CUDA1"
    )


def test_no_device_for_attention_is_an_error() -> None:
    with pytest.raises(ValueError, match="attention"):
        plan(moe(2), SETTINGS, [budget("CUDA0", 400, attention=False)])


def test_a_larger_batch_is_taken_where_it_costs_few_layers() -> None:
    model = moe(48)
    for mib in (2000, 3000, 5000, 8000):
        made = {
            tune: plan(model, replace(SETTINGS, ctx=16384), [budget("GPU", mib + 900)], tune=tune)
            for tune in ("balanced", "prompt", "generation")
        }
        base = made["generation"]
        assert base.settings.ubatch == 512
        for tune in ("balanced", "prompt"):
            chosen = made[tune]
            assert chosen.settings.ubatch in (*UBATCHES[tune], 512)
            assert chosen.moe_cpu_layers - base.moe_cpu_layers <= -(-48 * WORTH[tune] // 1)
        assert made["prompt"].settings.ubatch >= made["balanced"].settings.ubatch
    assert made["balanced"].settings.ubatch == 2048


def test_what_does_not_fit_says_what_would() -> None:
    made = plan(moe(4), Settings(ctx=65536, parallel=2), [budget("GPU", 1400)])

    assert not made.fits
    assert made.moe_cpu_layers == 4
    (problem,) = made.problems
    assert problem.startswith("GPU: ")
    assert problem.endswith(
        "even with all experts on the CPU, 0.86 GiB more than the 1.37 GiB that may be used"
    )
    context = next(text for text in made.advice if text.startswith("a context of "))
    fitting = int(context.split()[3])
    again = Settings(ctx=fitting, parallel=2)
    assert plan(moe(4), again, [budget("GPU", 1400)]).fits
    again = Settings(ctx=fitting + 256, parallel=2)
    assert not plan(moe(4), again, [budget("GPU", 1400)]).fits
    assert any("q8_0" in text or "conversations" in text for text in made.advice)


def test_host_memory_is_looked_at_where_it_is_known() -> None:
    def problems(free_mib: int | None) -> tuple[str, ...]:
        free = None if free_mib is None else free_mib * MIB
        budgets = [budget("GPU", 800)]
        return plan(moe(12), SETTINGS, budgets, host_free_bytes=free).problems

    assert problems(None) == problems(4000) == ()
    (problem,) = problems(100)
    assert "read from disk for every token" in problem


def test_a_dense_model_has_nothing_on_the_cpu() -> None:
    tensors = {
        "token_embd.weight": ((1024, 32000), 60 * MIB),
        "blk.0.attn_q.weight": ((1024, 1024), MIB),
        "blk.0.ffn_up.weight": ((1024, 4096), MIB),
    }
    hyper = {"block_count": 1, "embedding_length": 1024, "attention.head_count": 8}

    made = plan(header("qwen3", hyper, tensors), SETTINGS, [budget("GPU", 500)])

    assert (made.fits, made.moe_cpu_layers, made.host_experts_bytes) == (True, 0, 0)
    assert made.devices[0].weights_bytes == 62 * MIB  # the tied output too
    assert made.host_bytes == 60 * MIB


def test_arguments() -> None:
    asked = Settings(ctx=2048, parallel=3, key_type="q8_0", value_type="q8_0")

    made = plan(moe(8), asked, [budget("GPU", 900)], ubatch=4096)

    text = " ".join(server_args(made, MODEL, rpc=("127.0.0.1:1",)))
    assert "--ctx-size 6144 --parallel 3 --n-gpu-layers 999" in text
    assert f"--n-cpu-moe {made.moe_cpu_layers} " in text
    assert "--ubatch-size 4096 --fit off --batch-size 4096" in text
    assert "--cache-type-k q8_0 --cache-type-v q8_0 --rpc 127.0.0.1:1" in text
    assert "--tensor-split" not in text
