"""Bars of several parts for a terminal, told apart without colours too. Pure, but for what a stream
can show."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TextIO

WIDTH: Final = 56
PLAIN: Final = "\033[0m"


@dataclass(frozen=True, slots=True)
class Kind:
    """What a part of a bar stands for: a sign of one column, and its colour at a terminal."""

    name: str
    sign: str
    colour: str = ""


def in_colour(stream: TextIO, env: Mapping[str, str] = os.environ) -> bool:
    """Whether a stream is a terminal with colours, and nobody asked for none (no-color.org)."""
    return stream.isatty() and not env.get("NO_COLOR") and env.get("TERM") != "dumb"


def painted(text: str, colour: str, *, colours: bool) -> str:
    return f"{colour}{text}{PLAIN}" if colours and colour else text


def bar(parts: Sequence[tuple[Kind, int]], *, width: int = WIDTH, colours: bool = False) -> str:
    """A bar of `width` columns, each part as wide as its share; what is there at all has a column,
    where there are enough."""
    sizes = [max(size, 0) for _, size in parts]
    widths = _widths(sizes, width)
    return "".join(
        painted(kind.sign * columns, kind.colour, colours=colours)
        for (kind, _), columns in zip(parts, widths, strict=True)
    )


def legend(kinds: Sequence[Kind], *, colours: bool = False) -> str:
    return "  ".join(
        f"{painted(kind.sign, kind.colour, colours=colours)} {kind.name}" for kind in kinds
    )


def _widths(sizes: Sequence[int], width: int) -> list[int]:
    """Columns that are `width` together, by largest remainder."""
    whole = sum(sizes)
    if not whole:
        return [0] * len(sizes)
    columns = [max(size * width // whole, int(size > 0)) for size in sizes]
    while (over := sum(columns) - width) != 0:
        # Too many, as small ones were given a column: from the one that has most of its share.
        ahead = [have - size * width / whole for have, size in zip(columns, sizes, strict=True)]
        if over > 0:
            widest = max(range(len(sizes)), key=lambda at: (columns[at] > 1, ahead[at]))
            columns[widest] -= 1
        else:
            columns[min(range(len(sizes)), key=lambda at: (not sizes[at], ahead[at]))] += 1
    return columns
