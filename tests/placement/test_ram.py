"""What of a model stays on the CPU."""

from proxy.placement.budget import Budget
from proxy.placement.estimate import Settings
from proxy.placement.ram import cpu_resident
from tests.placement.headers import MIB, moe

MODEL = moe(8, experts_mib=100)
SETTINGS = Settings(ctx=1024)
EMBEDDINGS = 60 * MIB


def test_experts_of_the_layers_on_the_cpu_and_embeddings() -> None:
    large = [Budget("CUDA0", 50_000 * MIB)]

    assert cpu_resident(MODEL, SETTINGS, large, None) == EMBEDDINGS
    assert cpu_resident(MODEL, SETTINGS, large, 3) == EMBEDDINGS + 300 * MIB


def test_what_does_not_fit_stays_as_well() -> None:
    small = [Budget("CUDA0", 1 * MIB)]

    assert cpu_resident(MODEL, SETTINGS, small, None) == EMBEDDINGS + 800 * MIB


def test_without_a_device_all_of_it() -> None:
    for budgets in ([], [Budget("CUDA0", 50_000 * MIB, attention=False)]):
        assert cpu_resident(MODEL, SETTINGS, budgets, 0) == MODEL.size_bytes
