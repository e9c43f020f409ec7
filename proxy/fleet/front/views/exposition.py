"""The metrics of all nodes in one text, each number with its node. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

LABEL: Final = "node"


def parsed(text: str) -> list[Metric]:
    """The metrics of one node. Raises ValueError for what is no exposition."""
    return list(text_string_to_metric_families(text))


def merged(told: Mapping[str, Iterable[Metric]]) -> Iterator[Metric]:
    """Each metric once, with the samples of all nodes. Where nodes say that a name is of another
    type, as releases may, it is of the first one's, and the others' samples are left out."""
    found: dict[str, Metric] = {}
    for node, metrics in told.items():
        for metric in metrics:
            known = found.get(metric.name)
            if known is None:
                known = found[metric.name] = Metric(
                    metric.name, metric.documentation, metric.type, metric.unit
                )
            if known.type == metric.type:
                known.samples.extend(_labelled(sample, node) for sample in metric.samples)
    yield from found.values()


def text(metrics: Iterable[Metric]) -> bytes:
    """In Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Given(metrics))
    return generate_latest(registry)


class _Given(Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = tuple(metrics)

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics


def _labelled(sample: Sample, node: str) -> Sample:
    return sample._replace(labels={LABEL: node, **sample.labels})
