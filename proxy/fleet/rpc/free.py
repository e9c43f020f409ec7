"""What this machine could lend, of the memory that an RPC server would use here."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from proxy.engine.installed import folder
from proxy.fleet.rpc.held import RAM
from proxy.memory.host import available_host_bytes
from proxy.memory.nvidia import Driver, Nvidia
from proxy.memory.readings import Unreadable
from proxy.memory.sysfs import Sysfs

# Left to whatever else is done there: of a card as devices.reserve is by itself, of RAM more, which
# is all there is for everything.
CARD_RESERVE_BYTES: Final = 512 << 20
RAM_RESERVE_BYTES: Final = 1 << 30
# Builds with one of these compute on cards, all others on the CPU.
OF_CARDS: Final = ("cuda", "hip", "vulkan", "sycl")


def free_by_place() -> Mapping[str, int]:
    """Of each card, or of RAM. Asks drivers, which may take their time."""
    if computes_on_cards(folder("lib")):
        return dict(_of_cards((Nvidia(), Sysfs())))
    return {RAM: max((available_host_bytes() or 0) - RAM_RESERVE_BYTES, 0)}


def offered_bytes(free: Mapping[str, int], promised: Mapping[str, int]) -> int:
    """Of the place that has the most beside what was promised already. Pure."""
    return max([0, *(size - promised.get(place, 0) for place, size in free.items())])


def computes_on_cards(libraries: Path | None) -> bool:
    """Whether the RPC server of a build with these libraries has cards for devices."""
    return libraries is not None and any(
        (libraries / f"libggml-{name}.so").exists() for name in OF_CARDS
    )


def _of_cards(drivers: Iterable[Driver]) -> Iterator[tuple[str, int]]:
    for driver in drivers:
        try:
            ids = [card.id for card in driver.cards() if not card.integrated]
            samples = [(each, driver.read(each)) for each in ids]
        except (Unreadable, OSError):
            continue
        for each, sample in samples:
            if sample.free_bytes is not None:
                yield each, max(sample.free_bytes - CARD_RESERVE_BYTES, 0)
