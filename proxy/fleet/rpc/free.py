"""What this machine could lend, of the memory that an RPC server would use here."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from proxy.engine.installed import folder
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


def free_bytes() -> int:
    """Asks drivers, which may take their time."""
    if computes_on_cards(folder("lib")):
        return max([0, *_of_cards((Nvidia(), Sysfs()))])
    return max((available_host_bytes() or 0) - RAM_RESERVE_BYTES, 0)


def computes_on_cards(libraries: Path | None) -> bool:
    """Whether the RPC server of a build with these libraries has cards for devices."""
    return libraries is not None and any(
        (libraries / f"libggml-{name}.so").exists() for name in OF_CARDS
    )


def _of_cards(drivers: Iterable[Driver]) -> Iterable[int]:
    """One of them, since a server's devices have a name each by its address."""
    for driver in drivers:
        try:
            samples = [driver.read(card.id) for card in driver.cards() if not card.integrated]
        except (Unreadable, OSError):
            continue
        yield from (
            each.free_bytes - CARD_RESERVE_BYTES for each in samples if each.free_bytes is not None
        )
