"""Numbers for Prometheus: requests are counted as they end, everything else is read when it is
asked for.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from proxy.observe.events import Event
from proxy.observe.lives import Lives

# First bytes take from a millisecond (all cached) to minutes (a long prompt on a CPU, or a load).
FIRST_BYTE_BUCKETS_S = (0.005, 0.02, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


@dataclass(frozen=True, slots=True)
class BackendNumbers:
    """One backend at the moment of the scrape."""

    id: str
    model: str
    state: str
    in_flight: int
    waiting: int
    moe_cpu_layers: int | None
    tokens_per_second: float
    held: Mapping[str, Mapping[str, int]]  # device -> what for -> bytes


@dataclass(frozen=True, slots=True)
class DeviceNumbers:
    """One device at the moment of the scrape, in bytes; None: nobody says."""

    name: str
    total: int | None
    free: int | None
    ours: int | None
    others: int | None


@dataclass(frozen=True, slots=True)
class KeyNumbers:
    """What was made of one API key."""

    name: str
    requests: int
    refused: int


class Numbers(Protocol):
    """What is read when it is asked for."""

    def backends(self) -> Iterable[BackendNumbers]: ...
    def devices(self) -> Iterable[DeviceNumbers]: ...
    def keys(self) -> Iterable[KeyNumbers]: ...
    def queue_length(self) -> int: ...
    def host_pressure(self) -> float | None:
        """The share of the last seconds in which some task waited for memory, 0 to 1."""


class Metrics:
    """One registry; there is none that is global, so that tests and several proxies do not meet in
    it.
    """

    def __init__(self, numbers: Numbers, listen: Callable[[Callable[[Event], None]], None]) -> None:
        """`listen` is the event log's."""
        self._registry = CollectorRegistry()
        listen(Lives(self._registry))
        self._requests = Counter(
            "moe_proxy_requests",
            "Requests that ended, by path as routed, model and HTTP status.",
            ("path", "model", "status"),
            registry=self._registry,
        )
        self._first_byte_s = Histogram(
            "moe_proxy_first_byte_seconds",
            "Time from a request to the first byte of its answer.",
            ("model",),
            buckets=FIRST_BYTE_BUCKETS_S,
            registry=self._registry,
        )
        self._bytes = Counter(
            "moe_proxy_answer_bytes",
            "Bytes of engines' answers.",
            ("model",),
            registry=self._registry,
        )
        self._tokens = Counter(
            "moe_proxy_tokens",
            "Tokens, by kind: read, cached (of prompts, and not read again), generated.",
            ("model", "kind"),
            registry=self._registry,
        )
        self._registry.register(_Snapshot(numbers))
        # To find one by its labels takes longer than to count.
        self._requests_of = cache(self._requests.labels)
        self._first_byte_s_of = cache(self._first_byte_s.labels)
        self._counters_of = cache(self._counters)

    def count(
        self,
        path: str,
        model: str,
        status: int,
        bytes_sent: int,
        first_byte_s: float | None,
        tokens: tuple[int | None, int | None, int | None] = (None, None, None),
    ) -> None:
        """One request has ended. `path` is a route's and `model` one that exists, so that there are
        few of each. `tokens`: of the whole prompt, cached ones of these, generated ones.
        """
        self._requests_of(path, model, status).inc()
        if model:
            prompt, cached, generated = (count or 0 for count in tokens)
            counts = (bytes_sent, max(prompt - cached, 0), cached, generated)
            for counter, count in zip(self._counters_of(model), counts, strict=True):
                counter.inc(count)
        if first_byte_s is not None:
            self._first_byte_s_of(model).observe(first_byte_s)

    def _counters(self, model: str) -> tuple[Counter, ...]:
        kinds = (self._tokens.labels(model, kind) for kind in ("read", "cached", "generated"))
        return self._bytes.labels(model), *kinds

    def text(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self._registry)


class _Snapshot(Collector):
    def __init__(self, numbers: Numbers) -> None:
        self._numbers = numbers

    def collect(self) -> Iterator[Metric]:
        numbers = self._numbers
        yield GaugeMetricFamily(
            "moe_proxy_queue_length",
            "Requests that wait for a backend.",
            value=numbers.queue_length(),
        )
        if (pressure := numbers.host_pressure()) is not None:
            yield GaugeMetricFamily(
                "moe_proxy_host_pressure",
                "Share of the last seconds in which a task waited for host memory.",
                value=pressure,
            )
        backends = list(numbers.backends())
        yield from _of_backends(backends)
        yield from _of_devices(numbers.devices(), backends)
        yield from _of_keys(numbers.keys())


def _of_backends(backends: Iterable[BackendNumbers]) -> Iterator[Metric]:
    labels = ("backend", "model")
    gauges = {
        "in_flight": GaugeMetricFamily(
            "moe_proxy_in_flight", "Requests that are being answered.", labels=labels
        ),
        "waiting": GaugeMetricFamily(
            "moe_proxy_waiting", "Requests that wait for this backend to load.", labels=labels
        ),
        "moe_cpu_layers": GaugeMetricFamily(
            "moe_proxy_moe_cpu_layers", "Layers whose experts are on the CPU.", labels=labels
        ),
        "tokens_per_second": GaugeMetricFamily(
            "moe_proxy_tokens_per_second", "Tokens generated per second.", labels=labels
        ),
    }
    states = GaugeMetricFamily(
        "moe_proxy_backend", "1 for the state that a backend is in.", labels=(*labels, "state")
    )
    for backend in backends:
        states.add_metric((backend.id, backend.model, backend.state), 1)
        for name, gauge in gauges.items():
            if (value := getattr(backend, name)) is not None:
                gauge.add_metric((backend.id, backend.model), value)
    yield states
    yield from gauges.values()


def _of_devices(
    devices: Iterable[DeviceNumbers], backends: Iterable[BackendNumbers]
) -> Iterator[Metric]:
    owners = GaugeMetricFamily(
        "moe_proxy_device_bytes",
        "A device's memory, by owner: ours, others, free.",
        labels=("device", "owner"),
    )
    totals = GaugeMetricFamily(
        "moe_proxy_device_total_bytes", "A device's memory.", labels=("device",)
    )
    for device in devices:
        if device.total is not None:
            totals.add_metric((device.name,), device.total)
        for owner in ("ours", "others", "free"):
            if (size := getattr(device, owner)) is not None:
                owners.add_metric((device.name, owner), size)
    held = GaugeMetricFamily(
        "moe_proxy_held_bytes",
        "Memory that backends hold, by what for.",
        labels=("device", "backend", "model", "kind"),
    )
    for backend in backends:
        for name, kinds in backend.held.items():
            for kind, size in kinds.items():
                held.add_metric((name, backend.id, backend.model, kind), size)
    yield from (totals, owners, held)


def _of_keys(keys: Iterable[KeyNumbers]) -> Iterator[Metric]:
    taken = CounterMetricFamily(
        "moe_proxy_key_requests", "Requests made with an API key.", labels=("key",)
    )
    refused = CounterMetricFamily(
        "moe_proxy_key_refused", "Requests beyond what a key may make.", labels=("key",)
    )
    for key in keys:
        taken.add_metric((key.name,), key.requests)
        refused.add_metric((key.name,), key.refused)
    yield from (taken, refused)
