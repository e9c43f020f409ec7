"""Bars of several parts, and where there are colours."""

import io

import pytest

from proxy.cli.bars import Kind, bar, in_colour, legend

A, B, C = Kind("a", "A", "\033[1m"), Kind("b", "B"), Kind("c", "C")


@pytest.mark.parametrize(
    ("sizes", "drawn"),
    [
        ((5, 3, 2), "AAAAABBBCC"),
        ((1, 1, 1), "AAAABBBCCC"),
        ((1_000_000, 1, 1), "AAAAAAAABC"),  # what is there is seen
        ((0, 7, 0), "BBBBBBBBBB"),
        ((0, 0, 0), ""),
        ((-4, 1, 1), "BBBBBCCCCC"),
    ],
)
def test_each_part_is_as_wide_as_its_share(sizes: tuple[int, ...], drawn: str) -> None:
    assert sorted(bar([*zip((A, B, C), sizes, strict=True)], width=10)) == sorted(drawn)


def test_no_width_is_too_small() -> None:
    assert len(bar([(A, 9), (B, 9), (C, 9)], width=2)) == 2
    assert bar([(A, 9)], width=0) == ""


def test_colours_are_put_around_their_part_only() -> None:
    assert bar([(A, 1), (B, 1)], width=2, colours=True) == "\033[1mA\033[0mB"
    assert legend([A, B]) == "A a  B b"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_are_for_terminals_whose_owner_wants_them() -> None:
    assert in_colour(Terminal(), {"TERM": "xterm"})
    assert in_colour(Terminal(), {"TERM": "xterm", "NO_COLOR": ""})
    assert not in_colour(Terminal(), {"TERM": "xterm", "NO_COLOR": "1"})
    assert not in_colour(Terminal(), {"TERM": "dumb"})
    assert not in_colour(io.StringIO(), {"TERM": "xterm"})
