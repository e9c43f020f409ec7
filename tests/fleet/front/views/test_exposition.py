"""Metrics of several nodes as one exposition."""

import shutil
import subprocess

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from proxy.fleet.front.views.exposition import merged, parsed, text

ODD = 'a "name"\\with\nall'


def node(requests: int) -> str:
    registry = CollectorRegistry()
    count = Counter("moe_proxy_requests", "Requests.", ("model",), registry=registry)
    count.labels(ODD).inc(requests)
    Gauge("moe_proxy_queue_length", "Waiting.", registry=registry).set(1)
    first = Histogram("moe_proxy_first_byte_seconds", "First.", ("model",), registry=registry)
    first.labels("m").observe(0.2)
    return generate_latest(registry).decode()


def exposition() -> str:
    told = {"attic": parsed(node(3)), "cellar": parsed(node(4))}
    return text(merged(told)).decode()


def test_each_sample_has_its_node_and_nothing_else_has_changed() -> None:
    found = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for metric in text_string_to_metric_families(exposition())
        for sample in metric.samples
        if not sample.name.endswith("_created")
    }
    expected = {
        (sample.name, tuple(sorted({**sample.labels, "node": name}.items()))): sample.value
        for name, said in (("attic", node(3)), ("cellar", node(4)))
        for metric in text_string_to_metric_families(said)
        for sample in metric.samples
        if not sample.name.endswith("_created")
    }
    assert found == expected
    assert found["moe_proxy_requests_total", (("model", ODD), ("node", "cellar"))] == 4


def test_each_metric_is_described_once() -> None:
    lines = exposition().splitlines()
    heads = [line.split()[1:3] for line in lines if line.startswith("#")]
    assert ["TYPE", "moe_proxy_requests_total"] in heads
    assert len(heads) == len({tuple(head) for head in heads})


def test_prometheus_takes_it() -> None:
    if shutil.which("promtool") is None:
        pytest.skip("there is no promtool here")
    done = subprocess.run(
        ("promtool", "check", "metrics"), input=exposition(), capture_output=True, text=True
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_name_that_is_of_another_type_elsewhere_spoils_nothing() -> None:
    told = {
        "new": parsed("# TYPE m gauge\nm 1\n"),
        "old": parsed("# TYPE m_total counter\nm_total 2\n# TYPE n gauge\nn 5\n"),
    }
    made = text(merged(told)).decode().splitlines()
    assert [line for line in made if not line.startswith("#")] == [
        'm{node="new"} 1.0',
        'n{node="old"} 5.0',
    ]


def test_what_is_no_exposition_is_told() -> None:
    with pytest.raises(ValueError, match="invalid"):
        parsed("<html>moe_proxy")
