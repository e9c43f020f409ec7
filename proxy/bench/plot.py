"""A curve as a picture.

matplotlib draws it: axes, ticks and labels are its craft, and few people need the picture, so it is
an extra of its own instead of a dependency for everyone.
"""

from pathlib import Path

from proxy.control.speed_curve import Curve, best_split

HOW_TO_GET_IT = "--plot needs matplotlib: pip install 'moe-proxy[plot]'"


class PlotError(Exception):
    """Why there is no picture, for people."""


def need_matplotlib() -> None:
    """Raises PlotError where it is missing; to be asked before minutes of measuring."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise PlotError(HOW_TO_GET_IT) from None


def plot(curve: Curve, file: Path) -> None:
    """Write the picture; the ending of `file` says in which format. Raises PlotError."""
    need_matplotlib()
    from matplotlib.figure import Figure

    layers = [point.moe_cpu_layers for point in curve.points]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    left = figure.add_subplot()
    right = left.twinx()
    generation = [point.generation for point in curve.points]
    prompt = [point.prompt for point in curve.points]
    lines = left.plot(layers, generation, "o-", color="tab:blue", label="generation")
    lines += right.plot(layers, prompt, "s--", color="tab:orange", label="prompt")
    best = best_split(curve.points)
    if best is not None:
        lines.append(left.axvline(best, color="tab:green", linestyle=":", label=f"best: {best}"))
    left.set_xlabel(f"moe_cpu_layers (of {curve.block_count})")
    left.set_ylabel("generation, tokens/s")
    right.set_ylabel("prompt, tokens/s")
    left.set_ylim(bottom=0)
    right.set_ylim(bottom=0)
    left.legend(handles=lines, loc="best")
    left.set_title(f"{curve.model} on {', '.join(curve.devices)}", fontsize="small")
    try:
        figure.savefig(file, dpi=120)
    except (OSError, ValueError) as error:
        raise PlotError(f"cannot write {file}: {error}") from error
