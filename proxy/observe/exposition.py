"""What is counted and what is asked now, as Prometheus reads it. Loaded at the first scrape."""

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from proxy.observe.metrics import BackendNumbers, DeviceNumbers, KeyNumbers, Numbers
from proxy.observe.tally import Spread, Tally


def text(tallies: Iterable[Tally | Spread], numbers: Numbers) -> bytes:
    """Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(tallies, numbers))
    return generate_latest(registry)


def _written(bound: float) -> str:
    return "+Inf" if bound == float("inf") else str(float(bound))


def family_of(tally: Tally | Spread) -> Metric:
    if isinstance(tally, Tally):
        counter = CounterMetricFamily(tally.name, tally.text, labels=tally.labels)
        for labels, count in tally.counts.items():
            counter.add_metric(labels, count)
        return counter
    histogram = HistogramMetricFamily(tally.name, tally.text, labels=tally.labels)
    for labels, total in tally.sums.items():
        buckets = [(_written(bound), count) for bound, count in tally.up_to(labels)]
        histogram.add_metric(labels, buckets, total)
    return histogram


class _Collected(Collector):
    def __init__(self, tallies: Iterable[Tally | Spread], numbers: Numbers) -> None:
        self._tallies, self._numbers = tallies, numbers

    def collect(self) -> Iterator[Metric]:
        numbers = self._numbers
        yield from map(family_of, self._tallies)
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
