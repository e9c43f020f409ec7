"""What the sources say of a card's and of the host's memory, as values.

Sizes are bytes, times are seconds of the clock that the reader was given. Unknown is None, never 0.
`proxy.memory.watch` makes them, `proxy.memory.ledger` judges them.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

_PCI = re.compile(r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])", re.IGNORECASE)


class Unreadable(Exception):
    """A source cannot say anything of a card now. The text is for people, and names the card."""


@dataclass(frozen=True, slots=True)
class Card:
    """A graphics card as a driver lists it, before anybody asks for its memory's state."""

    id: str  # what a policy may call it: a UUID with NVML, "card0" in sysfs
    name: str
    pci_bus_id: str | None
    integrated: bool | None = None
    readable: bool = True  # False: the driver knows the card, but not its memory


@dataclass(frozen=True, slots=True)
class Sample:
    """The memory of one card at one moment, as one source tells it.

    `used_bytes` is what programs have; what the driver keeps for itself is neither used nor free.
    """

    total_bytes: int | None
    free_bytes: int | None
    used_bytes: int | None
    processes: Mapping[int, int | None] | None = None  # pid -> bytes; None: not known by process
    integrated: bool | None = None
    spills: bool = False
    bandwidth: int | None = None  # bytes a second that the card can read at most


@dataclass(frozen=True, slots=True)
class DeviceReading:
    """What is known of the memory of one device of llama.cpp's.

    A source that fails leaves the last numbers, with `stale` set, `problem` saying why, and `at_s`
    the time at which they were true.
    """

    name: str
    description: str
    source: str  # "nvml:GPU-...", "sysfs:card0" or "ggml"
    total_bytes: int | None = None
    free_bytes: int | None = None
    used_bytes: int | None = None
    ours_bytes: int | None = None  # by the driver's list of processes, where it has one
    others_bytes: int | None = None
    integrated: bool | None = None
    bandwidth: int | None = None  # bytes a second, at most
    spills: bool = False  # the driver moves what does not fit to host memory, without an error
    pci_bus_id: str | None = None
    at_s: float | None = None
    stale: bool = False
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class HostReading:
    """The machine's memory. The limit is the tightest one of our control group and its parents.

    Pressure is the share of the last 10 s, 0 to 1, in which some (`pressure`) or all
    (`full_pressure`) tasks waited for memory.
    """

    total_bytes: int | None = None
    available_bytes: int | None = None  # within the limit too
    limit_bytes: int | None = None
    pressure: float | None = None
    full_pressure: float | None = None
    at_s: float | None = None


def pci_bus_id(text: str | None) -> str | None:
    """A PCI bus id in the one form that everything here compares, "0000:c1:00.0".

    NVML has eight digits and capitals, people leave the domain out, and llama.cpp ends the ids of
    a card that it uses as several devices with "-v1". None for what is no PCI bus id.
    """
    found = _PCI.match(text.strip()) if text else None
    if found is None:
        return None
    domain, bus, slot, function = found.groups()
    return f"{int(domain or '0', 16):04x}:{bus}:{slot}.{function}".lower()


def ours_of(sample: Sample, pids: Collection[int]) -> int | None:
    """What the processes `pids` have of a card, None where the driver does not say.

    A list in which none of them appears says nothing: in a container the driver may number
    processes as the host does, or leave them out.
    """
    processes = sample.processes or {}
    found = [processes[pid] for pid in pids if pid in processes]
    known = [size for size in found if size is not None]
    return sum(known) if found and len(known) == len(found) else None
