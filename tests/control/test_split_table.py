"""What other splits would give: measured, else estimated where that can be."""

import pytest

from proxy.control.split_table import fitted, rows
from proxy.engine.types import Layer, Status

MIB = 1 << 20
STATUS = Status(4, tuple(Layer(index, "CPU", MIB, "D") for index in (1, 2, 3)))


def test_a_row_for_each_number_with_what_devices_would_hold() -> None:
    found = rows(STATUS, {}, {})

    assert [row["moe_cpu_layers"] for row in found] == [0, 1, 2, 3, 4]
    assert [row["device_experts_bytes"] for row in found] == [3 * MIB, 3 * MIB, 2 * MIB, MIB, 0]
    assert {row["source"] for row in found} == {None}


def test_use_counts_before_bench_and_bench_before_an_estimate() -> None:
    found = rows(STATUS, {0: (50.0, 900.0), 4: (10.0, 100.0)}, {4: 12.5})

    assert [(row["source"], row["tokens_per_second"]) for row in found] == [
        ("bench", 50.0),
        ("estimate", 28.57),
        ("estimate", 20.0),
        ("estimate", 15.38),
        ("traffic", 12.5),
    ]
    assert [row["prompt_tokens_per_second"] for row in found] == [900.0, None, None, None, 100.0]


def test_one_speed_tells_nothing_of_others() -> None:
    assert fitted({3: 10.0}) is None
    assert {row["source"] for row in rows(STATUS, {}, {3: 10.0})} == {None, "traffic"}


def test_what_cannot_be_is_not_estimated() -> None:
    """The line may lead to no time at all."""
    found = rows(STATUS, {}, {3: 100.0, 4: 10.0})

    assert [row["tokens_per_second"] for row in found] == [None, None, None, 100.0, 10.0]


def test_a_model_without_experts_has_no_splits() -> None:
    assert rows(Status(4), {}, {0: 3.0}) == []


def test_the_line_is_that_of_times_not_of_speeds() -> None:
    assert fitted({0: 40.0, 6: 20.0, 12: 1 / 0.075}) == pytest.approx((0.025, 0.025 / 6))
