"""The host's memory, from files that look like the kernel's, and from the kernel's own."""

from pathlib import Path

import pytest

from proxy.memory.host import available_host_bytes, read_host
from proxy.memory.readings import HostReading

MIB = 1 << 20
MEMINFO = (
    "MemTotal:       8388608 kB\nMemFree:  1 kB\nMemAvailable:   4194304 kB\nHugePages_Total:  0\n"
)
PRESSURE = (
    "some avg10=12.50 avg60=1.00 avg300=0.00 total=1\n"
    "full avg10=3.00 avg60=0.00 avg300=0.00 total=1\n"
)


class Machine:
    """Folders in the place of /proc and /sys/fs/cgroup."""

    def __init__(self, root: Path) -> None:
        self.proc, self.cgroups = root / "proc", root / "cgroup"
        self.write(self.proc / "meminfo", MEMINFO)
        self.write(self.proc / "pressure/memory", PRESSURE)
        self.write(self.proc / "self/cgroup", "4:memory:/old\n0::/app/worker\n")
        (self.cgroups / "app/worker").mkdir(parents=True)

    def write(self, file: Path, text: str) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def group(self, name: str, **files: str) -> None:
        for file, text in files.items():
            self.write(self.cgroups / name / f"memory.{file}", text)

    def read(self) -> HostReading:
        return read_host(self.proc, self.cgroups)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_without_a_limit_it_is_what_the_kernel_says(machine: Machine) -> None:
    machine.group("app/worker", max="max\n", high="max\n", current="1000\n")

    assert machine.read() == HostReading(8 << 30, 4 << 30, None, 0.125, 0.03)


def test_a_limit_leaves_what_is_not_used_or_can_be_dropped(machine: Machine) -> None:
    machine.group(
        "app/worker",
        max=f"{1024 * MIB}\n",
        current=f"{900 * MIB}\n",
        stat=f"anon 1\ninactive_file {200 * MIB}\nactive_file 7\n",
    )

    reading = machine.read()

    assert (reading.limit_bytes, reading.available_bytes) == (1024 * MIB, 324 * MIB)


def test_the_tightest_group_above_us_holds(machine: Machine) -> None:
    machine.group("app/worker", max=f"{900 * MIB}\n", current=f"{100 * MIB}\n")
    machine.group("app", max="max\n", high=f"{500 * MIB}\n", current=f"{450 * MIB}\n")
    machine.group("", max=f"{4000 * MIB}\n", current="0\n")

    reading = machine.read()

    assert (reading.limit_bytes, reading.available_bytes) == (500 * MIB, 50 * MIB)


def test_a_group_over_its_limit_leaves_nothing(machine: Machine) -> None:
    machine.group("app/worker", max="1000\n", current="2000\n")

    assert machine.read().available_bytes == 0


def test_inside_a_container_the_root_is_our_own_group(machine: Machine) -> None:
    machine.write(machine.proc / "self/cgroup", "0::/../../other\n")
    machine.group("", max=f"{600 * MIB}\n", current=f"{100 * MIB}\n")

    assert machine.read().available_bytes == 500 * MIB


def test_files_that_are_missing_or_strange_leave_their_own_fields_unknown(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.write(machine.proc / "pressure/memory", "some avg10=much\n")
    (machine.proc / "self/cgroup").unlink()

    assert machine.read() == HostReading(8 << 30, 4 << 30, None, None, None)
    assert read_host(tmp_path / "none", tmp_path / "none") == HostReading()


def test_this_machine_says_something_that_can_be() -> None:
    reading = read_host()

    assert reading.total_bytes is not None
    assert reading.available_bytes is not None
    assert 0 < reading.available_bytes <= reading.total_bytes
    assert available_host_bytes() == pytest.approx(reading.available_bytes, rel=0.5)
    assert reading.pressure is None or 0 <= reading.pressure <= 1
