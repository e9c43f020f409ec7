"""The part of docs/performance.md that `bench.all` writes. That runs the benches; here are only
texts."""

import os
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH = 120
MARKER = "<!-- From here on written by make bench ARGS=--write -->"


@dataclass(frozen=True, slots=True)
class Ran:
    """One bench that was run: what it is about, its command, and what it printed; why it failed, if
    it did."""

    title: str
    command: str
    output: str
    seconds: float
    failed: str | None = None


def rewritten(page: str, ran: Sequence[Ran], where: Mapping[str, Any]) -> str:
    """The page with its part behind the marker written anew. Raises ValueError without a marker."""
    before, marker, _ = page.partition(MARKER)
    if not marker:
        raise ValueError(f"there is no line {MARKER}")
    return f"{before}{marker}\n{part(ran, where)}"


def part(ran: Sequence[Ran], where: Mapping[str, Any]) -> str:
    seconds = sum(each.seconds for each in ran)
    pieces = ["## Short forms of all benches", _where(where, seconds), *map(_section, ran)]
    return "\n\n".join(pieces) + "\n"


def _where(where: Mapping[str, Any], seconds: float) -> str:
    cores = os.cpu_count() or 1
    load = float(where["load"])
    busy = (
        f"**Others used the machine meanwhile** (load average {load:.1f} on {cores} cores when it "
        "began), so that times are long and little is told apart."
        if load > cores / 2
        else f"The load average was {load:.1f} when it began."
    )
    text = (
        f"{where['date']}, {where['machine']}, commit {where['commit']}, {seconds:.0f} s. {busy} "
        "Figures are medians, in brackets the middle half. Sides that are compared took turns; "
        "ratios and differences are of pairs, and there are none where their spread is larger than "
        "the difference, or where luck alone would put so many pairs on one side once in ten times "
        "(so of fewer than five pairs there is none)."
    )
    return f"{textwrap.fill(text, WIDTH)}\n\n`{where['command']}`"


def _section(ran: Ran) -> str:
    pieces = [f"### {ran.title}", f"`{ran.command}`, {ran.seconds:.0f} s"]
    if ran.failed:
        pieces[-1] += f": **failed**, {ran.failed}"
    return "\n\n".join([*pieces, *tables(ran.output)])


def tables(output: str) -> list[str]:
    """The tables in what a bench has printed, each after the paragraph that stands above it, but
    for the one that says where and when, which is told once for all."""
    found: list[str] = []
    above = ""
    for block in re.split(r"\n\s*\n", output):
        lines = [line for line in block.splitlines() if line and not line.startswith("date: ")]
        rows = [line for line in lines if line.startswith("|")]
        text = " ".join(line.strip() for line in lines if not line.startswith("|"))
        if not rows:
            above = text
            continue
        caption = above if lines[0] == rows[0] else text
        found += [*([textwrap.fill(caption, WIDTH)] if caption else []), "\n".join(rows)]
        above = ""
    return found
