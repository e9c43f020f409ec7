"""Text for terminals: aligned columns, sizes, counts."""

from collections.abc import Iterable, Sequence

MIB, GIB = 2**20, 2**30
# All that moves the cursor, renames the window or fills the clipboard begins with one of these.
_CONTROLS = dict.fromkeys(
    {*range(32), *range(127, 160)} - {ord("\n"), ord("\t")}, "\N{REPLACEMENT CHARACTER}"
)


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """Columns two spaces apart; those that hold only numbers are aligned to the right."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    columns = list(zip(*cells, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [len(column) > 1 and all(map(_is_number, column[1:])) for column in columns]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if to_the_right else cell.ljust(width)
            for cell, width, to_the_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in cells
    )


def harmless(text: str) -> str:
    """What somebody else wrote, for a terminal: letters, and no orders to it."""
    return text.replace("\r\n", "\n").translate(_CONTROLS)


def gib(size_bytes: int | None) -> str:
    """A size in GiB, a small one in MiB; "?" where it is not known."""
    if size_bytes is None:
        return "?"
    if size_bytes == 0:
        return "0 MiB"
    if 0 < size_bytes < GIB // 10:
        return f"{size_bytes / MIB:.0f} MiB" if size_bytes >= MIB else "< 1 MiB"
    size = size_bytes / GIB
    return f"{size:.1f} GiB" if size >= 10 else f"{size:.2f} GiB"


def in_words(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _is_number(cell: str) -> bool:
    number = cell.removesuffix(" GiB").removesuffix(" MiB").removeprefix("< ").removeprefix("-")
    return number.replace(".", "", 1).isdecimal()
