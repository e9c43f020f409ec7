"""What one device's reading is made of."""

from proxy.engine.types import Device
from proxy.memory.reader import ReadResult
from proxy.memory.readings import DeviceReading, Sample
from proxy.memory.snapshot import as_reported, device_reading
from proxy.memory.sources import Source

CUDA0 = Device("CUDA0", "RTX", "gpu", None, None, "0000:c1:00.0")
SOURCE = Source("nvml", "GPU-5a", "0000:c1:00.0", integrated=False)
SAMPLE = Sample(1000, 300, 600, {7: 100, 9: 400})


def test_others_are_what_is_used_and_not_ours() -> None:
    reading = device_reading(CUDA0, SOURCE, ReadResult(SAMPLE, 2.0), hangs=False, pids={7})

    assert reading == DeviceReading(
        name="CUDA0",
        description="RTX",
        source="nvml:GPU-5a",
        total_bytes=1000,
        free_bytes=300,
        used_bytes=600,
        ours_bytes=100,
        others_bytes=500,
        integrated=False,
        pci_bus_id="0000:c1:00.0",
        at_s=2.0,
    )


def test_what_is_not_known_by_process_is_left_to_the_ledger() -> None:
    reading = device_reading(CUDA0, SOURCE, ReadResult(SAMPLE, 2.0), hangs=False, pids={1})

    assert (reading.ours_bytes, reading.others_bytes) == (None, None)


def test_an_old_answer_stays_and_says_that_it_is_old() -> None:
    hanging = device_reading(CUDA0, SOURCE, ReadResult(SAMPLE, 2.0), hangs=True, pids=())
    failed = device_reading(
        CUDA0, SOURCE, ReadResult(SAMPLE, 2.0, problem="lost"), hangs=False, pids=()
    )

    assert (hanging.free_bytes, hanging.stale, hanging.problem) == (300, True, "does not answer")
    assert (failed.free_bytes, failed.stale, failed.problem) == (300, True, "lost")


def test_never_read_is_unknown_and_not_0() -> None:
    reading = device_reading(CUDA0, SOURCE, ReadResult(), hangs=True, pids=())

    assert (reading.total_bytes, reading.free_bytes, reading.at_s) == (None, None, None)


def test_a_workers_report_may_leave_memory_out() -> None:
    known = Device("RPC0", "", "gpu", 1000, 300)
    unknown = Device("RPC0", "", "igpu", None, None)

    assert as_reported(known) == Sample(1000, 300, 700)
    assert as_reported(unknown) == Sample(None, None, None, integrated=True)
