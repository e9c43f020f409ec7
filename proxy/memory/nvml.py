"""Memory of NVIDIA's cards, as their driver's own library (NVML) tells it.

It allocates nothing on a card, unlike CUDA, and sees every process. The calls may block for as long
as the driver does: `proxy.memory.watch` makes them on threads that nobody waits for.
"""

import itertools
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pynvml

from proxy.memory.readings import Card, Sample, Unreadable, pci_bus_id

# How often the list of processes is read at most until a card's sums are the same before it and
# after it.
TRIES = 4
# After these the library has to be initialised again, which works once the driver is back.
_DRIVER_GONE = frozenset(
    {
        pynvml.NVML_ERROR_UNINITIALIZED,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
        pynvml.NVML_ERROR_UNKNOWN,
    }
)


@dataclass(frozen=True, slots=True)
class _Handle:
    """A card as the library wants it named, and what about it never changes."""

    value: Any
    wddm: bool
    bandwidth: int | None


class Nvml:
    """The library, initialised when it is first needed. Methods may be called on any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the fields below; not held while a card is read
        self._ready = False
        self._generation = 0  # of the initialisation; what failed in an older one says nothing new
        self._handles: dict[str, _Handle] = {}  # by what callers call a card
        self._asked: set[str] = set()
        self._lost: set[str] = set()

    def cards(self) -> tuple[Card, ...]:
        """All cards, in the driver's order. Raises Unreadable where there is no driver."""
        generation = 0
        try:
            generation = self._initialise()
            return tuple(_card(index) for index in range(pynvml.nvmlDeviceGetCount()))
        except pynvml.NVMLError as error:
            self._failed(error, None, generation)
            raise Unreadable(f"NVML: {error}") from error

    def read(self, card_id: str) -> Sample:
        """The memory of the card with this UUID or PCI bus id.

        Raises Unreadable while the driver does not answer for it; a later call may succeed.
        """
        generation = 0
        try:
            generation = self._initialise()
            sample = _sample(self._handle(card_id))
        except pynvml.NVMLError as error:
            self._failed(error, card_id, generation)
            raise Unreadable(f"NVML, {card_id}: {error}") from error
        with self._lock:
            self._lost.discard(card_id)
        return sample

    def _initialise(self) -> int:
        with self._lock:
            if not self._ready:
                pynvml.nvmlInit()
                self._ready = True
                self._generation += 1
            return self._generation

    def _handle(self, card_id: str) -> _Handle:
        with self._lock:
            self._asked.add(card_id)
            handle = self._handles.get(card_id)
        if handle is None:
            found = _find(card_id)
            handle = _Handle(found, wddm=_is_wddm(found), bandwidth=_bandwidth(found))
            with self._lock:
                self._handles[card_id] = handle
        return handle

    def _failed(self, error: Any, card_id: str | None, generation: int) -> None:
        """Forget what is not valid any more. One card that fell off the bus is no reason to take
        the library away from the others; all of them together are."""
        with self._lock:
            if generation != self._generation:
                return
            gone = error.value in _DRIVER_GONE
            if card_id is not None:
                self._handles.pop(card_id, None)
                if error.value == pynvml.NVML_ERROR_GPU_IS_LOST:
                    self._lost.add(card_id)
                    gone = self._lost >= self._asked
            if gone and self._ready:
                with suppress(pynvml.NVMLError):
                    pynvml.nvmlShutdown()
                self._ready = False
                self._handles.clear()
                self._lost.clear()


def _card(index: int) -> Card:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    uuid, name = pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetName(handle)
    bus_id = _bus_id(handle)
    mig, _ = _ask(pynvml.nvmlDeviceGetMigMode, handle, default=(0, 0))
    if mig == pynvml.NVML_DEVICE_MIG_ENABLE:
        # llama.cpp sees an instance of this card, and this card's numbers are those of all
        # instances together: more than the instance has. A policy may name the instance.
        return Card(uuid, f"{name}, in MIG mode", bus_id, readable=False)
    shares_host = _memory(handle) is None
    return Card(uuid, name, bus_id, integrated=shares_host, readable=not shares_host)


