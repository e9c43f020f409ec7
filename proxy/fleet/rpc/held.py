"""What of a machine's memory the RPC servers below a process hold."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from proxy.fleet.rpc.peers import descendants
from proxy.memory.nvidia import Nvidia
from proxy.memory.readings import Unreadable

# Beside cards, which have their drivers' names.
RAM: Final = "ram"
# As the kernel has it: of a name it keeps 15 bytes.
SERVER: Final = "ggml-rpc-server"
KIB: Final = 1024
_nvidia = Nvidia()


def held_below(pid: int, place: str) -> int | None:
    """Bytes of main memory, or of a card by its driver's name for it; None where the driver does
    not tell processes apart. May block."""
    servers = [each for each in descendants(pid) if _status(each).get("Name") == SERVER]
    if place == RAM:
        return sum(_kib(_status(each).get("RssAnon", "")) * KIB for each in servers)
    return _of_card(servers, place) if servers else 0


def _of_card(servers: Iterable[int], card: str) -> int | None:
    try:
        processes = _nvidia.read(card).processes
    except (Unreadable, OSError):
        return None
    if processes is None:
        return None
    # One that is not in the list has not come to it, or the driver numbers processes otherwise.
    found = [processes[each] for each in servers if each in processes]
    known = [size for size in found if size is not None]
    return sum(known) if found and len(known) == len(found) else None


def _status(pid: int) -> Mapping[str, str]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    except OSError:  # it has ended meanwhile
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _kib(text: str) -> int:
    number = text.partition(" ")[0]
    return int(number) if number.isdigit() else 0
