"""From a split to a placement: which device, or the CPU, each layer's experts are to be on.
Pure."""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace

from proxy.engine.types import CPU, Status
from proxy.split import ALL, AUTO, Split, cpu_layers

Placement = dict[int, str]
# Memory domain -> bytes that experts may still take there; None: not known.
Available = Mapping[str, int | None]


def placement(status: Status, split: Split) -> Placement:
    """Experts of the split's layers on the CPU, of the others on the device that has their
    attention.

    A layer whose attention is on the CPU (dense layers that were left there) keeps its experts with
    it.
    """
    away = cpu_layers(split, status.block_count)
    return {
        layer.index: CPU if layer.index in away else layer.attention_device
        for layer in status.layers
    }


def placed(status: Status) -> Placement:
    """Where the experts are now."""
    return {layer.index: layer.experts for layer in status.layers}


def display_n(status: Status, asked: Split) -> int:
    """`moe_cpu_layers` as it is. Several numbers may mean the same, where the first layers have no
    experts; then the one that was asked for, if it is among them."""
    number = status.moe_cpu_layers
    if not isinstance(asked, int) or asked in (ALL, number) or not status.layers:
        return number
    if any(index >= asked for index in status.cached):
        return number
    same = all((layer.experts == CPU) == (layer.index < asked) for layer in status.layers)
    return min(asked, status.block_count) if same else number


def projected(status: Status, goal: Placement) -> Status:
    """The status once its experts are where they are to be."""
    layers = (replace(x, experts=goal.get(x.index, x.experts)) for x in status.layers)
    return replace(status, layers=tuple(layers))


def assign(
    status: Status,
    split: Split,
    available: Available,
    expert_only: Sequence[str] = (),
    *,
    domain_of: Callable[[str], str] = str,
    no_experts: Set[str] = frozenset(),
    floor: int = 0,
) -> Placement:
    """The placement for a split, as far as there is room: from the last layer backwards until one
    does not fit.

    Experts that are on their device already have their room. On a device whose memory is not known
    what was asked for is tried (an allocation that fails is undone), and "auto" puts nothing:
    unknown is not plenty. What does not fit where its attention is goes to a device of
    `expert_only`, which has experts only. `domain_of` tells the memory domain that a device is in,
    and shares with the others there. `no_experts` are devices that are to have none: those on them
    leave. `floor`: what "auto" leaves on the CPU though there were room, where this was measured to
    be faster.
    """
    goal = placement(status, floor if split == AUTO else split)
    left, full = dict(available), set()
    for layer in reversed(status.layers):
        if (attention_device := goal[layer.index]) == CPU:
            continue
        devices = [
            device for device in (attention_device, *expert_only) if device not in no_experts
        ]
        goal[layer.index] = layer.experts if layer.experts in devices else CPU
        for device in devices if layer.experts not in devices else ():
            left_bytes = left.get(domain := domain_of(device))
            fits = split != AUTO if left_bytes is None else layer.experts_bytes <= left_bytes
            if domain not in full and fits:
                goal[layer.index] = device
                if left_bytes is not None:
                    left[domain] = left_bytes - layer.experts_bytes
                break
            full.add(domain)
    return goal
