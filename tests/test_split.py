"""The split as users write it: numbers, words and ranges."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import BadRequest
from proxy.split import ALL, AUTO, Layers, Split, cpu_layers, n_cpu_moe, parse_split, plain


@pytest.mark.parametrize(
    ("value", "split"),
    [
        (3, 3),
        ("3", 3),
        ("partial", AUTO),
        ("full", ALL),
        (-1, ALL),
        ("0-11,20", Layers(((0, 11), (20, 20)))),
        (" 20 , 0 - 11 ", Layers(((0, 11), (20, 20)))),
        ("5,3,4,9-8000,8", Layers(((3, 5), (8, 8000)))),
        ("7-7", Layers(((7, 7),))),
        ("0-2", 3),  # the first three layers
        ("0,1,2", 3),
        ("0-999999999", 1_000_000_000),
    ],
)
def test_what_is_allowed(value: object, split: Split) -> None:
    assert parse_split(value) == split


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("7-3", "'7-3' ends before it begins"),
        ("1,", "an empty part"),
        ("1,,2", "an empty part"),
        ("1-2-3", "'1-2-3' is no range"),
        ("1,x", "'x' is no range"),
        ("1-1234567890", "is no range"),
        ("1," * 2000, "longer than 2000 characters"),
        ("-3-5", 'or the layers themselves as ranges ("0-11,20")'),
        ([1, 2], 'ranges ("0-11,20")'),
    ],
)
def test_what_is_refused_and_why(value: object, words: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_split(value, name="options.n_cpu_moe")

    assert words in caught.value.message
    assert caught.value.message.startswith("options.n_cpu_moe: ")


@given(st.sets(st.integers(0, 40), min_size=1), st.integers(0, 50))
def test_ranges_are_the_layers_they_name(wanted: set[int], layers: int) -> None:
    split = parse_split(",".join(map(str, wanted)) + f",{min(wanted)}-{min(wanted)}")

    assert cpu_layers(split, layers) == {index for index in wanted if index < layers}
    assert parse_split(plain(split)) == split


@pytest.mark.parametrize(
    ("split", "on_cpu"),
    [(AUTO, ""), (0, ""), (2, "01"), (ALL, "0123"), (9, "0123"), (Layers(((1, 1), (3, 9))), "13")],
)
def test_layers_that_are_meant_to_be_on_the_cpu(split: Split, on_cpu: str) -> None:
    assert cpu_layers(split, 4) == {int(index) for index in on_cpu}


def test_ranges_cannot_be_loaded() -> None:
    with pytest.raises(BadRequest, match=r"\(1-2\) need experts that can move .* only a number"):
        n_cpu_moe(Layers(((1, 2),)), 4)
