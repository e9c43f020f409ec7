"""An NVIDIA driver for machines without one: a shared library that pynvml really loads.

A test makes a `StandInNvml` with the cards it wants, runs a program with `env()` added to its
environment (or, within the test's own process, enters `loaded()`), and changes cards while it runs:

    nvml = StandInNvml(tmp_path, StandInCard(total=8 << 30))
    proxy = start([...], env=os.environ | nvml.env())       # policy: memory = "nvml:GPU-0"
    nvml.change(others=6 << 30)                             # somebody started a game
    nvml.change(hang_s=5.0)                                 # the driver hangs, for 5 s or until...
    nvml.change(hang_s=0.0)
    nvml.change(error=GPU_IS_LOST)                          # what every call about the card returns
    nvml.driver(error=DRIVER_NOT_LOADED)                    # the same for the whole library
    nvml.process(pid, used=1 << 30)                         # a line of nvidia-smi's list
    nvml.process(worker.pid, follows=rpc_server.pid)

With `follows`, the process has as much memory on the card as another one has of RAM: let it follow
a ggml-rpc-server, and the card fills and empties as experts move, as a real one does. Start that
one with RETURNS_MEMORY in its environment, or it keeps part of what it frees for later. What is
free is total - reserved - others - all processes.
"""

import atexit
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import CDLL, c_int
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pynvml

SOURCE = Path(__file__).parent / "nvml_stub" / "nvml_stub.c"
LIBRARY = "libnvidia-ml.so.1"
STATE = "NVML_STAND_IN"
# glibc: every allocation of more than 64 KiB is a mapping of its own, and gone when it is freed.
RETURNS_MEMORY = "MALLOC_MMAP_THRESHOLD_=65536"
NOT_AVAILABLE = (1 << 64) - 1

UNINITIALIZED = pynvml.NVML_ERROR_UNINITIALIZED
DRIVER_NOT_LOADED = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
GPU_IS_LOST = pynvml.NVML_ERROR_GPU_IS_LOST


@dataclass(frozen=True)
class StandInCard:
    """One card. `uuid` of "" and `bus_id` of "" are filled in from its place in the list."""

    total: int = 8 << 30
    reserved: int = 0
    others: int = 0  # used by nobody in the list of processes
    uuid: str = ""
    bus_id: str = ""
    name: str = "Stand-in"
    error: int = 0
    hang_s: float = 0.0
    shared: bool = False  # uses the host's memory, and has no number of its own
    mig: bool = False
    wddm: bool = False
    bus_bits: int = 0  # 0: the driver does not tell
    clock_mhz: int = 0
    capability: int = 86  # 8.6
    old: bool = False  # a driver from before the second memory call and the lists of processes


@dataclass(frozen=True)
class _Process:
    card: int
    pid: int
    used: int | None
    follows: int
    graphics: bool


class StandInNvml:
    """The library, and the file in `folder` from which it reads what it tells."""

    def __init__(self, folder: Path, *cards: StandInCard) -> None:
        self.file = folder / "nvml.txt"
        self.cards = [
            replace(
                card,
                uuid=card.uuid or f"GPU-{index}",
                bus_id=card.bus_id or f"00000000:{0xC1 + index:02X}:00.0",
            )
            for index, card in enumerate(cards or (StandInCard(),))
        ]
        self._processes: dict[tuple[int, int, bool], _Process] = {}
        self._error, self._hang_s, self._version = 0, 0.0, "580.65.06"
        self._write()

    def env(self) -> dict[str, str]:
        """What a program's environment needs so that it finds this library before any real one."""
        folders = [str(built().parent), os.environ.get("LD_LIBRARY_PATH", "")]
        return {
            "LD_LIBRARY_PATH": os.pathsep.join(filter(None, folders)),
            STATE: str(self.file),
        }

    @contextmanager
    def loaded(self) -> Iterator[None]:
        """pynvml of this process uses this library within the block, and afterwards what it used
        before."""
        before = pynvml.nvmlLib, dict(pynvml._nvmlGetFunctionPointer_cache), os.environ.get(STATE)
        library = CDLL(str(built()))
        pynvml.nvmlLib = library
        pynvml._nvmlGetFunctionPointer_cache.clear()
        os.environ[STATE] = str(self.file)
        try:
            yield
        finally:
            while library.nvmlShutdown() == 0:  # what was initialised within the block ends with it
                pass
            pynvml.nvmlLib = before[0]
            pynvml._nvmlGetFunctionPointer_cache.clear()
            pynvml._nvmlGetFunctionPointer_cache.update(before[1])
            if before[2] is None:
                del os.environ[STATE]
            else:
                os.environ[STATE] = before[2]

    def change(self, card: int = 0, **fields: object) -> None:
        """Change fields of a card, from the next call on."""
        self.cards[card] = replace(self.cards[card], **fields)  # type: ignore[arg-type]
        self._write()

    def driver(self, *, error: int = 0, hang_s: float = 0.0, version: str = "580.65.06") -> None:
        """What every call returns, how long it takes, and the driver's version."""
        self._error, self._hang_s, self._version = error, hang_s, version
        self._write()

    def wait_for_hanging_call(self) -> None:
        """Return when a call of this process hangs. Only within `loaded`."""
        hanging = c_int.in_dll(pynvml.nvmlLib, "stand_in_hanging")
        while not hanging.value:
            time.sleep(0.005)

    def process(
        self,
        pid: int,
        *,
        used: int | None = 0,
        follows: int = 0,
        card: int = 0,
        graphics: bool = False,
        instead_of: int = 0,
    ) -> None:
        """Put a process into a card's list, or change it. `used` of None: it is not known.
        `instead_of`: this one goes out of all lists in the same moment."""
        self._processes = {k: p for k, p in self._processes.items() if p.pid != instead_of}
        self._processes[card, pid, graphics] = _Process(card, pid, used, follows, graphics)
        self._write()

    def ended(self, pid: int) -> None:
        """Take a process out of all lists."""
        self._processes = {key: p for key, p in self._processes.items() if p.pid != pid}
        self._write()

    def free(self, card: int = 0) -> int:
        """What is free by the fields, without processes that follow another one."""
        seen = self.cards[card]
        used = {p.pid: p.used or 0 for p in self._processes.values() if p.card == card}
        return max(seen.total - seen.reserved - seen.others - sum(used.values()), 0)

    def _write(self) -> None:
        lines = [f"driver {self._error} {self._hang_s} {self._version}"]
        lines += [
            f"card {c.uuid} {c.bus_id} {c.total} {c.reserved} {c.others} {c.error} {c.hang_s} "
            f"{c.shared:d} {c.mig:d} {c.wddm:d} {c.old:d} {c.bus_bits} {c.clock_mhz} "
            f"{c.capability} {c.name}"
            for c in self.cards
        ]
        lines += [
            f"process {p.card} {p.graphics:d} {p.pid} "
            f"{NOT_AVAILABLE if p.used is None else p.used} {p.follows}"
            for p in self._processes.values()
        ]
        new = self.file.with_suffix(".new")
        new.write_text("\n".join(lines) + "\n")
        new.replace(self.file)  # a call sees the old file or the new one, never a half


@cache
def built() -> Path:
    """The compiled library, made once per test run."""
    folder = Path(tempfile.mkdtemp(prefix="nvml-stand-in-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    library = folder / LIBRARY
    command = ["cc", "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([*command, "-o", str(library), str(SOURCE)], check=True)
    return library
