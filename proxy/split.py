"""What this project is about: `moe_cpu_layers`, as users write it and as we keep it.

A number N means what llama.cpp's `--n-cpu-moe N` means: the experts of the first N layers are on
the CPU. Ranges, "0-11,20", name the layers one by one.
"""

import re
from dataclasses import dataclass
from typing import Final, Literal

from proxy.errors import BadRequest

AUTO: Final = "auto"
ALL: Final = -1


@dataclass(frozen=True, slots=True)
class Layers:
    """Just these layers have their experts on the CPU. `ranges` are (first, last), in order, with
    at least one layer between two of them; layers that a model does not have mean nothing.

    As text it is what `parse_split` takes: a single layer is "7-7", since "7" is a number of them.
    """

    ranges: tuple[tuple[int, int], ...]

    def __str__(self) -> str:
        if len(self.ranges) == 1:
            return "{}-{}".format(*self.ranges[0])
        return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in self.ranges)

    def within(self, layers: int) -> frozenset[int]:
        """Those that a model of `layers` layers has."""
        return frozenset(i for a, b in self.ranges for i in range(a, min(b + 1, layers)))


Split = int | Literal["auto"] | Layers

# What users asked for as words: "none" offloads no experts, "full" offloads all of them,
# "partial" as many as do not fit, which is what "auto" does.
WORDS: Final[dict[str, Split]] = {"auto": AUTO, "partial": AUTO, "none": 0, "full": ALL}
ALLOWED: Final = (
    'an integer from 0 up, -1 (all), "auto", "partial", "none", "full", or the layers themselves '
    'as ranges ("0-11,20")'
)
# Other names that people have already tried elsewhere for the same option.
OPTION_NAMES: Final = ("moe_cpu_layers", "num_cpu_moe", "n_cpu_moe", "num_moe_offload")

# Ranges of more layers than any model has are fine, but not of more digits than int() takes.
_RANGE: Final = re.compile(r"\s*(\d{1,9})(?:\s*-\s*(\d{1,9}))?\s*", re.ASCII)
_LONGEST: Final = 2000


def parse_split(value: object, *, name: str = "moe_cpu_layers") -> Split:
    """A split from a JSON or TOML value, or from a command-line word.

    Integers may come as strings of digits (query strings, environment). Ranges that are the first
    N layers give that N, so that what takes only a number takes them too.
    Raises BadRequest that names `name`, the value given and what is allowed.
    """
    parsed: object = value
    if isinstance(value, str):
        word = value.strip().lower()
        if word in WORDS:
            return WORDS[word]
        # No model has a number of layers of more digits, and int() refuses thousands of them.
        if len(word) < 10 and word.removeprefix("-").isdecimal():
            parsed = int(word)
        elif word[:1].isdecimal() and ("," in word or "-" in word):
            return _ranges(word, name)
    if isinstance(parsed, int) and not isinstance(parsed, bool) and parsed >= ALL:
        return parsed
    raise BadRequest(f"{name}: {value!r} is not allowed; use {ALLOWED}", param=name)


def _ranges(text: str, name: str) -> Split:
    def refuse(what: str) -> BadRequest:
        shown = text if len(text) <= 80 else text[:80] + "..."
        return BadRequest(
            f"{name}: {shown!r} is not allowed: {what}; ranges are layers or FIRST-LAST, counted "
            'from 0, with commas between them: "0-11,20"',
            param=name,
        )

    if len(text) > _LONGEST:
        raise refuse(f"it is longer than {_LONGEST} characters")
    found = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part)
        if match is None:
            raise refuse(f"{part[:20]!r} is no range" if part.strip() else "there is an empty part")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise refuse(f"{part[:20]!r} ends before it begins")
        found.append((first, last))
    merged: list[tuple[int, int]] = []
    for first, last in sorted(found):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((first, last))
    if len(merged) == 1 and merged[0][0] == 0:
        return merged[0][1] + 1
    return Layers(tuple(merged))


def plain(split: Split) -> int | str:
    """As JSON has it; `parse_split` gives the same split again."""
    return str(split) if isinstance(split, Layers) else split


def cpu_layers(split: Split, layers: int) -> frozenset[int]:
    """The layers, of a model of `layers` layers, whose experts are meant to be on the CPU. None of
    them under "auto", which means as few as memory allows."""
    if isinstance(split, Layers):
        return split.within(layers)
    return frozenset() if split == AUTO else frozenset(range(n_cpu_moe(split, layers)))


def count_on_cpu(split: Split, layers: int) -> int | None:
    """How many layers these are; None under "auto"."""
    return None if split == AUTO else len(cpu_layers(split, layers))


def n_cpu_moe(split: int | Layers, layers: int) -> int:
    """The number to load a model of `layers` layers with: how many of the first ones have their
    experts on the CPU, 0 to `layers`.

    Raises BadRequest for ranges: llama.cpp can move these layers, but not be started with them.
    """
    if isinstance(split, Layers):
        raise BadRequest(
            f"moe_cpu_layers: ranges ({split}) need experts that can move while the model runs; "
            "here the split is given when the model is loaded, and llama.cpp's --n-cpu-moe takes "
            "only a number",
            param="moe_cpu_layers",
        )
    return layers if split == ALL else min(split, layers)
