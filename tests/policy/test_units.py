import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.units import (
    FOREVER,
    MAX_BYTES,
    format_size,
    parse_duration,
    parse_keep_alive,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512MiB", 512 * 2**20),
        ("12GiB", 12 * 2**30),
        ("12 gib", 12 * 2**30),
        ("1.5GB", 1_500_000_000),
        ("1.5KiB", 1536),
        ("0.1B", 0),
        ("2TiB", 2 * 2**40),
        ("100", 100),
        (" 7B ", 7),
        (0, 0),
        (4096, 4096),
    ],
)
def test_sizes(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "value",
    ["", "MiB", "12G", "1.5", "-1MiB", "1e3B", "1,5GB", "12GiBB", "٣MiB", "9" * 30, "99999999TiB",
     -1, 2**63, 1.5, True, None, []],
)  # fmt: skip
def test_what_is_no_size(value: object) -> None:
    with pytest.raises(ValueError, match="512MiB"):
        parse_size(value)


@given(st.integers(0, MAX_BYTES))
def test_a_size_survives_formatting(size: int) -> None:
    assert parse_size(format_size(size)) == size


def test_sizes_are_shown_in_the_largest_exact_unit() -> None:
    sizes = [0, 1, 1023, 1024, 512 * 2**20, 1_500_000_000]

    shown = [format_size(size) for size in sizes]

    assert shown == ["0B", "1B", "1023B", "1KiB", "512MiB", "1500MB"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10s", 10.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        (".5s", 0.5),
        ("250ms", 0.25),
        ("3us", 3e-6),
        ("3µs", 3e-6),
        ("3\u03bcs", 3e-6),
        ("1m1s1ms", 61.001),
        ("+2s", 2.0),
        ("300", 300.0),
        ("0", 0.0),
        (0, 0.0),
        (2.5, 2.5),
    ],
)
def test_durations(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds
    assert parse_keep_alive(text) == seconds


@pytest.mark.parametrize(
    "value",
    ["", "s", "1x", "1h 30m", "h1", "--1s", "+-1s", "1d", "9" * 19 + "h", math.nan, math.inf,
     10**20, True, None, []],
)  # fmt: skip
def test_what_is_no_duration(value: object) -> None:
    with pytest.raises(ValueError, match="1h30m"):
        parse_duration(value)
    with pytest.raises(ValueError, match="never"):
        parse_keep_alive(value)


@pytest.mark.parametrize("value", ["-1", "-5m", -1, -0.5])
def test_a_negative_keep_alive_is_for_ever(value: object) -> None:
    assert parse_keep_alive(value) == FOREVER
    with pytest.raises(ValueError, match="a duration"):
        parse_duration(value)