def _find(card_id: str) -> Any:
    """The library's handle of a card. A UUID may be that of a MIG instance as well."""
    wanted = pci_bus_id(card_id)
    if wanted is None:
        return pynvml.nvmlDeviceGetHandleByUUID(card_id)
    for index in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        if _bus_id(handle) == wanted:
            return handle
    raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)


def _sample(handle: _Handle) -> Sample:
    memory = _memory(handle.value)
    if memory is None:
        return Sample(None, None, None, integrated=True)
    # The driver is asked twice, for the sums and for the list, and what comes or goes between would
    # be in one of them only: taken for others' memory, or for room that there is not. Where it is
    # never still, the sums are the later word, which promises too little rather than too much.
    for _ in range(TRIES):
        before, processes = memory, _processes(handle.value)
        memory = _memory(handle.value)
        if processes is None or memory.used == before.used:
            break
    by_process = sum(size or 0 for size in (processes or {}).values())
    return Sample(
        total_bytes=memory.total,
        free_bytes=memory.free,
        used_bytes=memory.used,
        processes=processes,
        integrated=False,
        spills=handle.wddm or by_process > memory.total,
        bandwidth=handle.bandwidth,
    )


def _memory(handle: Any) -> Any:
    """None for a GPU that uses the host's memory (Jetson, GB10): it has none of its own to tell of.

    The second version knows what the driver keeps for itself; the first counts that as used.
    """
    try:
        try:
            return pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
        except (pynvml.NVMLError_FunctionNotFound, pynvml.NVMLError_ArgumentVersionMismatch):
            return pynvml.nvmlDeviceGetMemoryInfo(handle)
    except pynvml.NVMLError_NotSupported:
        return None


def _processes(handle: Any) -> dict[int, int | None] | None:
    """pid -> bytes, None where neither list is to be had. A process that computes and draws is in
    both lists, with the same sum."""
    lists = [
        _ask(pynvml.nvmlDeviceGetComputeRunningProcesses_v3, handle, default=None),
        _ask(pynvml.nvmlDeviceGetGraphicsRunningProcesses_v3, handle, default=None),
    ]
    if lists == [None, None]:
        return None
    found: dict[int, int | None] = {}
    for process in itertools.chain.from_iterable(processes or () for processes in lists):
        sizes = (process.usedGpuMemory, found.get(process.pid))
        found[process.pid] = max((size for size in sizes if size is not None), default=None)
    return found


def _bus_id(handle: Any) -> str | None:
    return pci_bus_id(pynvml.nvmlDeviceGetPciInfo_v3(handle).busId)


def _is_wddm(handle: Any) -> bool:
    """Windows' driver model for screens: past the end of a card's memory it goes on in the host's,
    ten times as slow."""
    model, _ = _ask(pynvml.nvmlDeviceGetDriverModel_v2, handle, default=(None, None))
    return bool(model == pynvml.NVML_DRIVER_WDDM)


def _bandwidth(handle: Any) -> int | None:
    """What the memory's bus carries at its highest clock, twice in each period, in bytes a second.
    None where the driver does not tell: old ones, parts of a card in MIG mode."""
    bits = _ask(pynvml.nvmlDeviceGetMemoryBusWidth, handle, default=0)
    megahertz = _ask(_highest_clock, handle, default=0)
    return 2 * megahertz * 10**6 * bits // 8 or None


def _highest_clock(handle: Any) -> int:
    return int(pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_MEM))


def _ask(function: Callable[[Any], Any], handle: Any, *, default: Any) -> Any:
    """What is good to know, from drivers that have it and tell it."""
    try:
        return function(handle)
    except pynvml.NVMLError as error:
        if error.value in _DRIVER_GONE or error.value == pynvml.NVML_ERROR_GPU_IS_LOST:
            raise
        return default
