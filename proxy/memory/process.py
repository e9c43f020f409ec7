"""What the kernel counts of a process: whether it computes, and whether it waits for a disk."""

import os
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
# In the text behind the name, which may have blanks and brackets of its own.
_MAJOR_FAULTS, _USER_TICKS, _SYSTEM_TICKS = 9, 11, 12


@dataclass(frozen=True, slots=True)
class Spent:
    """Since it was started: CPU time of all its threads, and pages that had to be read, of mapped
    files and from swap."""

    cpu_s: float = 0.0
    pages: int = 0


def read_spent(pid: int, proc: Path = PROC) -> Spent | None:
    """None where there is no such process, or the kernel does not tell."""
    try:
        fields = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[_USER_TICKS]) + int(fields[_SYSTEM_TICKS])
        return Spent(ticks / os.sysconf("SC_CLK_TCK"), int(fields[_MAJOR_FAULTS]))
    except (OSError, IndexError, ValueError):
        return None
