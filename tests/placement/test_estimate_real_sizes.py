"""Models of real sizes against `llama-fit-params`, which builds graphs and allocates nothing."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.catalog.gguf_reader import read_header
from proxy.placement.budget import Budget
from proxy.placement.commandline import server_args
from proxy.placement.estimate import Settings, estimate
from proxy.placement.plan import plan
from tests.placement import sparse
from tests.placement.fit_params import MIB, fitted_experts_bytes, free_mib, measure
from tests.support.llama import rpc_server
from tests.support.shapes import Sizes

pytestmark = pytest.mark.llama

WEIGHTS, COMPUTE = 0.03, 0.15
MODELS: dict[str, tuple[str, Sizes, int]] = {
    "qwen3-30b-a3b": ("qwen3moe", sparse.QWEN3_30B_A3B, 151936),
    "gpt-oss-20b": ("gpt-oss", sparse.GPT_OSS_20B, 201088),
    "gpt-oss-120b": ("gpt-oss", sparse.GPT_OSS_120B, 201088),
    "mixtral-8x7b": ("mixtral", sparse.MIXTRAL_8X7B, 32000),
    "glm-4.5-air": ("glm4moe", sparse.GLM_45_AIR, 151552),
    "deepseek": ("deepseek2", sparse.DEEPSEEK, 102400),
    "qwen3-8b": ("qwen3", sparse.QWEN3_8B, 151936),
}
# The tool asks for the logits of every token, llama-server only for those of each conversation's
# last: with few words to choose from they weigh as little here as they do there.
VOCABULARY = 4096
SETTINGS = (
    Settings(ctx=32768, per_token_outputs=True),
    Settings(ctx=8192, parallel=4, ubatch=1024, per_token_outputs=True),
    Settings(ctx=8192, ubatch=2048, key_type="q8_0", value_type="q8_0", per_token_outputs=True),
    Settings(ctx=4096, ubatch=256, flash_attention=False, per_token_outputs=True),
)


@pytest.fixture
async def rpc() -> AsyncIterator[str]:
    async with rpc_server() as address:
        yield address


@pytest.mark.parametrize("name", MODELS)
def test_prediction_holds(tmp_path: Path, rpc: str, name: str) -> None:
    shape, sizes, _ = MODELS[name]
    path = sparse.real_size(tmp_path / "model.gguf", shape, sizes, vocabulary=VOCABULARY)
    header = read_header(path)
    for settings in SETTINGS:
        made = estimate(header, settings)
        for split in {0, len(made.layers)} if header.is_moe else {0}:
            arguments = [
                *("--ctx-size", str(settings.ctx * settings.parallel)),
                *("--parallel", str(settings.parallel), "--ubatch-size", str(settings.ubatch)),
                *("--cache-type-k", settings.key_type, "--cache-type-v", settings.value_type),
                *("--flash-attn", "on" if settings.flash_attention else "off"),
                *("--n-gpu-layers", "999", *(("--n-cpu-moe", str(split)) if split else ())),
            ]
            real = measure(path, rpc, *arguments)["RPC0"]

            layers = range(len(made.layers))
            weights = made.output_bytes + sum(layer.dense for layer in made.layers)
            weights += sum(layer.experts for layer in made.layers if layer.index >= split)
            compute = made.compute_bytes(layers, range(split), streams_weights=False)
            assert weights / MIB == pytest.approx(real.weights, rel=WEIGHTS)
            assert made.kv_bytes / MIB == pytest.approx(real.kv, rel=WEIGHTS)
            assert compute / MIB == pytest.approx(real.compute, rel=COMPUTE), (settings, split)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("name", ["qwen3-30b-a3b", "gpt-oss-20b", "mixtral-8x7b"])
def test_plan_has_at_least_as_many_experts_on_the_device_as_llama_fit_params(
    tmp_path: Path, rpc: str, name: str, share: float
) -> None:
    shape, sizes, vocabulary = MODELS[name]
    path = sparse.real_size(tmp_path / "model.gguf", shape, sizes, vocabulary=vocabulary)
    header = read_header(path)
    # What it believes to be free is this machine's RAM; a margin makes any budget out of it.
    free = free_mib(path, rpc)
    budget = min(int(header.size_bytes / MIB * share), free - 1024)
    theirs = fitted_experts_bytes(
        header, path, rpc, free - budget, "--ctx-size", "8192", "--parallel", "1"
    )

    (ours,) = plan(
        header,
        Settings(ctx=8192),
        [Budget("RPC0", budget * MIB, streams_weights=False)],
        tune="generation",
    ).devices

    assert ours.total_bytes <= budget * MIB
    assert ours.experts_bytes >= theirs > 0


@pytest.mark.parametrize("apart", [False, True])
async def test_the_arguments_do_what_the_plan_says(tmp_path: Path, rpc: str, apart: bool) -> None:
    shape, sizes, _ = MODELS["gpt-oss-20b"]
    path = sparse.real_size(tmp_path / "model.gguf", shape, sizes, vocabulary=VOCABULARY)
    budgets = [
        Budget("RPC0", 3 << 30, experts=not apart, streams_weights=False),
        Budget("RPC1", 4 << 30, attention=not apart, streams_weights=False),
    ]
    asked = Settings(ctx=8192, parallel=2, key_type="q8_0", value_type="q8_0")
    made = plan(read_header(path), asked, budgets)
    assert 0 < made.moe_cpu_layers < len(made.estimate.layers)

    async with rpc_server() as second:
        args = server_args(made, path, rpc=(rpc, second))
        del args[:2], args[args.index("--rpc") : args.index("--rpc") + 2]  # said already
        # Not on the loop: it still has to close the connection that found the server ready.
        real = await asyncio.to_thread(measure, path, f"{rpc},{second}", *args)

    for held in made.devices:
        weights = held.weights_bytes + held.experts_bytes
        assert weights / MIB == pytest.approx(real[held.name].weights, rel=WEIGHTS)
        assert held.kv_bytes / MIB == pytest.approx(real[held.name].kv, rel=WEIGHTS, abs=1)
        # What the tool adds: one output per token.
        assert held.compute_bytes / MIB <= real[held.name].compute * (1 + COMPUTE)
