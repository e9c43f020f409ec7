"""The eye on the machine's own memory: what will not stay in RAM, and when RAM gets short.

It only tells: a model that is read from disk for every token is slow, but it answers.
"""

from collections.abc import Callable, Sequence

import structlog

from proxy.catalog.gguf import GgufError
from proxy.catalog.headers import header_at
from proxy.control.ports import Readings
from proxy.engine.types import LoadOptions
from proxy.memory.pressure import Episodes, pressure_of
from proxy.memory.snapshot import Snapshot
from proxy.observe.events import EventLog
from proxy.placement.budget import Budget
from proxy.placement.footprint import settings_of
from proxy.placement.ram import cpu_resident
from proxy.pool.state import Backend
from proxy.routing.batch_size import Capacity
from proxy.split import Split, count_on_cpu
from proxy.text import gib
from proxy.threads import MODELS

log = structlog.get_logger()

NO_DEVICES = " (as far as no device takes them; none is known yet)"


class HostPressure:
    """Called by the pool before a backend is started, and by the memory watch after each poll."""

    def __init__(
        self,
        *,
        memory: Readings,
        events: EventLog,
        split_of: Callable[[Backend], Split],
        capacity: Capacity,
    ) -> None:
        """`split_of` tells the policies' split of a backend, `capacity` what of the devices, with
        these RPC servers, a model could have."""
        self._memory, self._events = memory, events
        self._split_of, self._capacity = split_of, capacity
        self._episodes = Episodes()

    async def check(self, backend: Backend) -> None:
        """Note on `backend`, and tell, that what stays on the CPU is more than RAM can hold."""
        options = backend.options
        available = self._memory.latest().host.available_bytes
        if options.engine != "hosted" or available is None:
            return
        budgets = tuple(self._capacity(options.rpc))
        split = self._split_of(backend)
        try:
            staying = await MODELS.run(_staying, options, split, budgets)
        except Exception:
            # A model of a kind that nobody has estimated yet: no reason not to load it.
            log.exception("host_memory_not_checked", backend=backend.id)
            return
        if staying is None or staying <= available:
            return
        message = (
            f"{gib(staying)} of weights stay on the CPU and {gib(available)} of RAM are available: "
            f"it will read from disk, {gib(staying - available)} for every token"
            f"{'' if budgets else NO_DEVICES}"
        )
        backend.warn(message)
        self._events.publish(
            "host_memory_short",
            backend=backend.id,
            model=options.model,
            cpu_bytes=staying,
            available_bytes=available,
            message=message,
        )

    def look(self, snapshot: Snapshot) -> None:
        """After each reading: tell that RAM is short, once, and that it is not any more."""
        host = snapshot.host
        match self._episodes.look(host, snapshot.at_s):
            case "begun":
                self._events.publish(
                    "host_pressure",
                    pressure=host.pressure,
                    available_bytes=host.available_bytes,
                    message=pressure_of(host),
                )
            case "over":
                self._events.publish("host_pressure_over", available_bytes=host.available_bytes)


def _staying(options: LoadOptions, split: Split, budgets: Sequence[Budget]) -> int | None:
    """Bytes of weights that stay on the CPU; None where the file does not tell."""
    try:
        header = header_at(options.path)
    except (GgufError, OSError):
        return None
    split = split if options.split is None else options.split
    given = count_on_cpu(split, header.layers)
    if options.cache_mib:
        given = max(given or 0, options.cached_layers)
    return cpu_resident(header, settings_of(options), budgets, given)
