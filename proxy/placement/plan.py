"""The plan: how many layers keep their experts on the CPU, and the batch that goes with that, for
given budgets. Pure.

What device memory is for, in this order: the KV cache, room for prompt batches, then experts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Final, Literal

from proxy.catalog.gguf import Header
from proxy.placement.budget import Budget, Layout, Packer, Usage
from proxy.placement.estimate import DEFAULT_UBATCH, Estimate, Settings, estimate
from proxy.placement.kv import CELL_PADDING
from proxy.text import gib

Tune = Literal["balanced", "prompt", "generation"]
TUNES: Final[tuple[Tune, ...]] = ("balanced", "prompt", "generation")
# A larger batch reads prompts several times as fast, since the experts' weights cross the bus once
# per batch; a layer of experts on the CPU costs generation its share only. So the largest batch is
# taken that moves at most this share of the layers with experts to the CPU.
UBATCHES: Final[dict[Tune, tuple[int, ...]]] = {
    "balanced": (2048, 1024),
    "prompt": (4096, 2048, 1024),
    "generation": (),
}
SMALL_UBATCH: Final = 128
WORTH: Final[dict[Tune, float]] = {"balanced": 0.05, "prompt": 0.25, "generation": 0.0}


@dataclass(frozen=True, slots=True)
class Plan:
    """A placement and what it needs, for these budgets. `problems` says what is wrong with it,
    `advice` what would help, both for people; a plan with `fits` False goes over a budget."""

    settings: Settings
    estimate: Estimate
    layout: Layout
    moe_cpu_layers: int
    host_bytes: int  # weights that stay on the CPU: embeddings, and experts of these layers
    host_experts_bytes: int
    budgets: tuple[Budget, ...] = ()
    problems: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        return self.layout.fits

    @property
    def devices(self) -> tuple[Usage, ...]:
        return self.layout.held


def plan(
    header: Header,
    settings: Settings,
    budgets: Sequence[Budget],
    *,
    tune: Tune = "balanced",
    ubatch: int | None = None,
    cpu_layers: int | None = None,
    host_free_bytes: int | None = None,
) -> Plan:
    """The plan for a model on these devices, in llama.cpp's order.

    `ubatch` overrides what `tune` would choose, `cpu_layers` asks for this number of layers.
    `host_free_bytes` of None: host memory is not looked at. Raises ValueError where no device may
    have attention.
    """
    base = replace(settings, ubatch=ubatch or DEFAULT_UBATCH)
    best = _smallest(header, base, budgets, cpu_layers)
    if ubatch is None and best.fits and cpu_layers is None:
        best = _larger_batch(header, best, budgets, tune)
    return _with_remarks(header, best, budgets, host_free_bytes)


def _larger_batch(header: Header, best: Plan, budgets: Sequence[Budget], tune: Tune) -> Plan:
    movable = sum(1 for layer in best.estimate.layers if layer.experts)
    allowed = best.moe_cpu_layers + ceil(WORTH[tune] * movable)
    for size in UBATCHES[tune]:
        if size >= 2 * best.settings.ctx * best.settings.parallel:
            continue  # more than all conversations together
        wider = _smallest(header, replace(best.settings, ubatch=size), budgets, None)
        if wider.fits and wider.moe_cpu_layers <= allowed:
            return wider
    return best


def _smallest(
    header: Header, settings: Settings, budgets: Sequence[Budget], cpu_layers: int | None
) -> Plan:
    """The plan with the fewest layers on the CPU that fits; with all of them where none does."""
    made = estimate(header, settings)
    arranger = Packer(made, budgets)
    last = max((layer.index + 1 for layer in made.layers if layer.experts), default=0)
    if cpu_layers is not None:
        return _plan(made, arranger.arrange(min(cpu_layers, last)), min(cpu_layers, last))
    layout = arranger.arrange(0)
    # With nothing on the CPU less scratch memory is needed, so 0 is a case of its own. From 1 on
    # each further layer on the CPU needs less of the device.
    if layout.fits or not last:
        return _plan(made, layout, 0)
    low, high = 1, last
    while low < high:
        middle = (low + high) // 2
        if arranger.arrange(middle).fits:
            high = middle
        else:
            low = middle + 1
    return _plan(made, arranger.arrange(high), high)


def _plan(made: Estimate, layout: Layout, cpu_layers: int) -> Plan:
    staying = sum(layer.experts for layer in made.layers if layer.index < cpu_layers)
    return Plan(made.settings, made, layout, cpu_layers, made.input_bytes + staying, staying)


def _with_remarks(
    header: Header, best: Plan, budgets: Sequence[Budget], host_free_bytes: int | None
) -> Plan:
    problems = list(best.estimate.notes)
    advice: list[str] = []
    if not best.fits:
        for held, budget in zip(best.devices, budgets, strict=True):
            if held.total_bytes > budget.size_bytes:
                even = " even with all experts on the CPU" if best.moe_cpu_layers else ""
                problems.append(
                    f"{held.name}: needs {gib(held.total_bytes)}{even}, "
                    f"{gib(held.total_bytes - budget.size_bytes)} more than the "
                    f"{gib(budget.size_bytes)} that may be used"
                )
        advice = list(_advice(header, best, budgets))
    if host_free_bytes is not None and best.host_bytes > host_free_bytes:
        problems.append(
            f"{gib(best.host_bytes)} of weights stay on the CPU and {gib(host_free_bytes)} of RAM "
            f"are free: the rest, {gib(best.host_bytes - host_free_bytes)}, is read from disk for "
            "every token"
        )
    return replace(best, budgets=tuple(budgets), problems=tuple(problems), advice=tuple(advice))


def _advice(header: Header, best: Plan, budgets: Sequence[Budget]) -> Iterator[str]:
    """What to reduce, each alone, with numbers."""
    asked = best.settings

    def fits(**changes: object) -> bool:
        changed = replace(asked, **changes)  # type: ignore[arg-type]
        return _smallest(header, changed, budgets, None).fits

    low, high = 0, asked.ctx // CELL_PADDING
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(ctx=middle * CELL_PADDING) else (low, middle - 1)
    if low:
        yield f"a context of {low * CELL_PADDING} fits (asked: {asked.ctx})"
    if asked.key_type == "f16" and fits(key_type="q8_0", value_type="q8_0"):
        yield "a KV cache of type q8_0 fits"
    fewest, most = 0, asked.parallel - 1
    while fewest < most:
        middle = (fewest + most + 1) // 2
        fewest, most = (middle, most) if fits(parallel=middle) else (fewest, middle - 1)
    if fewest:
        yield f"{fewest} conversations at once fit (asked: {asked.parallel})"
    if asked.ubatch > SMALL_UBATCH and fits(ubatch=SMALL_UBATCH):
        yield f"a batch (ubatch) of {SMALL_UBATCH} fits"
    fixed = sum(held.weights_bytes for held in best.devices)
    scratch = sum(held.compute_bytes for held in best.devices)
    yield (
        f"weights that are not experts take {gib(fixed)}, the KV cache "
        f"{gib(best.estimate.kv_bytes)}, scratch memory {gib(scratch)}"
    )
