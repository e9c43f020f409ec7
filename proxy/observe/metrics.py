"""Numbers for Prometheus: requests are counted as they end, everything else is read when it is
asked for.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

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


class Metrics:
    """One registry; there is none that is global, so that tests and several proxies do not meet in
    it.
    """

    def __init__(
        self, backends: Callable[[], Iterable[BackendNumbers]], queue_length: Callable[[], int]
    ) -> None:
        self._registry = CollectorRegistry()
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
        self._registry.register(_Snapshot(backends, queue_length))

    def count(
        self, path: str, model: str, status: int, bytes_sent: int, first_byte_s: float | None
    ) -> None:
        """One request has ended. `path` is a route's and `model` one that exists, so that there are
        few of each.
        """
        self._requests.labels(path, model, str(status)).inc()
        if model:
            self._bytes.labels(model).inc(bytes_sent)
        if first_byte_s is not None:
            self._first_byte_s.labels(model).observe(first_byte_s)

    def text(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self._registry)


class _Snapshot(Collector):
    def __init__(
        self, backends: Callable[[], Iterable[BackendNumbers]], queue_length: Callable[[], int]
    ) -> None:
        self._backends = backends
        self._queue_length = queue_length

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "moe_proxy_queue_length",
            "Requests that wait for a backend.",
            value=self._queue_length(),
        )
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
        for backend in self._backends():
            states.add_metric((backend.id, backend.model, backend.state), 1)
            for name, gauge in gauges.items():
                if (value := getattr(backend, name)) is not None:
                    gauge.add_metric((backend.id, backend.model), value)
        yield states
        yield from gauges.values()
