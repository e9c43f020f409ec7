"""What is predicted against what real workers hold: llama.cpp's own memory breakdown."""

from collections.abc import Mapping

import pytest

from proxy.catalog.gguf_reader import read_header
from proxy.engine.types import CPU
from proxy.placement.assign import placement
from proxy.placement.budget import Budget, Packer, Usage, held_by
from proxy.placement.estimate import Settings, estimate
from tests.support.hybrid import hybrid_model
from tests.support.models import model
from tests.worker.conftest import Hosted

pytestmark = pytest.mark.llama

CTX, PARALLEL = 3000, 2
WEIGHTS, COMPUTE, RECURRENT = 0.03, 0.15, 0.2
CASES = {
    "qwen3moe": ("qwen3moe", {}),
    "qwen3moe in Q4_0": ("qwen3moe", {"quant": "Q4_0"}),
    "sliding windows, MXFP4, biases": ("gpt-oss", {}),
    "mixtral": ("mixtral", {"layers": 5}),
    "latent attention, shared experts": ("deepseek2", {}),
    "shared experts": ("glm4moe", {"quant": "Q4_K"}),
    "dense": ("qwen3", {}),
    "dense, of which a part moves": ("qwen3", {"layers": 6}),
}


def assert_near(predicted: Usage, real: Mapping[str, int]) -> None:
    assert predicted.weights_bytes == pytest.approx(real["weights"], rel=WEIGHTS)
    assert predicted.kv_bytes == pytest.approx(real["kv"], rel=WEIGHTS)
    assert predicted.experts_bytes == pytest.approx(real["experts"], rel=WEIGHTS)
    assert predicted.compute_bytes == pytest.approx(real["compute"], rel=COMPUTE)


@pytest.mark.parametrize(("shape", "more"), CASES.values(), ids=CASES)
async def test_prediction_holds(hosted: Hosted, shape: str, more: Mapping[str, str | int]) -> None:
    path = model(shape, **more)  # type: ignore[arg-type]
    dense = shape == "qwen3" and "layers" in more
    made = estimate(read_header(path), Settings(ctx=CTX, parallel=PARALLEL, dense=dense))
    layers = len(made.layers)
    async with hosted(path, ctx=CTX, parallel=PARALLEL, dense=dense) as engine:
        status = engine.known()
        assert status.block_count == layers
        # All on the CPU, half, none; a dense model has nothing to move.
        for split in (layers, layers // 2, 0) if status.layers else (0,):
            if status.layers:
                assert (await engine.place(placement(status, split))).short_of_memory is None
            seen = engine.known().held

            (device,) = set(seen) - {CPU}
            budget = Budget(device, 1 << 40, streams_weights=False)
            (predicted,) = Packer(made, [budget]).arrange(split).held
            assert_near(predicted, seen[device])


async def test_prediction_holds_for_each_of_two_devices(hosted: Hosted) -> None:
    path = model("gpt-oss")
    made = estimate(read_header(path), Settings(ctx=CTX, parallel=PARALLEL))
    async with hosted(path, devices=2, ctx=CTX, parallel=PARALLEL) as engine:
        status = engine.known()
        places = placement(status, 4)
        await engine.place(places)
        seen = engine.known().held

        homes = [layer.attention_device for layer in status.layers]
        for device in sorted(set(homes)):
            budget = Budget(device, 1 << 40, streams_weights=False)
            predicted = held_by(made, budget, homes, [places[index] for index in range(len(homes))])
            assert_near(predicted, seen[device])
        assert len(set(homes)) == 2


async def test_prediction_holds_for_a_hybrid(hosted: Hosted) -> None:
    """Recurrent state beside the cache, which llama.cpp counts as one, with experts in all
    layers. Its scratch memory is known less well than that of attention."""
    path = hybrid_model()
    made = estimate(read_header(path), Settings(ctx=CTX, parallel=PARALLEL))
    assert not made.notes
    async with hosted(path, ctx=CTX, parallel=PARALLEL) as engine:
        status = engine.known()
        for split in (len(made.layers), 3, 0):
            assert (await engine.place(placement(status, split))).short_of_memory is None
            seen = engine.known().held

            (device,) = set(seen) - {CPU}
            budget = Budget(device, 1 << 40, streams_weights=False)
            (predicted,) = Packer(made, [budget]).arrange(split).held
            assert predicted.weights_bytes == pytest.approx(seen[device]["weights"], rel=WEIGHTS)
            assert predicted.kv_bytes == pytest.approx(seen[device]["kv"], rel=WEIGHTS)
            assert predicted.experts_bytes == pytest.approx(seen[device]["experts"], rel=WEIGHTS)
            assert predicted.compute_bytes == pytest.approx(seen[device]["compute"], rel=RECURRENT)
