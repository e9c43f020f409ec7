"""Aliases that stand for many names: `claude-*`. Pure.

A name that a model has itself, or as an alias without a star, wins over every pattern; of patterns
the longest that fits wins. Two that are equally long and could both fit are a mistake.
"""

import re
from collections.abc import Iterable

STAR = "*"


def is_pattern(alias: str) -> bool:
    return STAR in alias


def best(patterns: Iterable[str], name: str) -> str | None:
    """The pattern that counts for `name`; None where none fits. Upper and lower case are the
    same."""
    fitting = [pattern for pattern in patterns if _fits(pattern, name.casefold())]
    return max(fitting, key=weight) if fitting else None


def weight(pattern: str) -> int:
    """How much of a name it says."""
    return len(pattern.replace(STAR, ""))


def overlap(one: str, other: str) -> bool:
    """Whether some name fits both."""
    return _overlap(_plain(one), _plain(other))


def _fits(pattern: str, name: str) -> bool:
    # No regular expression: a name is a stranger's, and many stars take their time over a long one.
    first, *middle = _plain(pattern).split(STAR)
    if not middle:
        return name == first
    *middle, last = middle
    at, end = len(first), len(name) - len(last)
    if at > end or not (name.startswith(first) and name.endswith(last)):
        return False
    for part in middle:
        if (at := name.find(part, at, end)) < 0:
            return False
        at += len(part)
    return True


def _plain(pattern: str) -> str:
    return re.sub(r"\*+", STAR, pattern.casefold())


def _overlap(one: str, other: str) -> bool:
    # What is left of both, for each pair of beginnings: patterns are short.
    fits = [[False] * (len(other) + 1) for _ in range(len(one) + 1)]
    fits[len(one)][len(other)] = True
    for i in range(len(one), -1, -1):
        for k in range(len(other), -1, -1):
            a, b = one[i : i + 1], other[k : k + 1]
            if a == STAR:
                fits[i][k] = fits[i + 1][k] or (bool(b) and fits[i][k + 1])
            if b == STAR:
                fits[i][k] |= fits[i][k + 1] or (bool(a) and fits[i + 1][k])
            if a and a == b and a != STAR:
                fits[i][k] = fits[i + 1][k + 1]
    return fits[0][0]
