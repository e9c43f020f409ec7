"""What this machine has promised to others, and they have not taken yet, is free to no one here:
in readings it is as if another program had it."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypedDict

from proxy.memory.host import read_host
from proxy.memory.nvidia import Driver, Nvidia
from proxy.memory.readings import HostReading, Sample
from proxy.memory.sysfs import Sysfs

# Asked before a source is, as what is taken meanwhile is in both; bytes by its names for cards. May
# block: it is asked on the sources' own threads.
Promised = Callable[[], Mapping[str, int]]


class NvidiaBeside(Nvidia):
    def __init__(self, promised: Promised) -> None:
        super().__init__()
        self._promised = promised

    def read(self, card_id: str) -> Sample:
        size = self._promised().get(card_id, 0)
        return beside(super().read(card_id), size)


class SysfsBeside(Sysfs):
    def __init__(self, promised: Promised) -> None:
        super().__init__()
        self._promised = promised

    def read(self, card_id: str, *, integrated: bool | None = None) -> Sample:
        size = self._promised().get(card_id, 0)
        return beside(super().read(card_id, integrated=integrated), size)


class Sources(TypedDict, total=False):
    """Of a `MemoryWatch`."""

    nvml: Driver
    sysfs: Sysfs
    host: Callable[[], HostReading]


def sources_beside(promised: Promised, ram: str) -> Sources:
    """`ram`: what main memory is called among what was promised."""
    return Sources(
        nvml=NvidiaBeside(promised),
        sysfs=SysfsBeside(promised),
        host=lambda: _host_beside(promised, ram),
    )


def _host_beside(promised: Promised, ram: str) -> HostReading:
    size, reading = promised().get(ram, 0), read_host()
    available = reading.available_bytes
    return replace(reading, available_bytes=None if available is None else max(available - size, 0))


def beside(sample: Sample, size_bytes: int) -> Sample:
    """What is left, where so many bytes were promised. Pure."""
    if sample.free_bytes is None:
        return sample
    size = min(size_bytes, sample.free_bytes)
    used = None if sample.used_bytes is None else sample.used_bytes + size
    return replace(sample, free_bytes=sample.free_bytes - size, used_bytes=used)
