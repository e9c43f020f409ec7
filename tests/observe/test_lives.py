"""What the metrics count of starts, ends and moves: from the events of an event log."""

import pytest

from proxy.observe.events import EventLog
from proxy.observe.exposition import family_of
from proxy.observe.lives import Lives, unload_reason


class Counted:
    def __init__(self) -> None:
        self.lives, self.events = Lives(), EventLog()
        self.events.listen(self.lives)

    def tell(self, kind: str, was: str = "", why: str = "", generation: int = 1) -> None:
        about = {"backend": "b1", "generation": generation, "model": "m"}
        self.events.publish(kind, **about, was=was, why=why)

    def total(self, name: str, **labels: str) -> float | None:
        wanted = {"model": "m", **labels}
        samples = (sample for each in self.lives.tallies for sample in family_of(each).samples)
        found = (s.value for s in samples if (s.name, s.labels) == (name, wanted))
        return next(found, None)


@pytest.fixture
def counted() -> Counted:
    return Counted()


def begin(counted: Counted, generation: int = 1) -> None:
    counted.tell("backend_starting", generation=generation)
    counted.tell("backend_ready", was="starting", why="loaded", generation=generation)


@pytest.mark.parametrize(
    ("why", "reason"),
    [
        *[("keep_alive", "idle"), ("unload", "requested"), ("room", "made_way")],
        *[("rpc", "made_way"), ("drain", "shutdown")],
    ],
)
def test_one_that_was_told_to_go(counted: Counted, why: str, reason: str) -> None:
    begin(counted)
    counted.tell("backend_draining", was="ready", why=why)
    counted.tell("backend_stopping", was="draining", why="drained")
    counted.tell("backend_gone", was="stopping", why="stopped")

    assert counted.total("moe_proxy_loads_total", outcome="loaded") == 1
    assert counted.total("moe_proxy_unloads_total", reason=reason) == 1


def test_one_that_crashed_and_its_successor(counted: Counted) -> None:
    begin(counted)
    counted.tell("backend_gone", was="ready", why="the worker ended by itself (signal 9)")
    assert counted.total("moe_proxy_worker_restarts_total") is None

    begin(counted, generation=2)

    assert counted.total("moe_proxy_unloads_total", reason="crashed") == 1
    assert counted.total("moe_proxy_worker_restarts_total") == 1


def test_one_that_does_not_come_up(counted: Counted) -> None:
    counted.tell("backend_starting")
    counted.tell("backend_gone", was="starting", why="no such file")

    assert counted.total("moe_proxy_loads_total", outcome="failed") == 1
    assert counted.total("moe_proxy_unloads_total", reason="crashed") is None


def test_one_that_nobody_wants_any_more_while_it_loads(counted: Counted) -> None:
    counted.tell("backend_starting")
    counted.tell("backend_stopping", was="starting", why="unload")
    counted.tell("backend_gone", was="stopping", why="stopped")

    assert counted.total("moe_proxy_loads_total", outcome="unwanted") == 1
    assert counted.total("moe_proxy_unloads_total", reason="requested") is None


@pytest.mark.parametrize(
    ("told", "message", "reason"),
    [
        (None, "the worker ended by itself (signal 9)", "crashed"),
        (None, "CUDA error: out of memory", "out_of_memory"),
        (None, "ggml: failed to allocate buffer of size 9", "out_of_memory"),
        ("the worker hangs: it has not answered", "stopped", "crashed"),
        ("unload", "out of memory", "requested"),
    ],
)
def test_why_it_went(told: str | None, message: str, reason: str) -> None:
    assert unload_reason(told, message) == reason


def test_moves(counted: Counted) -> None:
    move = {"layers": 3, "bytes": 300, "gate_s": 0.004}
    counted.events.publish("moved", backend="b1", model="m", why="request", **move)
    counted.events.publish("moved", backend="b1", model="m", why="request", **move)

    for name, value in {
        "moves_total": 2,
        "moved_layers_total": 6,
        "moved_bytes_total": 600,
        "pause_seconds_sum": 0.008,
    }.items():
        assert counted.total(f"moe_proxy_{name}", reason="request") == pytest.approx(value)
