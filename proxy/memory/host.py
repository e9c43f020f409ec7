"""The machine's own memory on Linux: /proc/meminfo, our control group (v2), and pressure (PSI).

Imports nothing heavy, so that a worker can ask too. On other systems, everything is unknown.
"""

from pathlib import Path

from proxy.memory.readings import HostReading

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
KIB = 1024


def available_host_bytes(proc: Path = PROC, cgroups: Path = CGROUPS) -> int | None:
    """RAM that can be had without pushing out what is in use. None where it is not known."""
    return read_host(proc, cgroups).available_bytes


def read_host(proc: Path = PROC, cgroups: Path = CGROUPS) -> HostReading:
    """One reading of everything. A file that is missing or strange leaves its own fields None."""
    sizes = _meminfo(proc / "meminfo")
    available, limit = sizes.get("MemAvailable"), None
    for folder in _own_groups(proc / "self/cgroup", cgroups):
        own_limit = _limit(folder)
        if own_limit is None:
            continue
        limit = own_limit if limit is None else min(limit, own_limit)
        used = _used(folder)
        if used is not None:
            room = max(own_limit - used, 0)
            available = room if available is None else min(available, room)
    some, full = _pressure(proc / "pressure/memory")
    return HostReading(sizes.get("MemTotal"), available, limit, some, full)


def processor(proc: Path = PROC) -> str:
    """The processor's name, as its kernel has it; empty where it has none."""
    lines = (line.partition(":") for line in _text(proc / "cpuinfo").splitlines())
    return next((name.strip() for key, _, name in lines if key.strip() == "model name"), "")


def _meminfo(file: Path) -> dict[str, int]:
    sizes = {}
    for line in _text(file).splitlines():
        name, _, value = line.partition(":")
        if (number := value.split()[:1]) and number[0].isdigit():
            sizes[name] = int(number[0]) * KIB
    return sizes


def _own_groups(membership: Path, root: Path) -> list[Path]:
    """The folders of our control group and of all its parents: the tightest limit of them holds.

    Seen from inside a container, the path may lead out of what is mounted; then only the root is
    there, and that is the container's own group.
    """
    for line in _text(membership).splitlines():
        if line.startswith("0::"):
            parts = [part for part in line[3:].split("/") if part not in ("", "..")]
            return [root.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]
    return []


def _limit(folder: Path) -> int | None:
    """`memory.high` counts as well: above it the kernel slows the whole group down."""
    limits = [_number(folder / name) for name in ("memory.max", "memory.high")]
    return min((limit for limit in limits if limit is not None), default=None)


def _used(folder: Path) -> int | None:
    """What a group could not give up: file pages that nobody used lately go without a loss."""
    current = _number(folder / "memory.current")
    if current is None:
        return None
    fields = dict(line.split(" ", 1) for line in _text(folder / "memory.stat").splitlines() if line)
    inactive = fields.get("inactive_file", "0")
    return max(current - (int(inactive) if inactive.isdigit() else 0), 0)


def _pressure(file: Path) -> tuple[float | None, float | None]:
    shares: dict[str, float] = {}
    for line in _text(file).splitlines():
        kind, *fields = line.split()
        averages = dict(field.partition("=")[::2] for field in fields)
        try:
            shares[kind] = float(averages["avg10"]) / 100
        except (KeyError, ValueError):
            continue
    return shares.get("some"), shares.get("full")


def _number(file: Path) -> int | None:
    text = _text(file).strip()
    return int(text) if text.isdigit() else None  # "max" is no limit


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
