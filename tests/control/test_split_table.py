"""What other splits would give: measured, else estimated where that can be."""

import pytest

from proxy.control.speed_estimates import Basis, SpeedEstimate
from proxy.control.split_table import fitted, line_through, measured, rows
from proxy.engine.types import Layer, Status

MIB = 1 << 20
STATUS = Status(4, tuple(Layer(index, "CPU", MIB, "D") for index in (1, 2, 3)))
NOTHING = SpeedEstimate(None, "")


def test_a_row_for_each_number_with_what_devices_would_hold() -> None:
    found = rows(STATUS, {}, {}, NOTHING)

    assert [row["moe_cpu_layers"] for row in found] == [0, 1, 2, 3, 4]
    assert [row["device_experts_bytes"] for row in found] == [3 * MIB, 3 * MIB, 2 * MIB, MIB, 0]
    assert {row["source"] for row in found} == {None}


def test_use_counts_before_bench_and_bench_before_an_estimate() -> None:
    bench, traffic = {0: (50.0, 900.0), 4: (10.0, 100.0)}, {4: 12.5}
    line = line_through(STATUS, measured(bench, traffic))
    assert line is not None
    found = rows(STATUS, bench, traffic, line)

    assert [(row["source"], row["tokens_per_second"]) for row in found] == [
        ("bench", 50.0),
        ("estimate", 28.57),
        ("estimate", 20.0),
        ("estimate", 15.38),
        ("traffic", 12.5),
    ]
    assert [row["prompt_tokens_per_second"] for row in found] == [900.0, None, None, None, 100.0]


def test_one_speed_makes_no_line() -> None:
    assert fitted({3: 10.0}) is None
    assert line_through(STATUS, {3: 10.0}) is None
    assert {row["source"] for row in rows(STATUS, {}, {3: 10.0}, NOTHING)} == {None, "traffic"}


@pytest.mark.parametrize(("basis", "source"), [("one", "estimate"), ("header", "bound")])
def test_what_only_a_limit_is_known_of_is_marked_so(basis: Basis, source: str) -> None:
    found = rows(STATUS, {}, {3: 10.0}, SpeedEstimate(basis, "", {2: 12.0, 3: 11.0}))

    assert [(row["tokens_per_second"], row["source"]) for row in found[2:4]] == [
        (12.0, source),
        (10.0, "traffic"),
    ]


def test_what_cannot_be_is_not_estimated() -> None:
    """The line may lead to no time at all."""
    line = line_through(STATUS, {3: 100.0, 4: 10.0})
    assert line is not None
    found = rows(STATUS, {}, {3: 100.0, 4: 10.0}, line)

    assert [row["tokens_per_second"] for row in found] == [None, None, None, 100.0, 10.0]


def test_a_model_without_experts_has_no_splits() -> None:
    assert rows(Status(4), {}, {0: 3.0}, NOTHING) == []


def test_the_line_is_that_of_times_not_of_speeds() -> None:
    assert fitted({0: 40.0, 6: 20.0, 12: 1 / 0.075}) == pytest.approx((0.025, 0.025 / 6))
