"""Memory of AMD and Intel cards as the kernel's graphics drivers show it below /sys/class/drm.

The counterpart of `proxy.memory.nvml`, with the same two questions. Read from the kernel's
documentation and tested on folders of files; neither kind of card was at hand.
"""

import re
from collections.abc import Callable
from pathlib import Path

from proxy.memory.host import available_host_bytes
from proxy.memory.readings import Card, Sample, Unreadable, pci_bus_id

DRM = Path("/sys/class/drm")
_CARD = re.compile(r"card\d+")
_VENDORS = {"0x1002": "AMD", "0x8086": "Intel"}


class Sysfs:
    """The cards below `root`. `host` tells how much memory is available to integrated ones."""

    def __init__(
        self, root: Path = DRM, *, host: Callable[[], int | None] = available_host_bytes
    ) -> None:
        self._root = root
        self._host = host
        # What a card is does not change, and asking wakes a card that sleeps.
        self._integrated: dict[str, bool | None] = {}

    def cards(self) -> tuple[Card, ...]:
        """All AMD and Intel cards, in the kernel's order."""
        try:
            names = sorted(path.name for path in self._root.iterdir() if _CARD.fullmatch(path.name))
        except OSError:
            return ()
        return tuple(card for name in names if (card := self._card(name)) is not None)

    def read(self, card_id: str, *, integrated: bool | None = None) -> Sample:
        """The memory of the card called `card_id` ("card0"). Raises Unreadable where it tells
        nothing.

        `integrated` is what somebody else knows of it, for cards that do not say.
        """
        folder = self._root / card_id
        device = folder / "device"
        if not device.is_dir():
            raise Unreadable(f"{folder} is not there")
        if integrated is None:
            integrated = self._is_integrated(card_id, device)
        sample = _amd(device, integrated, self._host) or _intel(folder) or _intel(device)
        if sample is None:
            raise Unreadable(f"{folder}: the driver shows no memory")
        return sample

    def _card(self, name: str) -> Card | None:
        device = self._root / name / "device"
        vendor = _VENDORS.get(_text(device / "vendor"))
        if vendor is None:
            return None
        try:
            sample = self.read(name)
        except Unreadable:
            sample = Sample(None, None, None)
        return Card(
            id=name,
            name=_text(device / "product_name") or f"{vendor} {_text(device / 'device')}".strip(),
            pci_bus_id=pci_bus_id(device.resolve().name),
            integrated=sample.integrated,
            readable=sample.total_bytes is not None,
        )

    def _is_integrated(self, card_id: str, device: Path) -> bool | None:
        if card_id not in self._integrated:
            self._integrated[card_id] = _amd_integrated(device)
        return self._integrated[card_id]


def _amd(device: Path, integrated: bool | None, host: Callable[[], int | None]) -> Sample | None:
    total, used = (_number(device / f"mem_info_vram_{what}") for what in ("total", "used"))
    if total is None or used is None:
        return None
    if not integrated:
        return Sample(total, max(total - used, 0), used, integrated=integrated)
    # An integrated GPU's "VRAM" is a carve-out of RAM that the firmware made, often 512 MiB, and
    # its "GTT" is the RAM that it may map beside it: only both together are what it can use.
    # GTT that is free is still host memory, which may be taken already.
    shared, shared_used = (_number(device / f"mem_info_gtt_{what}") for what in ("total", "used"))
    if shared is None or shared_used is None:
        return Sample(None, None, None, integrated=True)
    shared_free, available = max(shared - shared_used, 0), host()
    if available is not None:
        shared_free = min(shared_free, available)
    return Sample(
        total + shared, max(total - used, 0) + shared_free, used + shared_used, integrated=True
    )


def _intel(folder: Path) -> Sample | None:
    """i915 shows a discrete card's local memory; xe and integrated GPUs show none, and unknown it
    is."""
    total, free = (_number(folder / f"lmem_{what}_bytes") for what in ("total", "avail"))
    if not total or free is None:
        return None
    return Sample(total, free, max(total - free, 0), integrated=False)


def _amd_integrated(device: Path) -> bool | None:
    """The table of sensors has another format for integrated GPUs (2 and 3) than for cards (1); it
    starts with its size (2 bytes), the format, and its revision. None where there is no table."""
    try:
        with (device / "gpu_metrics").open("rb") as table:
            header = table.read(4)
    except OSError:
        return None
    return header[2] != 1 if len(header) == 4 else None


def _number(file: Path) -> int | None:
    text = _text(file)
    return int(text) if text.isdigit() else None


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
