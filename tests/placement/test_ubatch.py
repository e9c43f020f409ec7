"""The batch for a policy's `tune`: never at the price of what was asked for."""

from dataclasses import replace

import pytest

from proxy.placement.budget import Budget
from proxy.placement.estimate import Settings
from proxy.placement.plan import TUNES, UBATCHES, Tune, plan
from proxy.placement.ubatch import UNKNOWN, choose_ubatch
from tests.placement.headers import MIB, moe

MODEL = moe(48)
SETTINGS = Settings(ctx=16384)


def gpu(mib: int, **more: bool) -> Budget:
    return Budget("CUDA0", mib * MIB, **more)


@pytest.mark.parametrize("tune", TUNES)
@pytest.mark.parametrize("mib", [3000, 4200, 50_000])
def test_as_the_plan_has_it_where_the_split_is_free(tune: Tune, mib: int) -> None:
    made = plan(MODEL, SETTINGS, [gpu(mib)], tune=tune)

    assert choose_ubatch(tune, MODEL, SETTINGS, [gpu(mib)]) == made.settings.ubatch


def test_what_is_tuned_for_decides() -> None:
    chosen = [choose_ubatch(tune, MODEL, SETTINGS, [gpu(50_000)]) for tune in TUNES]

    assert chosen == [2048, 4096, 512]


@pytest.mark.parametrize(("more", "largest"), [(0, 512), (1, 2048), (5, 4096)])
def test_a_given_number_of_layers_is_kept(more: int, largest: int) -> None:
    """The largest batch with which it still fits: each needs some layers' room."""
    devices = [gpu(6000)]
    given = plan(MODEL, SETTINGS, devices, tune="generation").moe_cpu_layers + more

    chosen = choose_ubatch("prompt", MODEL, SETTINGS, devices, given)

    assert chosen == largest
    assert plan(MODEL, SETTINGS, devices, ubatch=chosen, cpu_layers=given).fits
    beyond = [size for size in UBATCHES["prompt"] if size > chosen]
    for size in beyond:
        assert not plan(MODEL, SETTINGS, devices, ubatch=size, cpu_layers=given).fits


def test_nothing_larger_where_not_even_the_smallest_fits() -> None:
    assert choose_ubatch("prompt", MODEL, SETTINGS, [gpu(100)]) == 512


def test_not_more_than_all_conversations_can_have() -> None:
    assert choose_ubatch("prompt", MODEL, replace(SETTINGS, ctx=512), [gpu(50_000)]) < 1024


@pytest.mark.parametrize("tune", TUNES)
def test_what_is_not_known(tune: Tune) -> None:
    """No devices yet, none that would be sent weights for a batch, or a file that tells nothing."""
    for header, budgets in (
        (MODEL, []),
        (MODEL, [gpu(50_000, streams_weights=False)]),
        (MODEL, [gpu(50_000, attention=False)]),
        (None, [gpu(50_000)]),
    ):
        assert choose_ubatch(tune, header, SETTINGS, budgets) == UNKNOWN[tune]
