"""NVIDIA's driver: its version, and which cards it sees. Asked of NVML, which comes with it.

As a program it prints what it found. The set-up runs it so, because a driver that hangs would
otherwise hang the set-up, too.
"""

import ctypes as c
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

LIBRARY = "libnvidia-ml.so.1"
ASK_S = 30.0  # a card that sleeps may take seconds to wake
TEXT_BYTES = 96


@dataclass(frozen=True, slots=True)
class Card:
    """A card and its compute capability: 86 for 8.6."""

    name: str
    architecture: int


@dataclass(frozen=True, slots=True)
class Driver:
    """`version` as people write it: 580.65.06."""

    version: str
    cards: tuple[Card, ...] = ()

    @property
    def branch(self) -> int:
        """The number that says which CUDA it is for: 580."""
        return int(self.version.split(".")[0])


def ask() -> Driver | str:
    """What the driver says; else why it says nothing."""
    try:
        ended = subprocess.run(
            [sys.executable, str(Path(__file__))], capture_output=True, text=True, timeout=ASK_S
        )
    except subprocess.TimeoutExpired:
        return f"NVIDIA's driver did not answer within {ASK_S:.0f} s"
    if ended.returncode != 0:
        lines = ended.stderr.strip().splitlines() or [f"it ended with {ended.returncode}"]
        return f"NVIDIA's driver was not found ({lines[-1]})"
    return parsed(ended.stdout)


def parsed(told: str) -> Driver | str:
    """A driver from what the program prints."""
    found = json.loads(told)
    if not found["version"].split(".")[0].isdigit():
        return f"NVIDIA's driver has a version that is no number: {found['version']!r}"
    return Driver(found["version"], tuple(Card(**card) for card in found["cards"]))


def _read() -> Driver:
    """By calls of NVML. Raises OSError."""
    nvml = c.CDLL(LIBRARY)

    def call(name: str, *arguments: object) -> None:
        if error := nvml[name](*arguments):
            raise OSError(f"{name}: NVML's error {error}")

    call("nvmlInitWithFlags", c.c_uint(0))
    text, count = c.create_string_buffer(TEXT_BYTES), c.c_uint()
    call("nvmlSystemGetDriverVersion", text, c.c_uint(TEXT_BYTES))
    version = text.value.decode(errors="replace")
    call("nvmlDeviceGetCount_v2", c.byref(count))
    cards = []
    for index in range(count.value):
        card, major, minor = c.c_void_p(), c.c_int(), c.c_int()
        try:
            call("nvmlDeviceGetHandleByIndex_v2", c.c_uint(index), c.byref(card))
            call("nvmlDeviceGetCudaComputeCapability", card, c.byref(major), c.byref(minor))
            call("nvmlDeviceGetName", card, text, c.c_uint(TEXT_BYTES))
        except OSError as error:  # one that has fallen off the bus keeps no other from its build
            print(f"card {index}: {error}", file=sys.stderr)
            continue
        cards.append(Card(text.value.decode(errors="replace"), 10 * major.value + minor.value))
    return Driver(version, tuple(cards))


if __name__ == "__main__":
    try:
        print(json.dumps(asdict(_read())))
    except (OSError, AttributeError) as problem:
        sys.exit(str(problem))
