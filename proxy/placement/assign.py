"""From a split to a placement: which device, or the CPU, each layer's experts are to be on.
Pure."""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace

from proxy.engine.types import CPU, Status
from proxy.split import ALL, AUTO, Split, cpu_layers

Placement = dict[int, str]
# Card -> bytes that experts may still take there; None: not known.
Spare = Mapping[str, int | None]


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
    same = all((layer.experts == CPU) == (layer.index < asked) for layer in status.layers)
    return min(asked, status.block_count) if same else number


def projected(status: Status, goal: Placement) -> Status:
    """The status once its experts are where they are to be."""
    layers = (replace(x, experts=goal.get(x.index, x.experts)) for x in status.layers)
    return replace(status, layers=tuple(layers))


def assign(
    status: Status,
    split: Split,
    spare: Spare,
    extra: Sequence[str] = (),
    *,
    card_of: Callable[[str], str] = str,
    closed: Set[str] = frozenset(),
    floor: int = 0,
) -> Placement:
    """The placement for a split, as far as there is room: from the last layer backwards until one
    does not fit.

    Experts that are on their device already have their room. On a device whose memory is not known
    what was asked for is tried (an allocation that fails is undone), and "auto" puts nothing:
    unknown is not plenty. What does not fit where its attention is goes to a device of `extra`,
    which has experts only. `card_of` tells the card that a device is on, and shares with the others
    there. `closed` are devices that are to have none: those on them leave. `floor`: what "auto"
    leaves on the CPU though there were room, where this was measured to be faster.
    """
    wish = placement(status, floor if split == AUTO else split)
    left, full = dict(spare), set()
    for layer in reversed(status.layers):
        if (attention_device := wish[layer.index]) == CPU:
            continue
        devices = [device for device in (attention_device, *extra) if device not in closed]
        wish[layer.index] = layer.experts if layer.experts in devices else CPU
        for device in devices if layer.experts not in devices else ():
            room = left.get(card := card_of(device))
            fits = split != AUTO if room is None else layer.experts_bytes <= room
            if card not in full and fits:
                wish[layer.index] = device
                if room is not None:
                    left[card] = room - layer.experts_bytes
                break
            full.add(card)
    return wish
