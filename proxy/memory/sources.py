"""Which source is asked for the memory of which of llama.cpp's devices. Pure.

The policy's word comes first. Without one: the card with the same PCI bus id, in NVML before sysfs
because it tells processes apart. What has no bus id (RPC, Metal) or no card that tells its memory
is as ggml, inside the worker, reports it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from proxy.engine.types import Device
from proxy.memory.readings import Card, pci_bus_id

Kind = Literal["nvml", "sysfs", "ggml"]


@dataclass(frozen=True, slots=True)
class Cards:
    """The cards that the drivers list."""

    nvml: tuple[Card, ...] = ()
    sysfs: tuple[Card, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """Where one device's memory is read. `card` is what `Nvml.read` or `Sysfs.read` take; None with
    ggml, and where it is not known which card is meant, as `problem` says then."""

    kind: Kind
    card: str | None = None
    pci_bus_id: str | None = None
    integrated: bool | None = None
    problem: str | None = None

    def __str__(self) -> str:
        return f"{self.kind}:{self.card}" if self.card else self.kind


def choose(device: Device, setting: str | None, cards: Cards) -> Source:
    """The source for `device`. `setting` is the policy's `devices.NAME.memory`, None for the
    default."""
    bus_id = pci_bus_id(device.device_id)
    integrated = True if device.kind == "igpu" else None
    kind, _, wanted = (setting or "").partition(":")
    match kind:
        case "nvml":
            return _named(kind, wanted, bus_id, integrated, cards.nvml)
        case "sysfs":
            return _named(kind, wanted, bus_id, integrated, cards.sysfs)
        case "ggml":
            return Source("ggml", None, bus_id, integrated)
    if bus_id is not None:
        by_driver: tuple[tuple[Kind, tuple[Card, ...]], ...]
        by_driver = (("nvml", cards.nvml), ("sysfs", cards.sysfs))
        for driver, listed in by_driver:
            for card in listed:
                if card.pci_bus_id == bus_id and card.readable:
                    return _of(driver, card, integrated)
    return Source("ggml", None, bus_id, integrated)


def default_cards(cards: Cards) -> list[tuple[Device, Source]]:
    """The cards that llama.cpp will use, as far as that can be known before it has said so: all
    whose memory can be read, integrated ones only where there is no other."""
    readable: list[tuple[Kind, Card]] = [("nvml", card) for card in cards.nvml if card.readable]
    readable += [("sysfs", card) for card in cards.sysfs if card.readable]
    discrete = [(driver, card) for driver, card in readable if not card.integrated]
    return [
        (Device(card.id, card.name, "gpu", None, None, card.pci_bus_id), _of(driver, card, None))
        for driver, card in discrete or readable
    ]


def _named(
    kind: Kind, wanted: str, bus_id: str | None, integrated: bool | None, cards: Sequence[Card]
) -> Source:
    """The card that a policy means. It never falls back to another source: the policy may have
    named one because the other is wrong."""
    wanted_bus_id = pci_bus_id(wanted) if wanted else bus_id
    for card in cards:
        if card.id.lower() == wanted.lower() or card.pci_bus_id == wanted_bus_id is not None:
            return _of(kind, card, integrated)
    if wanted.upper().startswith("MIG-"):  # not a card, so it is not in the list
        return Source(kind, wanted, bus_id, integrated)
    if not wanted and bus_id is None and len(cards) == 1:
        return _of(kind, cards[0], integrated)
    listed = ", ".join(card.id for card in cards) or "none"
    what = f"no card {wanted}" if wanted else "it is not known which card this device is"
    return Source(kind, None, bus_id, integrated, f"{kind}: {what}; there are: {listed}")


def _of(kind: Kind, card: Card, integrated: bool | None) -> Source:
    if integrated is None:
        integrated = card.integrated
    return Source(kind, card.id, card.pci_bus_id, integrated)
