"""What is counted, and how Prometheus reads it."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.samples import Sample

from proxy.observe.exposition import family_of
from proxy.observe.tally import Spread, Tally


def test_counts_are_by_labels() -> None:
    tally = Tally("t", "Text.", ("model", "kind"))
    for labels, count in ((("a", "x"), 1), (("a", "y"), 2), (("a", "x"), 3)):
        tally.add(labels, count)

    assert {(s.name, *s.labels.values()): s.value for s in family_of(tally).samples} == {
        ("t_total", "a", "x"): 4,
        ("t_total", "a", "y"): 2,
    }


def test_sizes_are_told_as_by_the_library_s_own_histogram() -> None:
    """Those that are as large as a bound, and larger than all, too."""
    bounds, registry = (0.005, 0.5, 1, 60), CollectorRegistry()
    ours = Spread("s", "Text.", ("model",), bounds)
    theirs = Histogram("s", "Text.", ("model",), buckets=bounds, registry=registry)
    for value in (0.001, 0.005, 0.7, 1, 1.5, 100):
        ours.add(("m",), value)
        theirs.labels("m").observe(value)
    (expected,) = registry.collect()

    def told(samples: Iterable[Sample]) -> list[tuple[str, dict[str, str], float]]:
        return [(s.name, s.labels, s.value) for s in samples if not s.name.endswith("_created")]

    assert told(family_of(ours).samples) == told(expected.samples)


def test_what_nobody_has_counted_has_no_samples() -> None:
    assert list(family_of(Spread("s", "Text.", ("model",), (1,))).samples) == []
