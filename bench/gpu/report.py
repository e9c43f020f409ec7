"""The results as Markdown, for the documentation. Pure."""

from collections.abc import Mapping
from typing import Any

MIB, GIB = 1 << 20, 1 << 30


def report(cells: Mapping[str, Any], *, machine: str, model: str, date: str) -> str:
    """Every table that there are results for."""
    parts = [f"Measured on {date}: {machine}; {model}."]
    moved = {int(key.split("/")[1]): cell for key, cell in cells.items() if key[:6] == "moves/"}
    if moved:
        parts.append("### Live moves\n\n" + _moves(moved))
    compared: dict[int, dict[str, Any]] = {}
    for key, cell in cells.items():
        if key.startswith("speed/"):
            _, cap, way = key.split("/", 2)
            compared.setdefault(int(cap), {})[way] = cell
    if compared:
        parts.append("### Speed at the same free memory\n\n" + _speed(compared))
    return "\n\n".join(parts) + "\n"


def size(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / MIB:.0f} MiB"


def _moves(cells: Mapping[int, Any]) -> str:
    rows = [
        [
            size(cap),
            ", ".join(map(str, cell["splits"])),
            _texts(cell["texts"]),
            size(cell["experts_moved_bytes"]),
            size(max(cell["used_with_experts_bytes"] - cell["used_after_bytes"], 0)),
            f"{cell['longest_gate_s'] * 1000:.1f} ms",
            f"{(cell['usual_gap_s'] or 0) * 1000:.0f} ms",
            f"{(cell['longest_gap_s'] or 0) * 1000:.0f} ms",
        ]
        for cap, cell in sorted(cells.items())
    ]
    head = ["free", "N", "same text as llama-server", "experts moved", "returned to the driver"]
    return _table([*head, "steps held", "usual gap", "longest gap while moving"], rows)


def _texts(cells: Mapping[Any, Mapping[str, Any]]) -> str:
    parted = [
        f"N = {split}: another token after {cell['parted_at']}, where llama-server's two likeliest"
        f" are {cell['margin_there']} apart"
        for split, cell in cells.items()
        if not cell["same"]
    ]
    return "; ".join(parted) or "yes"


def _speed(caps: Mapping[int, Mapping[str, Any]]) -> str:
    rows = []
    for cap, ways in sorted(caps.items()):
        for way, cell in ways.items():
            cells = [size(cap), way, cell["placement"], size(cell.get("used_bytes", 0))]
            for depth, speeds in cell["speeds"].items():
                rows.append([*cells, depth, speeds["prompt"], speeds["generation"], ""])
                fit = ways.get("llama-server --fit on", {}).get("speeds", {}).get(depth)
                if fit and way == "moe-proxy":
                    ratios = (speeds[kind] / fit[kind] for kind in ("prompt", "generation"))
                    rows[-1][-1] = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    head = ["free", "placed by", "placement", "used", "depth", "prompt tok/s", "generation tok/s"]
    return _table([*head, "against --fit (prompt, generation)"], rows)


def _table(head: list[str], rows: list[list[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
