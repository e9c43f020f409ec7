"""Puts together what one poll found: pure, and what the rest of the proxy sees of it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from proxy.engine.types import Device
from proxy.memory.reader import ReadResult
from proxy.memory.readings import DeviceReading, HostReading, Sample, ours_of
from proxy.memory.sources import Source

NOTHING = HostReading()
NO_SAMPLE = Sample(None, None, None)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One poll."""

    devices: Mapping[str, DeviceReading] = field(default_factory=dict)
    # The machine's cards as they were first read, by their drivers' names for them: until a worker
    # has told which devices there are, and what they are called.
    cards: Mapping[str, DeviceReading] = field(default_factory=dict)
    host: HostReading = NOTHING
    number: int = 0  # of the poll, from 1; 0: nothing has been read yet
    at_s: float = 0.0


def device_reading(
    device: Device,
    source: Source,
    answer: ReadResult[Sample],
    *,
    hangs: bool,
    pids: Collection[int],
) -> DeviceReading:
    """What is known of `device`: the last good answer of its source, and what is wrong with it."""
    sample = answer.value or NO_SAMPLE
    problem = source.problem or answer.problem or ("does not answer" if hangs else None)
    ours, others = ours_of(sample, pids), None
    if ours is not None and sample.used_bytes is not None:
        others = max(sample.used_bytes - ours, 0)
    return DeviceReading(
        name=device.name,
        description=device.description,
        source=str(source),
        total_bytes=sample.total_bytes,
        free_bytes=sample.free_bytes,
        used_bytes=sample.used_bytes,
        ours_bytes=ours,
        others_bytes=others,
        integrated=sample.integrated if source.integrated is None else source.integrated,
        bandwidth=sample.bandwidth,
        spills=sample.spills,
        pci_bus_id=source.pci_bus_id,
        at_s=answer.at_s,
        stale=problem is not None,
        problem=problem,
    )


def same_figures(one: Snapshot, other: Snapshot) -> bool:
    """Whether both show the same of the devices, at whatever time."""
    return one.devices.keys() == other.devices.keys() and all(
        _figures(reading) == _figures(other.devices[name]) for name, reading in one.devices.items()
    )


def _figures(reading: DeviceReading) -> tuple[int | str | None, ...]:
    used, problem = (reading.used_bytes, reading.ours_bytes), reading.problem
    return reading.source, reading.total_bytes, reading.free_bytes, *used, problem


def as_reported(device: Device) -> Sample:
    """The memory of a device as a worker reports it."""
    total, free = device.total_bytes, device.free_bytes
    used = max(total - free, 0) if total is not None and free is not None else None
    return Sample(total, free, used, integrated=True if device.kind == "igpu" else None)
