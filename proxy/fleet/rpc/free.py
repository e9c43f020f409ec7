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

# Left to whatever else is done there: of a card what the node's own devices.reserve says, or is by
# itself, of RAM this at least, which is all there is for everything.
CARD_RESERVE_BYTES: Final = 512 << 20
RAM_RESERVE_BYTES: Final = 1 << 30
# Builds with one of these compute on cards, all others on the CPU.
OF_CARDS: Final = ("cuda", "hip", "vulkan", "sycl")


def free_by_place(reserve_bytes: int | None = None) -> Mapping[str, int]:
    """Of each card, or of RAM; so much is to stay free, or what is usual. Asks drivers, which may
    take their time."""
    if computes_on_cards(folder("lib")):
        reserve = CARD_RESERVE_BYTES if reserve_bytes is None else reserve_bytes
        return dict(_of_cards((Nvidia(), Sysfs()), reserve))
    reserve = max(RAM_RESERVE_BYTES, reserve_bytes or 0)
    return {RAM: max((available_host_bytes() or 0) - reserve, 0)}


def computes_on_cards(libraries: Path | None) -> bool:
    """Whether the RPC server of a build with these libraries has cards for devices."""
    return libraries is not None and any(
        (libraries / f"libggml-{name}.so").exists() for name in OF_CARDS
    )


def _of_cards(drivers: Iterable[Driver], reserve_bytes: int) -> Iterator[tuple[str, int]]:
    for driver in drivers:
        try:
            ids = [card.id for card in driver.cards() if not card.integrated]
            samples = [(each, driver.read(each)) for each in ids]
        except (Unreadable, OSError):
            continue
        for each, sample in samples:
            if sample.free_bytes is not None:
                yield each, max(sample.free_bytes - reserve_bytes, 0)
