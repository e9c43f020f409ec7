"""What follows from a measured curve."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.control.speed_curve import (
    CachePoint,
    Curve,
    Point,
    best_share,
    best_split,
    floor_of,
    splits_to_try,
)

speeds = st.floats(1, 1000)
points = st.lists(
    st.builds(Point, moe_cpu_layers=st.integers(0, 60), generation=speeds, prompt=speeds),
    min_size=1,
    unique_by=lambda point: point.moe_cpu_layers,
)


def curve_of(*speeds: tuple[int, float, float]) -> list[Point]:
    return [Point(n, generation, prompt) for n, generation, prompt in speeds]


def test_more_on_the_device_is_best_where_it_is_faster() -> None:
    curve = curve_of((0, 100, 900), (6, 60, 500), (12, 40, 300))

    assert (best_split(curve), floor_of(curve)) == (0, None)


def test_more_on_the_device_has_to_be_faster_by_more_than_noise() -> None:
    curve = curve_of((0, 102, 500), (6, 100, 500), (12, 80, 500))

    assert (best_split(curve), floor_of(curve)) == (6, 6)


def test_all_on_the_cpu_where_moving_experts_loses() -> None:
    curve = curve_of((0, 50, 100), (6, 70, 150), (12, 100, 200))

    assert (best_split(curve), floor_of(curve)) == (12, 12)


def test_prompt_speed_decides_where_generation_does_not() -> None:
    assert best_split(curve_of((0, 100, 900), (6, 100, 500))) == 0
    assert best_split(curve_of((0, 100, 505), (6, 100, 500))) == 6


def test_below_what_was_measured_nothing_is_known() -> None:
    # The device had room for the last six layers only when this was measured.
    assert floor_of(curve_of((6, 100, 500), (12, 60, 500))) is None
    assert (best_split([]), floor_of([])) == (None, None)


@given(points)
def test_the_best_is_measured_and_near_the_fastest(curve: list[Point]) -> None:
    best = best_split(curve)

    chosen = next(point for point in curve if point.moe_cpu_layers == best)
    assert chosen.generation >= max(point.generation for point in curve) * 0.97


@given(points)
def test_what_has_fewer_on_the_device_than_the_best_is_worse(curve: list[Point]) -> None:
    best = best_split(curve)
    assert best is not None
    chosen = next(point for point in curve if point.moe_cpu_layers == best)
    for point in curve:
        if point.moe_cpu_layers > best:
            assert point.generation < max(p.generation for p in curve) * 0.97 or (
                point.prompt < chosen.prompt / 0.97
            )


def test_splits_to_try() -> None:
    assert splits_to_try(48) == [0, 12, 24, 36, 48]
    assert splits_to_try(3) == [0, 1, 2, 3]
    assert splits_to_try(1) == [0, 1]


@pytest.mark.parametrize(
    ("caches", "share"),
    [
        ((), 0.0),
        (((1.0, 100.0),), 0.0),
        (((1.0, 102.0), (0.5, 90.0)), 0.0),  # within noise
        (((1.0, 120.0), (0.5, 90.0)), 1.0),
        (((1.0, 90.0), (0.5, 120.0)), 0.5),
        (((1.0, 121.0), (0.5, 120.0)), 0.5),  # as fast, and more of it moves
    ],
)
def test_a_cache_has_to_earn_its_room(
    caches: tuple[tuple[float, float], ...], share: float
) -> None:
    curve = Curve(
        *("m", "0", ("CUDA0 x",), "e", "", 12, 512, 64, 16, 3),
        points=(Point(0, 100.0, 50.0), Point(12, 40.0, 50.0)),
        caches=tuple(CachePoint(part, 1 << 30, 6, speed, 50.0) for part, speed in caches),
    )

    assert best_share(curve) == share
