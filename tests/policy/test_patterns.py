"""Aliases that stand for many names."""

import itertools
import re
import time

import pytest

from proxy.policy.patterns import best, overlap

WORDS = ["".join(word) for size in range(5) for word in itertools.product("ab", repeat=size)]
PATTERNS = ["".join(word) for size in range(1, 5) for word in itertools.product("a*b", repeat=size)]


def fits(pattern: str, word: str) -> bool:
    return re.fullmatch(pattern.replace("*", ".*"), word) is not None


@pytest.mark.parametrize("one", [pattern for pattern in PATTERNS if "*" in pattern][::5])
def test_two_overlap_where_a_name_fits_both(one: str) -> None:
    """Against every short name there is; longer ones are needed by no two of these."""
    long = [a + b for a in WORDS for b in WORDS if len(a) == 4]
    for other in PATTERNS:
        both = any(fits(one, word) and fits(other, word) for word in (*WORDS, *long))
        assert overlap(one, other) == overlap(other, one) == both, (one, other)


def test_the_longest_by_what_it_says_wins() -> None:
    patterns = ["*", "claude-*", "claude-*-4*", "*********", "claude-sonnet*"]

    assert best(patterns, "claude-opus-4-1") == "claude-*-4*"
    assert best(patterns, "claude-sonnet-4-5") == "claude-sonnet*"
    assert best(patterns, "claude-x") == "claude-*"
    assert best(patterns, "mistral") in ("*", "*********")
    assert best(["a*"], "b") is None


@pytest.mark.parametrize("pattern", PATTERNS[::3])
def test_a_star_is_whatever_comes_there(pattern: str) -> None:
    assert [w for w in WORDS if best([pattern], w)] == [w for w in WORDS if fits(pattern, w)]


def test_what_stands_for_itself_in_a_pattern_of_another_kind_does_so_here() -> None:
    assert best(["a.c*", "[x]*"], "abc") is None
    assert best(["a.c*", "[x]*"], "[x]y") == "[x]*"


def test_names_of_any_length_are_looked_at_in_no_time() -> None:
    started = time.process_time()
    best(["*a*b*c*d*e*"], "abcd" * 2_000)
    overlap("*a" * 200, "*b" * 200)

    assert time.process_time() - started < 20
