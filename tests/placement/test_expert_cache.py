"""How large an expert cache is and what it has: never over a budget, and a reason for none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.engine.types import CPU, Layer, LoadOptions, Status
from proxy.placement.assign import assign, display_n, projected
from proxy.placement.budget import Budget
from proxy.placement.commandline import server_args
from proxy.placement.estimate import Settings
from proxy.placement.expert_cache import MIB, SHARES, choose_cache, plan_with_cache
from proxy.placement.footprint import footprint
from proxy.placement.plan import plan
from proxy.placement.plan_json import plan_json
from proxy.split import ALL, AUTO
from tests.placement.headers import FILE, moe

SETTINGS = Settings(ctx=1024)
LAYERS, LAYER_MIB = 8, 100
MODEL = moe(LAYERS, experts_mib=LAYER_MIB)


def device(mib: int, name: str = "CUDA0") -> Budget:
    return Budget(name, mib * MIB)


@given(
    mib=st.integers(0, 2000),
    asked=st.one_of(st.sampled_from(SHARES), st.integers(1, 2000)),
    cpu_layers=st.none() | st.integers(0, LAYERS),
)
def test_cache_and_whole_layers_fit_together(
    mib: int, asked: float, cpu_layers: int | None
) -> None:
    budgets = [device(mib)]
    size = asked * MIB if isinstance(asked, int) else None
    share = 0.0 if size else asked

    cache = choose_cache(
        MODEL, SETTINGS, budgets, size_bytes=size, share=share, cpu_layers=cpu_layers
    )

    assert (cache.why is None) == (cache.size_mib > 0) == (cache.layers > 0)
    if cache.why is not None:
        return
    assert cache.size_mib >= LAYER_MIB
    assert size is None or cache.size_bytes <= size
    if cpu_layers is not None and share < 1:
        assert cache.layers == cpu_layers
    if share == 1:
        assert cache.layers == LAYERS
    made = plan(MODEL, SETTINGS, budgets, ubatch=SETTINGS.ubatch, cpu_layers=cpu_layers)
    beside = plan_with_cache(made, MODEL, cache)
    if cpu_layers is None:
        assert beside.fits
    assert beside.fits == (beside.devices[0].total_bytes <= mib * MIB)
    assert beside.devices[0].cache_bytes == cache.size_bytes
    # What is cached is on the CPU, and is all that is.
    on_cpu = {index for index, place in enumerate(beside.layout.experts) if place == CPU}
    assert on_cpu == set(range(cache.layers))


@pytest.mark.parametrize(
    ("budgets", "asked", "why"),
    [
        ([device(9000)], {"size_bytes": 400 * MIB}, "all experts fit on the device"),
        ([device(600)], {"size_bytes": 99 * MIB}, "less than one layer's experts take"),
        ([device(300)], {"size_bytes": 400 * MIB}, "less than one layer's experts take"),
        ([device(600)], {"size_bytes": 400 * MIB, "cpu_layers": 0}, "to be on the CPU"),
        ([device(600), device(600, "CUDA1")], {"share": 0.5}, "several devices"),
        ([Budget("CUDA0", 600 * MIB, attention=False)], {"share": 0.5}, "attention"),
    ],
)
def test_why_there_is_none(budgets: list[Budget], asked: dict[str, int], why: str) -> None:
    cache = choose_cache(MODEL, SETTINGS, budgets, **asked)

    assert cache.size_mib == cache.layers == 0
    assert why in (cache.why or "")


def test_where_no_device_is_known_all_is_as_asked() -> None:
    cache = choose_cache(MODEL, SETTINGS, (), size_bytes=300 * MIB)
    named = choose_cache(MODEL, SETTINGS, (), size_bytes=300 * MIB, cpu_layers=5)

    assert (cache.size_mib, cache.layers) == (300, LAYERS)
    assert (named.size_mib, named.layers) == (300, 5)


def test_a_plan_tells_of_the_cache() -> None:
    made = plan(MODEL, SETTINGS, [device(900)], ubatch=512)
    without = plan_json(made, "m", {"CUDA0": 900 * MIB}, server_args(made, FILE))
    cache = choose_cache(MODEL, SETTINGS, made.budgets, size_bytes=250 * MIB)
    with_it = plan_with_cache(made, MODEL, cache)
    told = plan_json(with_it, "m", {"CUDA0": 900 * MIB}, server_args(with_it, FILE))

    assert (without["devices"][0]["cache_bytes"], without["cached_layers"]) == (0, 0)
    assert "--moe-cache-mib" not in without["args"]
    assert told["devices"][0]["cache_bytes"] == 250 * MIB
    assert told["cached_layers"] == told["moe_cpu_layers"] == cache.layers
    assert told["cached_layers"] > without["moe_cpu_layers"]
    assert told["args"][-2:] == ["--moe-cache-mib", "250"]


def test_a_newcomer_takes_its_cache_with_it() -> None:
    options = LoadOptions("m", FILE, ctx=1024, parallel=1)
    cached = LoadOptions("m", FILE, ctx=1024, parallel=1, cache_mib=300, cached_layers=8)
    bare = footprint(MODEL, options, ["CUDA0", "CUDA1"])

    assert footprint(MODEL, cached, ["CUDA0", "CUDA1"]) == {
        "CUDA0": bare["CUDA0"] + 300 * MIB,
        "CUDA1": bare["CUDA1"],
    }


@given(
    cached=st.integers(0, LAYERS),
    split=st.one_of(st.sampled_from([AUTO, ALL]), st.integers(0, LAYERS)),
    room=st.integers(0, LAYERS),
)
def test_no_placement_touches_what_is_cached(cached: int, split: int | str, room: int) -> None:
    """Whatever is planned is planned of the layers that a status has, and those are none."""
    layers = tuple(Layer(index, CPU, 1, "CUDA0") for index in range(cached, LAYERS))
    status = Status(LAYERS, layers, cached=tuple(range(cached)))

    goal = assign(status, split, {"CUDA0": room})  # type: ignore[arg-type]

    assert not goal.keys() & set(status.cached)
    shown = display_n(projected(status, goal), split)  # type: ignore[arg-type]
    assert shown >= (cached if layers else LAYERS)
