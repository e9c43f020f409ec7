"""What is kept of real speeds, what fades, and what that does to a measured curve."""

from collections.abc import Mapping

import pytest

from proxy.control.speed_curve import Point, floor_of
from proxy.control.speed_use import FADES_S, KEPT, LEAST, NOISE, kept_true, merged, speeds_of

NOW_S = 2e9
BENCH = (Point(0, 50.0, 300.0), Point(6, 40.0, 200.0), Point(12, 20.0, 100.0))


def test_old_figures_fade_and_the_newest_are_kept() -> None:
    many = [(NOW_S - KEPT * 2 + n, float(n + 1)) for n in range(KEPT * 2)]
    old = {3: [(NOW_S - FADES_S, 9.0)], 4: [(NOW_S - FADES_S + 1, 9.0), (NOW_S + 60, 1.0)]}

    found = merged(old, {5: many}, {5: many[:1]}, now_s=NOW_S)

    assert found == {4: [(NOW_S - FADES_S + 1, 9.0)], 5: many[-KEPT:]}


def test_the_median_counts_of_what_is_seen_often_enough() -> None:
    use = {1: [(NOW_S, speed) for speed in (1.0, 30.0, 31.0, 32.0, 90.0, 31.0)], 2: [(NOW_S, 5.0)]}

    assert speeds_of(use) == {1: 31.0, 2: 5.0}
    assert speeds_of(use, LEAST) == {1: 31.0}


@pytest.mark.parametrize(
    ("used", "floor"),
    [
        ({}, None),
        ({0: 25.0}, None),  # slower in use, as it would be everywhere
        ({0: 25.0, 6: 20.0, 12: 10.0}, None),
        # The device's own memory is short, and it computes from main memory: less is more.
        ({0: 20.0, 6: 40.0}, 6),
        ({0: 39.0, 6: 40.0}, None),  # within what answers differ by
        ({3: 10.0, 6: 40.0, 0: 50.0}, None),
        ({2: 60.0, 6: 40.0}, 2),  # better than both of its neighbours
    ],
)
def test_use_changes_the_shape_of_a_curve_and_not_its_height(
    used: Mapping[int, float], floor: int | None
) -> None:
    assert floor_of(kept_true(BENCH, used), NOISE) == floor


def test_what_was_only_used_is_a_curve_too() -> None:
    assert floor_of(kept_true((), {4: 10.0, 8: 20.0}), NOISE) == 8
    assert floor_of(kept_true((), {4: 20.0, 8: 10.0}), NOISE) is None
    assert kept_true((), {}) == []


def test_where_nothing_compares_the_two_the_measured_counts() -> None:
    assert kept_true(BENCH, {3: 1000.0}) == list(BENCH)
