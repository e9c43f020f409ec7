"""What the kernel counts of a process: whether it computes, and whether it waits for a disk."""

import os
import resource
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
# In the text behind the name, which may have blanks and brackets of its own.
_MAJOR_FAULTS, _USER_TICKS, _SYSTEM_TICKS = 9, 11, 12


@dataclass(frozen=True, slots=True)
class Spent:
    """Since it was started: CPU time of all its threads, and pages that had to be read, of files
    and from swap (some twice, as the kernel counts what was mapped and what came from a disk)."""

    cpu_s: float = 0.0
    pages: int = 0


def read_spent(pid: int, proc: Path = PROC) -> Spent | None:
    """None where there is no such process, or the kernel does not tell."""
    try:
        fields = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[_USER_TICKS]) + int(fields[_SYSTEM_TICKS])
        pages = int(fields[_MAJOR_FAULTS]) + _read_bytes(proc / str(pid)) // resource.getpagesize()
        return Spent(ticks / os.sysconf("SC_CLK_TCK"), pages)
    except (OSError, IndexError, ValueError):
        return None


def _read_bytes(process: Path) -> int:
    """What came from a disk or over a network for it, without mapping too (proc_pid_io(5)); 0 where
    the kernel does not tell."""
    try:
        told = (process / "io").read_text()
    except OSError:
        return 0
    return next(
        (int(line[12:]) for line in told.splitlines() if line.startswith("read_bytes: ")), 0
    )
