"""NVIDIA's cards where there is a driver for them: its binding, which is large, is loaded then."""

import sys
import threading
from ctypes import CDLL
from typing import Final, Protocol

from proxy.memory.readings import Card, Sample, Unreadable

LIBRARY: Final = "libnvidia-ml.so.1"
BINDING: Final = "pynvml"


class Driver(Protocol):
    """What a driver's cards are asked."""

    def cards(self) -> tuple[Card, ...]:
        """All cards, in the driver's order. Raises Unreadable where there is no driver."""

    def read(self, card_id: str) -> Sample:
        """The memory of the card with this UUID or PCI bus id. Raises Unreadable while the driver
        does not answer for it."""


class Nvidia:
    """`proxy.memory.nvml.Nvml`, as soon as the driver's library is there. A driver may be installed
    while the proxy runs. Methods may be called on any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._nvml: Driver | None = None

    def cards(self) -> tuple[Card, ...]:
        return self._loaded().cards()

    def read(self, card_id: str) -> Sample:
        return self._loaded().read(card_id)

    def _loaded(self) -> Driver:
        with self._lock:
            if self._nvml is None:
                if BINDING not in sys.modules:
                    _look_for_library()
                from proxy.memory.nvml import Nvml

                self._nvml = Nvml()
            return self._nvml


def _look_for_library() -> None:
    try:
        CDLL(LIBRARY)
    except OSError:
        raise Unreadable("NVML: NVML Shared Library Not Found") from None
